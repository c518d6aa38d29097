"""The one face crop that training, evaluation and serving share.

A network only knows the framing it was trained on, so the framing has a version: it is stored with each member and
checked when the member is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from streamwatch.domain import Image

CROP_VERSION: Final = "square1.6h-up0.1-v1"
"""Square of 1.6 x the box's height, centred 0.1 heights above the box's centre; edges replicated."""

SIDE_PER_HEIGHT: Final = 1.6
RAISE_PER_HEIGHT: Final = 0.1

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class CropJitter:
    """A training-time disturbance: shifts in box heights (x, y) and a factor on the side."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0


def crop_box(box: Box, jitter: CropJitter | None = None) -> Box:
    """The square (x0, y0, x1, y1), in pixels, that is cut for a face box; it may reach outside the image.

    Raises ValueError for a box without a positive, finite height and width.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    height = y1 - y0
    if not (np.isfinite((x0, y0, x1, y1)).all() and height > 0 and x1 > x0):
        raise ValueError(f"a face box needs finite x0 < x1 and y0 < y1, got {tuple(box)}")
    jitter = jitter or CropJitter()
    half = 0.5 * SIDE_PER_HEIGHT * height * jitter.scale
    cx = 0.5 * (x0 + x1) + jitter.dx * height
    cy = 0.5 * (y0 + y1) + (jitter.dy - RAISE_PER_HEIGHT) * height
    return cx - half, cy - half, cx + half, cy + half


def crop_face(image: Image, box: Box, size: int, jitter: CropJitter | None = None) -> Image:
    """Cut the face `box` (x0, y0, x1, y1 in pixels) out of an RGB image, as size x size x 3 uint8.

    Area resampling where it shrinks, bilinear where it enlarges; pixels beyond the image repeat its edge.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected a non-empty uint8 image H x W x 3, got {image.dtype} {image.shape}")
    x0, y0, x1, _ = crop_box(box, jitter)
    left, top = round(x0), round(y0)
    side = max(1, round(x1 - x0))
    height, width = image.shape[:2]
    inside = image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    pad = (max(0, -top), max(0, top + side - height), max(0, -left), max(0, left + side - width))
    if inside.size == 0:
        raise ValueError(f"the face box {tuple(box)} lies outside the {width}x{height} image")
    if any(pad):
        inside = np.asarray(cv2.copyMakeBorder(inside, *pad, cv2.BORDER_REPLICATE), np.uint8)
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(inside, (size, size), interpolation=interpolation), np.uint8)
