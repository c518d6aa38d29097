"""Frames in, faces out: one batched call of the detector for the tiles of many frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from streamwatch.domain import Box, Floats, Image
from streamwatch.inference.blazeface import (
    INPUT_SIZE,
    KEYPOINT_COUNT,
    BlazeFace,
    decode,
    drop_nested,
    make_anchors,
    normalise,
    scores_of,
    weighted_nms,
)
from streamwatch.inference.devices import largest_batch
from streamwatch.inference.folding import folded
from streamwatch.inference.tiles import TILINGS, TileBatch, Tiling, cut, resample_tile, seed_tiles
from streamwatch.protocols import FindOptions

SEED_THRESHOLD = 0.75
SMALL_FACE, SMALL_FACE_FACTOR = 64.0, 0.8
"""Faces lower than this many pixels, which are shown but by default not judged, need only this share of the threshold:
the detector is less sure of them, and a false one cannot raise an alarm."""
CPU_BATCH = 16
"""Inputs in one call of the network for each thread of a CPU."""
TRUSTED_SIZE = 40.0
"""Input pixels from which on a larger view of the same face makes its box no more exact."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """A face: box in pixels of the given image (it may reach outside), keypoints (6, 2) there, score 0 to 1."""

    box: Box
    keypoints: Floats
    score: float


@dataclass(frozen=True, slots=True)
class FinderSettings:
    """How faces are sought. `score_threshold` belongs to the weights: the manifest has the one for the bundled ones."""

    tiling: Tiling = TILINGS["default"]
    score_threshold: float = 0.5
    nms_threshold: float = 0.3
    max_batch: int = 64
    """Inputs in one call of the network; more are run in several. On a CPU it is CPU_BATCH for each thread at most."""


class FaceFinder:
    """BlazeFace over the tiles of frames. Not thread-safe: it belongs to the thread of its device."""

    def __init__(
        self, detector: BlazeFace, device: torch.device | str = "cpu", settings: FinderSettings | None = None
    ) -> None:
        self.settings = settings or FinderSettings()
        self._device = torch.device(device)
        example = torch.linspace(-1, 1, 3 * INPUT_SIZE**2, device=self._device).view(1, 3, INPUT_SIZE, INPUT_SIZE)
        lighter = folded(detector.to(self._device).eval(), example)
        self.detector = lighter.to(memory_format=torch.channels_last)
        self._anchors = make_anchors()

    def find(self, images: Sequence[Image], options: Sequence[FindOptions] | None = None) -> list[list[Detection]]:
        """The faces of each uint8 RGB image (H, W, 3), best first; `options` gives each image its own limits.

        Raises ValueError for an image of another kind.
        """
        wanted = options if options is not None else [FindOptions()] * len(images)
        if len(wanted) != len(images):
            raise ValueError(f"{len(images)} images, but {len(wanted)} options")
        for index, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"image {index}: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
        batches = [cut(image, self.settings.tiling) for image in images]
        threshold = self.settings.score_threshold
        candidates = [_sure(rows, threshold) for rows in self._candidates(batches, SMALL_FACE_FACTOR * threshold)]
        found = []
        for image, batch, rows, option in zip(images, batches, candidates, wanted, strict=True):
            merged = weighted_nms(rows[:, :-1], self.settings.nms_threshold, _trust(rows, batch))
            detections = [_detection(face) for face in drop_nested(merged)]
            size = (image.shape[1], image.shape[0])
            found.append([face for face in detections if _counts(face, size, option)][: option.max_faces])
        return found

    def _candidates(self, batches: Sequence[TileBatch], threshold: float) -> list[Floats]:
        """For each frame its candidates (N, 18): coordinates in frame pixels (ymin first), score, index of input."""
        if not batches:
            return []
        regressors, scores = self._network(np.concatenate([batch.pixels for batch in batches]))
        candidates = []
        start = 0
        for batch in batches:
            part = slice(start, start + len(batch))
            start += len(batch)
            tile, anchor = np.nonzero(scores[part] >= threshold)
            raw = torch.from_numpy(regressors[part][tile, anchor])
            relative = decode(raw, self._anchors[torch.from_numpy(anchor)]).numpy() * INPUT_SIZE
            pixels = _to_frame(relative, batch.origins[tile], batch.scales[tile])
            score = scores[part][tile, anchor][:, None]
            candidates.append(np.concatenate([pixels, score, tile[:, None].astype(np.float32)], 1))
        return candidates

    def _largest_batch(self) -> int:
        return min(self.settings.max_batch, largest_batch(self._device, CPU_BATCH))

    def _network(self, pixels: Image) -> tuple[Floats, Floats]:
        """Raw regressors (N, 896, 16) and scores (N, 896) of inputs (N, 128, 128, 3)."""
        parts = []
        with torch.inference_mode():
            for chunk in torch.split(torch.from_numpy(pixels), self._largest_batch()):
                x = normalise(chunk.to(self._device)).contiguous(memory_format=torch.channels_last)
                regressors, logits = self.detector(x)
                parts.append((regressors.float().cpu().numpy(), scores_of(logits.float()).cpu().numpy()))
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def find_faces_like_seed(finder: FaceFinder, image: Image) -> list[Detection]:
    """DF-Spot's detection of one frame: its tiles, its threshold, suppression over the whole frame; best face first."""
    tiles = seed_tiles(*image.shape[:2])
    corners = np.array([(tile.x, tile.y) for tile in tiles], np.float32)
    scales = np.full((len(tiles), 2), tiles[0].side / INPUT_SIZE, np.float32)
    regions = np.concatenate([corners, corners + tiles[0].side], 1)
    batch = TileBatch(np.stack([resample_tile(image, tile) for tile in tiles]), corners, scales, regions)
    (rows,) = finder._candidates([batch], SEED_THRESHOLD)
    faces = [_detection(face) for face in weighted_nms(rows[:, :-1])]
    return sorted(faces, key=lambda face: -face.score)


