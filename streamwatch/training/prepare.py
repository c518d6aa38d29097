"""`streamwatch train prepare DIR`: labels a folder of portraits with the bundled detector, to train on it.

Writes `DIR/labels.npz` in the layout of the development data. There is no face mesh: `landmarks` hold the ellipse
through the six keypoints, and the keypoints themselves, so that masks and warps work as they do with a mesh.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from streamwatch.domain import Image
from streamwatch.inference.blazeface import load_blazeface
from streamwatch.inference.faces import Detection, FaceFinder, FinderSettings
from streamwatch.inference.weights import bundled_directory, load_tensors, read_manifest
from streamwatch.protocols import FindOptions
from streamwatch.training.faces import LABELS, SIXTEENTHS, DatasetError, read_picture, write_arrays
from streamwatch.training.geometry import FaceGeometry

log = logging.getLogger(__name__)
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
SHARP_LAPLACIAN = 60.0
"""Variance of the Laplacian inside the box from which on a picture counts as sharp: agrees with the development
data's own marks for 91 % of 600 pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPicture:
    """One picture of the folder and its largest face."""

    name: str
    split: str
    sharp: bool
    face: Detection


def bundled_finder() -> FaceFinder:
    """The bundled detector with its own threshold, on the CPU. Raises WeightsError."""
    directory = bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    model = load_blazeface(load_tensors(directory / record.file, record.sha256))
    return FaceFinder(model, settings=FinderSettings(score_threshold=record.score_threshold))


def label_folder(
    folder: Path, finder: FaceFinder, val_share: float, min_size: float
) -> Iterator[LabelledPicture | tuple[str, str]]:
    """Each picture below `folder` with its largest face, or its name and the reason why it is left out."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DatasetError(f"{folder}: no pictures ({', '.join(sorted(SUFFIXES))})")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            image = read_picture(path)
        except DatasetError:
            yield name, "unreadable"
            continue
        faces = finder.find([image], [FindOptions(min_size=min_size)])[0]
        if not faces:
            yield name, "no face"
            continue
        face = max(faces, key=lambda found: found.box.height)
        yield LabelledPicture(name, split_of(name, val_share), _is_sharp(image, face), face)


def split_of(name: str, val_share: float) -> str:
    """`train` or `val`, the same on every run. The pictures of one subfolder (one person's, say) stay together."""
    key = name.rsplit("/", 1)[0] if "/" in name else name
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
    return "val" if place < val_share else "train"


def _is_sharp(image: Image, face: Detection) -> bool:
    x0, y0, x1, y1 = (max(0, int(value)) for value in face.box)
    grey = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    return bool(cv2.Laplacian(grey, cv2.CV_32F).var() > SHARP_LAPLACIAN)


def write_labels(path: Path, pictures: list[LabelledPicture]) -> None:
    """The table as the loaders read it: coordinates in sixteenths of a pixel."""
    geometries = [FaceGeometry.from_keypoints(p.face.box, p.face.keypoints) for p in pictures]
    points = np.stack([np.concatenate([geometry.outline, geometry.points]) for geometry in geometries])
    write_arrays(
        path,
        compressed=True,
        name=np.array([p.name for p in pictures]),
        source=np.array(["prepared"] * len(pictures)),
        split=np.array([p.split for p in pictures]),
        sharp=np.array([p.sharp for p in pictures]),
        score=np.array([p.face.score for p in pictures], np.float32),
        box=_sixteenths(np.array([p.face.box for p in pictures])),
        keypoints=_sixteenths(np.stack([p.face.keypoints for p in pictures])),
        landmarks=_sixteenths(points),
    )


def _sixteenths(pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.signedinteger]:
    units = np.round(pixels * SIXTEENTHS)
    fits = np.abs(units).max() <= np.iinfo(np.int16).max  # pictures beyond 2047 px need more
    return units.astype(np.int16 if fits else np.int32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="portraits, one person each; subfolders are read too")
    parser.add_argument("--val-share", type=float, default=0.1, help="share of the pictures kept for validation")
    parser.add_argument("--min-size", type=float, default=64.0, help="smallest face, pixels of box height")
    parser.add_argument("--force", action="store_true", help="replace labels that are there already")
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    target = args.folder / LABELS
    if target.exists() and not args.force:
        raise DatasetError(f"{target}: is there already; --force replaces it")
    torch.set_num_threads(args.threads)
    pictures: list[LabelledPicture] = []
    left_out: Counter[str] = Counter()
    for result in label_folder(args.folder, bundled_finder(), args.val_share, args.min_size):
        if isinstance(result, LabelledPicture):
            pictures.append(result)
        else:
            left_out[result[1]] += 1
            log.info("left out %s: %s", *result)
    if not pictures:
        raise DatasetError(
            f"{args.folder}: no face of {args.min_size:g} px or more in {sum(left_out.values())} pictures"
        )
    write_labels(target, pictures)
    splits = Counter(picture.split for picture in pictures)
    reasons = "".join(f", {count} left out ({reason})" for reason, count in sorted(left_out.items()))
    print(f"{target}: {splits['train']} pictures to train, {splits['val']} to validate{reasons}")
    return 0
