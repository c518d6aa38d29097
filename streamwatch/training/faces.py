"""Real faces for training: decoded once, kept as uint8 in memory, with their geometry."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamwatch.domain import Floats, Image
from streamwatch.errors import StreamWatchError
from streamwatch.training.geometry import FaceGeometry

LABELS = "labels.npz"
SIXTEENTHS = 16.0
LARGEST_SIDE = 640
"""Of a picture in memory, in pixels."""
SURROUNDINGS = 3.0
"""What is kept of a larger one, in heights of its face: more than a shifted and turned view reaches, and so much that

at LARGEST_SIDE a view is still no enlargement."""
UNREADABLE = (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises of an archive that is none, or was cut off."""


class DatasetError(StreamWatchError):
    """A data set cannot be read; the message names the file and what is wrong with it."""

    exit_code = 3


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """Pictures (RGB, any size), one face's geometry each, and the pose used to find donors (rows of shape (N, D))."""

    images: Sequence[Image]
    geometries: Sequence[FaceGeometry]
    names: Sequence[str]
    poses: Floats

    def __len__(self) -> int:
        return len(self.images)


def faces_folder(data: Path) -> Path:
    """Where a data directory has its labelled faces: DATA/faces, or DATA itself. DatasetError names both."""
    for folder in (data / "faces", data):
        if (folder / LABELS).exists():
            return folder
    raise DatasetError(f"{data}: has no {LABELS}, neither there nor in faces/; `streamwatch train prepare` makes it")


def load_labelled_faces(folder: Path, split: str, limit: int | None = None, sharp_only: bool = True) -> FaceSet:
    """The rows of `folder`/labels.npz of one split ('train' or 'val'), or a pack (.npz) whole; `limit` takes an even

    sample. Raises DatasetError naming the file that is missing, damaged or without rows.
    """
    if folder.is_file():
        return _load_pack(folder, limit)
    folder = faces_folder(folder)
    table = _read_labels(folder / LABELS)
    wanted = table["sharp"].astype(bool) if sharp_only else np.ones(len(table["sharp"]), bool)
    of_split = table["split"] == split
    rows = np.flatnonzero(of_split & wanted)
    if len(rows) == 0:
        why = f"all {int(of_split.sum())} pictures of split {split!r} are blurred" if of_split.any() else ""
        raise DatasetError(f"{folder / LABELS}: {why or f'no rows of split {split!r}'}")
    if limit is not None and limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit, dtype=int)]
    images, geometries = [], []
    for row in rows:
        name = str(table["name"][row])
        geometry = _geometry(table["box"][row], table["landmarks"][row], f"{folder / LABELS}: {name}")
        image, geometry = _bounded(read_picture(folder / name), geometry)
        images.append(image)
        geometries.append(geometry)
    return FaceSet(images, geometries, [str(n) for n in table["name"][rows]], poses_of(geometries))


@dataclass(frozen=True, slots=True, eq=False)
class PackedFaces:
    """Encoded pictures with boxes (N, 4) and points (N, K, 2) in their pixels."""

    pictures: Sequence[bytes]
    boxes: Floats
    points: Floats
    names: Sequence[str]


def save_pack(packed: PackedFaces, path: Path) -> None:
    """Write a pack; coordinates are int16 sixteenths of a pixel."""
    ends = np.cumsum([len(picture) for picture in packed.pictures])
    write_arrays(
        path,
        data=np.frombuffer(b"".join(packed.pictures), np.uint8),
        ends=ends,
        box=np.round(packed.boxes * SIXTEENTHS).astype(np.int16),
        landmarks=np.round(packed.points * SIXTEENTHS).astype(np.int16),
        name=np.array(packed.names),
    )


