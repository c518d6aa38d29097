"""Training samples: a real face, a fake made from it, and both seen through the same stream look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from streamwatch.domain import Floats, Image
from streamwatch.inference.crop import CropJitter, crop_box
from streamwatch.training.faces import FaceSet, pick_donor
from streamwatch.training.fakes import DEFAULT_MIX, FakeMix, Helpers, Reconstruct, make_fake, whole_picture_operation
from streamwatch.training.geometry import FaceGeometry
from streamwatch.training.streamlook import Look, apply_look, draw_look, draw_recording
from streamwatch.training.tones import analogue, shift_colours

LARGEST_VIEW = 272


@dataclass(frozen=True, slots=True)
class PairSettings:
    """How pairs are made. `size` is the network's input; `hard_negatives` the share of pairs whose real picture

    underwent a whole-picture operation; `clean_views` the share of pairs that also give their uncompressed view;
    `recorded` the share whose picture was compressed once before anything was altered, as footage that is manipulated
    later was; `tinted` the share whose both pictures got other colours; `analogue` the share whose picture came from
    film or from a print; `erased` the share of pairs that also give a view whose traces are gone."""

    size: int = 224
    mix: FakeMix = DEFAULT_MIX
    severity: float = 1.0
    hard_negatives: float = 0.25
    clean_views: float = 0.0
    recorded: float = 0.0
    tinted: float = 0.0
    analogue: float = 0.0
    erased: float = 0.0
    h264: bool = True

    def at_difficulty(self, difficulty: float, size: int) -> PairSettings:
        """The curriculum: `difficulty` 0 gives strong blends almost without compression, 1 the full range."""
        severity = self.severity * (0.15 + 0.85 * difficulty)
        return replace(self, size=size, severity=severity, mix=replace(self.mix, difficulty=difficulty))


DEFAULT_PAIRS = PairSettings()


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """`images` (K, S, S, 3) uint8: real, fake, then their clean views if any; `mask` (S, S) of the fake; `kind` how it

    was made: one of fakes.KINDS, or 'own' where nobody says."""

    images: Image
    mask: Floats
    look: Look
    kind: str


class PairSource(Protocol):
    """Where pairs come from besides pseudo-fakes, such as a user's own labelled videos."""

    def pair(self, rng: np.random.Generator, size: int, severity: float) -> Pair: ...


def make_pair(
    faces: FaceSet, index: int, rng: np.random.Generator, settings: PairSettings, reconstruct: Reconstruct | None = None
) -> Pair:
    """One pair from the face `index`; all chance comes from `rng`."""
    view, geometry = draw_view(faces.images[index], faces.geometries[index], rng)
    donor = pick_donor(faces, index, rng)
    if rng.random() < 0.1:
        view = whole_picture_operation(view, geometry, rng)
    if rng.random() < settings.tinted:
        view = shift_colours(view, rng, 1.5)
    # No draw where there is none: the fixed held-out pairs are made without, and stay what they were.
    if settings.analogue and rng.random() < settings.analogue:
        view = analogue(view, rng)
    clean = None
    if rng.random() < settings.recorded:
        clean, view = view, apply_look(view, draw_recording(rng, view.shape[0], settings.h264), view.shape[0])
    helpers = Helpers((faces.images[donor], faces.geometries[donor]), reconstruct, clean)
    fake, mask, kind = make_fake(view, geometry, rng, settings.mix, helpers)
    real = view
    if rng.random() < settings.hard_negatives:
        real = whole_picture_operation(view, geometry, rng)
    look = draw_look(rng, view.shape[0], settings.severity, settings.h264)
    images = [apply_look(picture, look, settings.size) for picture in (real, fake)]
    if rng.random() < settings.clean_views:
        untouched = Look(size=view.shape[0])
        images += [apply_look(picture, untouched, settings.size) for picture in (real, fake)]
    shrunk = cv2.resize(mask, (settings.size, settings.size), interpolation=cv2.INTER_AREA)
    return Pair(np.stack(images), np.asarray(shrunk, np.float32), look, kind)


def draw_view(image: Image, geometry: FaceGeometry, rng: np.random.Generator) -> tuple[Image, FaceGeometry]:
    """The project's crop with +-15 % jitter, a slight turn and a flip, in one resampling, at its own scale."""
    dx, dy = rng.uniform(-0.1, 0.1, 2)
    jitter = CropJitter(float(dx), float(dy), float(rng.uniform(0.85, 1.15)))
    x0, y0, x1, y1 = crop_box(tuple(float(v) for v in geometry.box), jitter)  # type: ignore[arg-type]
    side = min(LARGEST_VIEW, max(96, round(x1 - x0)))
    zoom = side / (x1 - x0)
    turn = np.deg2rad(float(rng.normal(0, 4)))
    cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
    cx, cy = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
    matrix = np.array([(cos, -sin, side / 2 - cos * cx + sin * cy), (sin, cos, side / 2 - sin * cx - cos * cy)])
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += side - 1
    interpolation = cv2.INTER_AREA if zoom < 0.8 else cv2.INTER_LINEAR
    source, scaled = (image, matrix) if zoom >= 0.6 else _halved(image, matrix)
    # Serving repeats edges, but rarely has to; training faces fill their pictures, so half of them mirror instead.
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_REFLECT_101
    view = cv2.warpAffine(source, scaled, (side, side), flags=interpolation, borderMode=border)
    return np.asarray(view, np.uint8), geometry.warped(matrix)


def _halved(image: Image, matrix: np.ndarray) -> tuple[Image, np.ndarray]:
    half = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    doubled = matrix.copy()
    doubled[:, :2] *= 2.0
    return np.asarray(half, np.uint8), doubled