def _sure(rows: Floats, threshold: float) -> Floats:
    """The candidates that reach the threshold, or the lower one of small faces."""
    small = rows[:, 2] - rows[:, 0] < SMALL_FACE
    return rows[rows[:, 16] >= np.where(small, SMALL_FACE_FACTOR * threshold, threshold)]


def _to_frame(relative: Floats, origins: Floats, scales: Floats) -> Floats:
    """Input pixels to frame pixels: the first four columns are y, x, y, x, the others x, y."""
    flipped = np.tile(np.stack([scales[:, ::-1], origins[:, ::-1]], 1), (1, 1, 2))
    straight = np.tile(np.stack([scales, origins], 1), (1, 1, KEYPOINT_COUNT))
    factors = np.concatenate([flipped, straight], 2)
    result: Floats = (relative * factors[:, 0] + factors[:, 1]).astype(np.float32)
    return result


def _trust(rows: Floats, batch: TileBatch) -> Floats:
    """Weight of each candidate's coordinates: its score, the size it was seen at, and how whole the input showed it.

    The same face is seen by several inputs; the one that shows it large and uncut knows best where it is. The fourth
    powers let the surest few decide: on the held-out faces AP rises from .966 to .972.
    """
    tile = rows[:, -1].astype(int)
    low, high, region = rows[:, 1::-1], rows[:, 3:1:-1], batch.regions[tile]
    inside = np.clip(np.minimum(high, region[:, 2:]) - np.maximum(low, region[:, :2]), 0, None)
    size = np.maximum(high - low, 1e-3)
    shown = np.prod(inside / size, axis=1)
    seen_size = np.minimum(size[:, 1] / batch.scales[tile, 1], TRUSTED_SIZE)
    weights: Floats = (rows[:, -2] ** 4 * seen_size * shown**4 + 1e-6).astype(np.float32)
    return weights


def _detection(face: Floats) -> Detection:
    y0, x0, y1, x1 = (float(value) for value in face[:4])
    return Detection(Box(x0, y0, x1, y1), face[4:16].reshape(KEYPOINT_COUNT, 2).copy(), float(face[16]))


def _counts(face: Detection, size: tuple[int, int], options: FindOptions) -> bool:
    """Whether a face is large enough, and its centre in the region of interest and in none that is ignored."""
    box = face.box
    x, y = (box.x0 + box.x1) / 2 / size[0], (box.y0 + box.y1) / 2 / size[1]
    if not all(math.isfinite(value) for value in box) or box.height < options.min_size or box.width <= 0:
        return False
    if not (0 <= x <= 1 and 0 <= y <= 1):
        return False
    if options.roi is not None and not _holds(options.roi, x, y):
        return False
    return not any(_holds(zone, x, y) for zone in options.ignore)


def _holds(zone: tuple[float, float, float, float], x: float, y: float) -> bool:
    return zone[0] <= x <= zone[2] and zone[1] <= y <= zone[3]