def read_arrays(path: Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of an archive; raises what is in UNREADABLE. (numpy leaves the file of a damaged one open.)"""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in names}


def write_arrays(path: Path, *, compressed: bool = False, **arrays: npt.ArrayLike) -> None:
    """An archive of arrays, under exactly this name; a crash while writing leaves what was there before."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:  # numpy would give a name without .npz that ending
        (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def _load_pack(path: Path, limit: int | None) -> FaceSet:
    try:
        data, ends, boxes, points, names = read_arrays(path, "data", "ends", "box", "landmarks", "name").values()
    except UNREADABLE as error:
        raise DatasetError(f"{path}: cannot be read as a pack of faces: {error}") from error
    rows = np.linspace(0, len(ends) - 1, min(limit or len(ends), len(ends)), dtype=int)
    starts = np.concatenate(([0], ends[:-1]))
    images, geometries = [], []
    for row in rows:
        picture = cv2.imdecode(data[starts[row] : ends[row]], cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{path}: picture {row} is damaged")
        images.append(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8))
        geometries.append(_geometry(boxes[row], points[row], f"{path}: picture {row}"))
    return FaceSet(images, geometries, [str(names[row]) for row in rows], poses_of(geometries))


def _geometry(box: npt.NDArray[np.generic], points: npt.NDArray[np.generic], where: str) -> FaceGeometry:
    """Of coordinates in sixteenths; DatasetError where they are no face's."""
    pixels = np.asarray(box, np.float32) / SIXTEENTHS
    check_box(pixels, where)
    try:
        return FaceGeometry.from_landmarks(pixels, np.asarray(points, np.float32) / SIXTEENTHS)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error


def check_box(box: Floats, where: str) -> None:
    """DatasetError where a face's box has no size."""
    x0, y0, x1, y1 = box.tolist()
    if not (np.isfinite(box).all() and x0 < x1 and y0 < y1):
        raise DatasetError(f"{where}: the box {box.tolist()} has no size")


def _bounded(image: Image, geometry: FaceGeometry) -> tuple[Image, FaceGeometry]:
    """Photographs as cameras save them do not fit into memory by the thousand: the face with its surroundings, shrunk

    where it is still too large."""
    if max(image.shape[:2]) <= LARGEST_SIDE:
        return image, geometry
    box = geometry.box
    reach = max(0.5 * SURROUNDINGS * float(box[3] - box[1]), float(LARGEST_SIDE) / 2)
    (left, top), (right, bottom) = (
        np.clip((box[:2] + box[2:]) / 2 + side, 0, image.shape[1::-1]).astype(int).tolist() for side in (-reach, reach)
    )
    cut = image[top:bottom, left:right]
    if not cut.size:  # a box beside its picture, which training sees as edges
        return image, geometry
    factor = min(1.0, LARGEST_SIDE / max(cut.shape[:2]))
    size = (max(1, round(cut.shape[1] * factor)), max(1, round(cut.shape[0] * factor)))
    small = cv2.resize(cut, size, interpolation=cv2.INTER_AREA) if factor < 1 else cut.copy()
    return np.asarray(small, np.uint8), geometry.warped(
        np.array([(factor, 0, -factor * left), (0, factor, -factor * top)])
    )


def _read_labels(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        return read_arrays(path, "name", "split", "sharp", "box", "landmarks")
    except UNREADABLE as error:
        raise DatasetError(f"{path}: cannot be read as face labels: {error}") from error


def read_picture(path: Path) -> Image:
    """A picture as RGB uint8; DatasetError names a file that is missing or is no picture."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DatasetError(f"{path}: missing, or not a picture")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def poses_of(geometries: Sequence[FaceGeometry]) -> Floats:
    """Each face's points, centred and scaled to unit size: near rows look the same way."""
    points = np.stack([g.points[:: max(1, len(g.points) // 24)] for g in geometries])
    points = points - points.mean(1, keepdims=True)
    size = np.sqrt((points**2).sum((1, 2), keepdims=True)) + 1e-6
    return np.asarray((points / size).reshape(len(geometries), -1), np.float32)


def pick_donor(faces: FaceSet, index: int, rng: np.random.Generator, tries: int = 12) -> int:
    """Of a few random other faces, the one that looks the most nearly the same way."""
    candidates = rng.integers(0, len(faces), tries)
    candidates = candidates[candidates != index]
    if len(candidates) == 0:
        return (index + 1) % len(faces)
    distance = ((faces.poses[candidates] - faces.poses[index]) ** 2).sum(1)
    return int(candidates[int(distance.argmin())])
