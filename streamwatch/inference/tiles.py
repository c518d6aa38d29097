"""How a frame is cut into the detector's square inputs: our tilings, and the seed's tiles and margin.

Ours shrinks the whole frame once and slices the inputs out of the small copy, so that overlap costs no resampling; one
more input holds the whole frame, for faces larger than a tile. Together they leave no pixel of any frame unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from streamwatch.domain import Box, Floats, Image
from streamwatch.inference.blazeface import INPUT_SIZE

PAD_VALUE = 127
SEED_SPLIT = 720


class Tile(NamedTuple):
    """A square of the frame in its pixels."""

    x: int
    y: int
    side: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """A rule that cuts any frame: tiles of `side` pixels (at most the frame's short side), neighbours sharing at least
    `overlap` of a side, together with the whole frame no more than `max_tiles` (the side grows until they fit)."""

    side: int
    overlap: float = 0.16
    max_tiles: int = 24


TILINGS = {"default": Tiling(side=480, max_tiles=12), "fine": Tiling(side=320, max_tiles=40)}


@dataclass(frozen=True, slots=True, eq=False)
class TileBatch:
    """Inputs cut from one frame: `pixels` (N, 128, 128, 3) uint8; in frame pixels as x, y the corner of each input,
    `origins` (N, 2), and the extent of one input pixel, `scales` (N, 2); `regions` (N, 4), what each input shows."""

    pixels: Image
    origins: Floats
    scales: Floats
    regions: Floats

    def __len__(self) -> int:
        return len(self.pixels)


def tile_starts(length: int, side: int, overlap: float) -> list[int]:
    """Evenly spaced starts of the fewest tiles of `side` that cover `length`, each sharing `overlap` of it or more."""
    if length <= side:
        return [0]
    shared = round(side * overlap)
    count = -(-(length - shared) // (side - shared))
    return [round(float(start)) for start in np.linspace(0, length - side, count)]


def cut(image: Image, tiling: Tiling) -> TileBatch:
    """Shrink a frame (H, W, 3) and cut it into the detector's inputs; of several, the last is the whole frame."""
    height, width = image.shape[:2]
    small_width, small_height = _shrunk_size(width, height, tiling)
    small = _resize(_halved(image, small_width, small_height), small_width, small_height)
    places = [
        (x, y)
        for y in tile_starts(small_height, INPUT_SIZE, tiling.overlap)
        for x in tile_starts(small_width, INPUT_SIZE, tiling.overlap)
    ]
    inputs = [_padded(small[y : y + INPUT_SIZE, x : x + INPUT_SIZE]) for x, y in places]
    origins = [(x * width / small_width, y * height / small_height) for x, y in places]
    scales = [(width / small_width, height / small_height)] * len(places)
    if len(places) > 1:
        shrink = INPUT_SIZE / max(small_width, small_height)
        whole = _resize(small, max(1, round(small_width * shrink)), max(1, round(small_height * shrink)))
        inputs.append(_padded(whole))
        origins.append((0.0, 0.0))
        scales.append((width / whole.shape[1], height / whole.shape[0]))
    corner, scale = np.array(origins, np.float32), np.array(scales, np.float32)
    far = np.minimum(corner + scale * INPUT_SIZE, np.array([width, height], np.float32))
    return TileBatch(np.stack(inputs), corner, scale, np.concatenate([corner, far], 1))


def _shrunk_size(width: int, height: int, tiling: Tiling) -> tuple[int, int]:
    """Width and height of the small copy: a tile's side becomes the detector's input."""
    side = float(min(tiling.side, width, height))
    while True:
        size = max(1, round(width * INPUT_SIZE / side)), max(1, round(height * INPUT_SIZE / side))
        columns, rows = (len(tile_starts(length, INPUT_SIZE, tiling.overlap)) for length in size)
        if columns * rows == 1 or columns * rows + 1 <= tiling.max_tiles:
            return size
        side *= 1.1


def _halved(image: Image, width: int, height: int) -> Image:
    """Halved while it stays larger than asked: exact halves are several times faster than one odd area resampling."""
    while image.shape[1] % 2 == 0 and image.shape[0] % 2 == 0 and image.shape[1] >= 2 * width:
        image = _resize(image, image.shape[1] // 2, image.shape[0] // 2)
    return image


def _resize(image: Image, width: int, height: int) -> Image:
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _padded(image: Image) -> Image:
    if image.shape[:2] == (INPUT_SIZE, INPUT_SIZE):
        return image
    padded = np.full((INPUT_SIZE, INPUT_SIZE, 3), PAD_VALUE, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def seed_tiles(height: int, width: int) -> list[Tile]:
    """DF-Spot's tiles, row by row: side min(H, W, 720), at most three or so along each axis.

    Frames wider than 2160 px have bands that no tile sees: the seed's behaviour, kept for its checkpoints only.
    """
    split = min(height, width, SEED_SPLIT)
    starts = [_seed_starts(length, split) for length in (height, width)]
    return [Tile(x, y, split) for y in starts[0] for x in starts[1]]


def _seed_starts(length: int, split: int) -> list[int]:
    step = (length - split) // 2
    count = (length - split) // step + 1 if step else 1
    return [index * step for index in range(count)]


def seed_margin(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """DF-Spot's crop (x0, y0, x1, y1) around a face box: a fifth of its height on three sides, two fifths above."""
    offset = round(0.2 * box.height)
    x0, y0 = max(0.0, box.x0 - offset), max(0.0, box.y0 - 2 * offset)
    x1, y1 = min(float(width), box.x1 + offset), min(float(height), box.y1 + offset)
    return int(x0), int(y0), int(x1), int(y1)


def resample_tile(image: Image, tile: Tile) -> npt.NDArray[np.uint8]:
    """One tile of a frame, area-resampled to the detector's input."""
    return _resize(image[tile.y : tile.y + tile.side, tile.x : tile.x + tile.side], INPUT_SIZE, INPUT_SIZE)
