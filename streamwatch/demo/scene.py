"""The demo's picture: two public-domain portraits side by side, moving as heads in a call move.

The portraits come with the packages that show them (scikit-image's astronaut, Eileen Collins, and matplotlib's Grace
Hopper); neither is ever trained on. In part of the loop one face is replaced by a pseudo-fake drawn from the
default training distribution, at full strength and no stronger, from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import skimage.data

from streamwatch.domain import Image
from streamwatch.errors import MediaError
from streamwatch.inference.faces import Detection
from streamwatch.training.fakes import Helpers, make_fake
from streamwatch.training.geometry import FaceGeometry

WIDTH, HEIGHT, FPS = 1280, 720, 25
PANEL = (WIDTH // 2, HEIGHT)

FindFaces = Callable[[Image], list[Detection]]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds: the loop's length, and the part of it in which one face is manipulated."""

    length: float = 48.0
    fake_from: float = 14.0
    fake_to: float = 30.0

    def manipulated(self, t: float) -> bool:
        return self.fake_from <= t % self.length < self.fake_to


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A panel-sized picture, uint8 (720, 640, 3) RGB, and where its face is."""

    name: str
    picture: Image
    geometry: FaceGeometry


def load_portraits(find: FindFaces) -> tuple[Portrait, Portrait]:
    """Both portraits, fitted to their panels; `find` is the face detector. Raises MediaError where it finds no face."""
    hopper = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    stored = cv2.imread(str(hopper))
    if stored is None:
        raise MediaError(f"{hopper.name}: the portrait that matplotlib ships is not there")
    pictures = {
        "astronaut": np.asarray(skimage.data.astronaut(), np.uint8),
        "hopper": np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), np.uint8),
    }
    astronaut, grace = (_portrait(name, picture, find) for name, picture in pictures.items())
    return astronaut, grace


def _portrait(name: str, picture: Image, find: FindFaces) -> Portrait:
    width, height = PANEL
    scale = height / picture.shape[0]
    fitted = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[:height]
    faces = find(np.ascontiguousarray(fitted))
    if not faces:
        raise MediaError(f"no face was found in the portrait {name}")
    # The panel is narrower or wider than the portrait: centre the face, and let the edges run on.
    left = round((faces[0].box.x0 + faces[0].box.x1) / 2 - width / 2)
    left = max(0, min(left, fitted.shape[1] - width)) if fitted.shape[1] >= width else (fitted.shape[1] - width) // 2
    matrix = np.array([[1, 0, -left], [0, 1, 0]], np.float32)
    panel = cv2.warpAffine(fitted, matrix, PANEL, borderMode=cv2.BORDER_REPLICATE)
    best = faces[0]
    geometry = FaceGeometry.from_keypoints(best.box, best.keypoints).warped(matrix)
    return Portrait(name, np.asarray(panel, np.uint8), geometry)


def manipulated(portrait: Portrait, donor: Portrait, seed: int) -> Portrait:
    """The portrait with its face replaced by one draw of the default training distribution."""
    rng = np.random.default_rng(seed)
    fake = make_fake(portrait.picture, portrait.geometry, rng, helpers=Helpers((donor.picture, donor.geometry))).image
    return Portrait(portrait.name, fake, portrait.geometry)


def render(portrait: Portrait, t: float, length: float, phase: float) -> Image:
    """The panel at time `t`: the head sways, nods, leans and comes nearer; all periods divide `length`, so that the
    loop has no seam."""
    turn = 2 * np.pi * t / length
    dx = 12 * np.sin(5 * turn + phase) + 4 * np.sin(17 * turn + 2 * phase)
    dy = 7 * np.sin(8 * turn + 1.3 * phase) + 2 * np.sin(23 * turn)
    angle = 2.2 * np.sin(6 * turn + 0.7 * phase)
    zoom = 1.0 + 0.025 * np.sin(3 * turn + phase)
    x0, y0, x1, y1 = (float(v) for v in portrait.geometry.box)
    matrix = cv2.getRotationMatrix2D(((x0 + x1) / 2, (y0 + y1) / 2), angle, zoom)
    matrix[:, 2] += (dx, dy)
    moved = cv2.warpAffine(portrait.picture, matrix, PANEL, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(moved, np.uint8)


class Scene:
    """Frames of the whole loop: uint8 (720, 1280, 3) RGB."""

    def __init__(
        self, portraits: tuple[Portrait, Portrait], seed: int, timeline: Timeline | None = None, victim: int = 1
    ) -> None:
        """`victim`: whose face is manipulated, 0 the astronaut on the left, 1 the officer on the right."""
        self.timeline = timeline or Timeline()
        self._real = portraits
        fake = manipulated(portraits[victim], portraits[1 - victim], seed)
        self._fake = (fake, portraits[1]) if victim == 0 else (portraits[0], fake)
        self._noise = _sensor_noise(np.random.default_rng(seed))

    def frame(self, t: float) -> Image:
        people = self._fake if self.timeline.manipulated(t) else self._real
        panels = [render(who, t, self.timeline.length, phase) for who, phase in zip(people, (0.0, 1.9), strict=True)]
        picture = np.hstack(panels).astype(np.int16)
        shift = int(t * FPS) * 37
        picture += np.roll(self._noise, (shift % HEIGHT, (3 * shift) % WIDTH), (0, 1))[..., None]
        return np.asarray(picture.clip(0, 255), np.uint8)


def _sensor_noise(rng: np.random.Generator) -> np.ndarray:
    """A still picture without a camera's noise moves like cardboard; 1.5 grey levels is a webcam in good light."""
    return rng.normal(0.0, 1.5, (HEIGHT, WIDTH)).round().astype(np.int16)
