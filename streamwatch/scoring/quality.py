"""How far a face can be trusted, from its pixels and keypoints alone.

All measures work on a crop of at most `CROP` pixels a side, whatever the size of the frame, so that the cost of a face
is bounded. Each measure has a hard limit, beyond which the face is gated, and a soft one, from which it counts in full;
between them its factor rises linearly, and the weight is the product of the factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from streamwatch.config import ScoringSettings
from streamwatch.domain import Box, Floats, Image, Quality

CROP = 128
"""Side, in pixels, of the crop that brightness and compression are measured on."""
SHARPNESS_SIDE = 64
"""Sharpness is measured at this face height, so that it speaks of blur relative to the face and not of its size."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`hard` shuts the face out, `soft` gives it full weight. hard < soft: more is better; hard > soft: less is
    better."""

    hard: float
    soft: float
    floor: float = 0.5
    """the factor at the hard limit"""

    def factor(self, value: float) -> float:
        share = (value - self.hard) / (self.soft - self.hard)
        return self.floor + (1.0 - self.floor) * min(1.0, max(0.0, share))

    def gates(self, value: float) -> bool:
        return value < self.hard if self.hard < self.soft else value > self.hard


# In the order in which a gate is named: what is dark is not sharp either, and dark is the reason.
LIMITS = {
    "brightness": Limit(hard=22.0, soft=50.0),
    "glare": Limit(hard=0.6, soft=0.3),
    "sharpness": Limit(hard=12.0, soft=60.0),
    "pose": Limit(hard=0.9, soft=0.45),
    "truncation": Limit(hard=0.35, soft=0.1),
    # Compression is the normal state of a video call and costs little at first: on held-out fakes as JPEG the bundled
    # set's AUC falls from .81 (blockiness 1.0) to .77 (2.3), .74 (4) and .71 (6); beyond that a face is a mosaic.
    "compression": Limit(hard=6.5, soft=1.6),
}


def measure(
    image: Any,
    box: Box,
    keypoints: Floats | None,
    settings: ScoringSettings | None = None,
    quantiser: float | None = None,
) -> Quality:
    """The quality of the face in `box` of an RGB uint8 (height, width, 3) image; `quantiser` is `Frame.quantiser`.

    `image` may be anything with `__dlpack__`. One that is not in this process's memory (on a GPU) is not copied:
    only the geometry is judged then. The first measure beyond its limit names the gate.
    """
    settings = settings or ScoringSettings()
    height, width = int(image.shape[0]), int(image.shape[1])
    measures = {"size": box.height, "truncation": truncation(box, width, height)}
    if keypoints is not None:
        measures["pose"] = pose(keypoints)
    pixels = host_pixels(image)
    if pixels is not None:
        measures |= _pixel_measures(pixels, box)
    if quantiser is not None:
        measures["quantiser"] = quantiser
    return _judge(measures, settings)


def _judge(measures: dict[str, float], settings: ScoringSettings) -> Quality:
    gate = "size" if measures["size"] < settings.min_size else None
    full = max(settings.full_size, settings.min_size)
    weight = 1.0 if measures["size"] >= full else 0.5
    for name, limit in LIMITS.items():
        if name not in measures:
            continue
        weight *= limit.factor(measures[name])
        if gate is None and limit.gates(measures[name]):
            gate = name
    return Quality(weight=0.0 if gate else weight, gate=gate, measures=measures)


def host_pixels(image: Any) -> Image | None:
    """The image as a numpy view, or None where its memory is not the host's."""
    if isinstance(image, np.ndarray):
        return image
    try:
        pixels: Image = np.from_dlpack(image)  # type: ignore[assignment]  # uint8 by the contract of Frame.image
    except (BufferError, RuntimeError, TypeError):
        return None
    return pixels


def truncation(box: Box, width: int, height: int) -> float:
    """The share of the box that lies outside of the picture."""
    area = max(box.width * box.height, 1e-6)
    inside_x = max(0.0, min(box.x1, width) - max(box.x0, 0.0))
    inside_y = max(0.0, min(box.y1, height) - max(box.y0, 0.0))
    return max(0.0, 1.0 - inside_x * inside_y / area)


def pose(keypoints: Floats) -> float:
    """How far the head is turned: the nose's offset from the middle of the eyes along the line between them, in units
    of half the distance of the tragions (the widest baseline there is). 0 is frontal, 1 a profile."""
    right_eye, left_eye, nose, _, right_ear, left_ear = np.asarray(keypoints, dtype=np.float64)
    axis = left_ear - right_ear
    length = float(np.hypot(*axis))
    if length < 1e-6:
        return 1.0
    offset = float(np.dot(nose - (right_eye + left_eye) / 2, axis)) / length
    ears = float(np.dot(nose - (right_ear + left_ear) / 2, axis)) / length
    return min(2.0, max(abs(offset), abs(ears)) / (length / 2))


def _pixel_measures(pixels: Image, box: Box) -> dict[str, float]:
    height, width = pixels.shape[:2]
    x0, y0 = max(0, int(box.x0)), max(0, int(box.y0))
    x1, y1 = min(width, int(np.ceil(box.x1))), min(height, int(np.ceil(box.y1)))
    if x1 - x0 < 8 or y1 - y0 < 8:
        return {}
    step = max(1, (y1 - y0) // (2 * CROP))
    gray = cv2.cvtColor(np.ascontiguousarray(pixels[y0:y1:step, x0:x1:step]), cv2.COLOR_RGB2GRAY)
    side = min(SHARPNESS_SIDE, *gray.shape)
    small = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
    measures = {
        "sharpness": float(cv2.Laplacian(small, cv2.CV_32F).var()),
        "brightness": float(small.mean()),
        "glare": float((small > 250).mean()),
    }
    if step == 1:  # the grid of the codec's blocks is only there at the native scale
        measures["compression"] = blockiness(gray[:CROP, :CROP], x0, y0)
    return measures


def blockiness(gray: Image, x0: int, y0: int) -> float:
    """Mean step over the boundaries of 8x8 blocks over the mean step elsewhere: about 1 for a clean picture. `x0` and
    `y0` are where the crop lies in the frame, whose corner is the corner of a block."""
    values = gray.astype(np.float32)
    ratios = []
    for axis, origin in ((1, x0), (0, y0)):
        steps = np.abs(np.diff(values, axis=axis)).mean(axis=1 - axis)
        on_grid = (np.arange(len(steps)) + origin + 1) % 8 == 0
        if on_grid.any() and not on_grid.all():
            ratios.append(float(steps[on_grid].mean()) / max(float(steps[~on_grid].mean()), 0.5))
    return max(ratios, default=1.0)
