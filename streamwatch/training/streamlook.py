"""What a live stream does to a face: small, noisy, dark, compressed, and scaled to the network's input.

Both pictures of a pair go through the same look, drawn once: otherwise the compression would give the fake away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from streamwatch.domain import Image
from streamwatch.training.tones import jpeg, sharpen

try:
    from streamwatch.training.h264 import through_h264
except ImportError:  # PyAV is not everywhere that a training can run
    HAS_H264 = False
else:
    HAS_H264 = True

SMALLEST = 80
ERASING = (10, 30)
"""JPEG qualities that leave little of what is fine in a picture."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One encoding: constant rate factor, x264 preset, frames before the one that is kept, and pixels of motion

    (x, y) from frame to frame. With one frame the kept picture is a key frame, else a predicted one."""

    crf: int
    preset: str = "veryfast"
    frames: int = 3
    motion: tuple[float, float] = (0.6, 0.3)

    @classmethod
    def draw(cls, rng: np.random.Generator, lowest: int, highest: int) -> Shot:
        preset = ("ultrafast", "veryfast", "veryfast")[int(rng.integers(3))]
        dx, dy = rng.normal(0, 1.0, 2)
        return cls(int(rng.integers(lowest, highest + 1)), preset, int(rng.integers(1, 4)), (float(dx), float(dy)))


@dataclass(frozen=True, slots=True)
class Look:
    """One draw of the stream look. Sizes are pixels of the crop's side; `codecs` holds JPEG qualities and shots.

    `denoise` (grey levels that count as noise) and `sharpen` (share of the detail that is added) are what a camera does
    to its picture before it is compressed."""

    size: int
    codecs: tuple[int | Shot, ...] = ()
    noise: float = 0.0
    gain: float = 1.0
    gamma: float = 1.0
    blur: float = 0.0
    seed: int = 0
    denoise: float = 0.0
    sharpen: float = 0.0

    @property
    def compression(self) -> str:
        """'none', 'light' or 'heavy': the heaviest of the codecs."""
        heavy = any(codec < 60 if isinstance(codec, int) else codec.crf > 28 for codec in self.codecs)
        return "heavy" if heavy else "light" if self.codecs else "none"


def draw_look(rng: np.random.Generator, side: int, severity: float = 1.0, h264: bool = True) -> Look:
    """A look for a crop `side` pixels wide. `severity` 0 is nearly clean, 1 the full range.

    H.264 is real where PyAV is installed, else its share goes to JPEG.
    """
    severity = severity * float(rng.uniform(0.2, 1.0))
    smallest = side + severity * (min(SMALLEST, side) - side)
    size = round(float(np.exp(rng.uniform(np.log(smallest), np.log(side)))))
    if rng.random() < 0.2:
        size = side
    chances = (0.35 + 0.5 * severity, 0.15 * severity)
    codecs = [_draw_codec(rng, severity, h264 and HAS_H264) for chance in chances if rng.random() < chance]
    dark = rng.random() < 0.12 * severity
    return Look(
        size=size,
        codecs=tuple(codecs),
        noise=float(rng.uniform(1, 7) * severity) if rng.random() < 0.25 else 0.0,
        gain=float(rng.uniform(0.3, 0.7)) if dark else float(1 + severity * rng.uniform(-0.12, 0.12)),
        gamma=float(np.exp(severity * rng.uniform(-0.2, 0.2))),
        blur=float(rng.uniform(0.3, 1.1) * severity) if rng.random() < 0.2 else 0.0,
        seed=int(rng.integers(1 << 31)),
    )


def draw_recording(rng: np.random.Generator, side: int, h264: bool = True) -> Look:
    """What a camera and its file did before anyone altered the picture: some noise, sometimes scaling, most often noise
    removed and edges sharpened, one codec."""
    size = side if rng.random() < 0.5 else round(side * float(rng.uniform(0.6, 1.0)))
    return Look(
        size=max(min(SMALLEST, side), size),
        codecs=(_draw_codec(rng, float(rng.uniform(0.2, 0.9)), h264 and HAS_H264),),
        noise=float(rng.uniform(1, 6)) if rng.random() < 0.4 else 0.0,
        seed=int(rng.integers(1 << 31)),
        denoise=float(rng.uniform(4, 30)) if rng.random() < 0.6 else 0.0,
        sharpen=float(rng.uniform(0.2, 1.5)) if rng.random() < 0.6 else 0.0,
    )


def _draw_codec(rng: np.random.Generator, severity: float, h264: bool) -> int | Shot:
    if h264 and rng.random() < 0.6:
        return Shot.draw(rng, 18, 22 + round(16 * severity))
    return int(rng.integers(round(90 - 55 * severity), 96))


def apply_look(image: Image, look: Look, size: int) -> Image:
    """The picture seen through the look, size x size."""
    seen = image
    if look.size != image.shape[0]:
        seen = np.asarray(cv2.resize(seen, (look.size, look.size), interpolation=cv2.INTER_AREA), np.uint8)
    if look.blur > 0:
        seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), look.blur), np.uint8)
    if look.gain != 1.0 or look.gamma != 1.0:
        ramp = 255.0 * look.gain * (np.arange(256, dtype=np.float32) / 255.0) ** look.gamma
        seen = np.asarray(cv2.LUT(seen, np.clip(ramp, 0, 255).astype(np.uint8)), np.uint8)
    if look.noise > 0:
        noise = np.empty(seen.shape, np.int16)
        cv2.setRNGSeed(look.seed)
        cv2.randn(noise, 0, look.noise)
        seen = np.asarray(cv2.add(seen, noise, dtype=cv2.CV_8U), np.uint8)
    if look.denoise > 0:
        seen = np.asarray(cv2.bilateralFilter(seen, 5, look.denoise, 2.0), np.uint8)
    if look.sharpen > 0:
        seen = sharpen(seen, 1.2, look.sharpen)
    for codec in look.codecs:
        seen = _encode(codec)(seen)
    if seen.shape[0] != size:
        interpolation = cv2.INTER_AREA if seen.shape[0] > size else cv2.INTER_LINEAR
        seen = np.asarray(cv2.resize(seen, (size, size), interpolation=interpolation), np.uint8)
    return seen


def erase(image: Image, rng: np.random.Generator) -> Image:
    """The picture from any camera and through any stream, and then after JPEG so strong that the fine traces of an
    alteration are gone, and what it shows is not."""
    side = image.shape[0]
    for look in (draw_recording(rng, side), draw_look(rng, side)):
        image = apply_look(image, look, side)
    return jpeg(image, int(rng.integers(ERASING[0], ERASING[1] + 1)))


def _encode(codec: int | Shot) -> Callable[[Image], Image]:
    if isinstance(codec, int):
        return lambda image: jpeg(image, codec)
    return lambda image: through_h264(image, codec)
