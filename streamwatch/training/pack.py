"""One compact file of labelled faces, for training on another machine: re-encoded pictures and their labels.

The loop reads a pack wherever it reads a folder of labelled faces.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from streamwatch.domain import Image
from streamwatch.errors import ConfigError
from streamwatch.training.faces import FaceSet, PackedFaces, load_labelled_faces, save_pack
from streamwatch.training.streamlook import HAS_H264, Shot

if HAS_H264:
    from streamwatch.training.h264 import through_h264

LARGEST_PACK = 30_000_000
LARGEST_SIDE = 288
RECORDED_CRF = (18, 34)


def shrink(image: Image, scale_to: int = LARGEST_SIDE) -> tuple[Image, float]:
    """The picture with its longer side at most `scale_to`, and the factor."""
    factor = min(1.0, scale_to / max(image.shape[:2]))
    if factor == 1.0:
        return image, 1.0
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), factor


def pack(faces: FaceSet, quality: int = 92, largest: int = LARGEST_PACK, recorded: float = 0.0) -> PackedFaces:
    """As many evenly chosen faces as fit into `largest` bytes, as JPEG. A share of them, `recorded`, comes once more as

    it looks after real H.264, which cannot be made where PyAV is missing: a machine that trains there has it all the
    same."""
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality: must be 1 to 100, got {quality}")
    if not 0 <= recorded <= 1:
        raise ConfigError(f"recorded: must be 0 to 1, got {recorded}")
    if recorded > 0 and not HAS_H264:
        raise ConfigError("recorded: pictures can be put through H.264 only where PyAV is installed")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(faces))
    pictures: list[bytes] = []
    rows: list[int] = []
    boxes, points = [], []
    size = 0
    for row in order:
        small, factor = shrink(faces.images[row])
        variants = [small]
        if rng.random() < recorded:
            variants.append(through_h264(small, Shot.draw(rng, *RECORDED_CRF)))
        data = [_encode(variant, quality) for variant in variants]
        geometry = faces.geometries[row]
        size += sum(map(len, data)) + len(data) * (4 * geometry.points.size + 32)
        if size > largest:
            break
        pictures += data
        rows += [int(row)] * len(data)
        boxes += [geometry.box * factor] * len(data)
        points += [geometry.points * factor] * len(data)
    if not rows:
        raise ConfigError(f"largest: {largest} bytes hold no face")
    return PackedFaces(pictures, np.stack(boxes), np.stack(points), [faces.names[row] for row in rows])


def _encode(image: Image, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ConfigError(f"a {image.shape} picture cannot be encoded")
    return data.tobytes()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of labelled faces (with labels.npz)")
    parser.add_argument("--output", type=Path, required=True, help="the pack, a .npz file")
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--quality", type=int, default=92, help="JPEG quality, 1 to 100")
    parser.add_argument(
        "--recorded", type=float, default=0.0, help="share of faces that come once more after real H.264"
    )
    parser.add_argument("--largest", type=int, default=LARGEST_PACK, help="size in bytes that it may have")


def run(args: argparse.Namespace) -> int:
    packed = pack(load_labelled_faces(args.data_dir, args.split), args.quality, args.largest, args.recorded)
    save_pack(packed, args.output)
    faces, size = len(set(packed.names)), args.output.stat().st_size / 1e6
    print(f"{args.output}: {len(packed.names)} pictures of {faces} faces, {size:.1f} MB")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(words))


if __name__ == "__main__":
    raise SystemExit(main())
