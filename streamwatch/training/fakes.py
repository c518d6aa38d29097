"""Pseudo-fakes: how a real face is altered, and the alterations of a whole picture that stay real.

Every maker returns the altered picture with the mask that says where, and how strongly. Self-blending follows
Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images" (CVPR 2022). What a face generator leaves behind
inside a clean border (its smoothness, its missing noise) is imitated by reconstruction, rescaling and low-pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamwatch.domain import Floats, Image
from streamwatch.training import tones
from streamwatch.training.geometry import FaceGeometry, outline_mask
from streamwatch.training.warping import match_face, shake

Reconstruct = Callable[[Image, FaceGeometry, np.random.Generator], Image]
"""An auto-encoder's reconstruction of the face in a picture (of the whole picture's size)."""

KINDS = ("self_blend", "swap", "autoencoder", "rescale")
CLEAN_SOURCE = {"self_blend": 0.3, "swap": 0.0, "autoencoder": 0.5, "rescale": 0.5}
"""How often each kind works on the picture before compression, where there is one (a swap's donor never has it)."""


@dataclass(frozen=True, slots=True)
class FakeMix:
    """Shares of each kind (any positive numbers), how hard the fakes are (0 easy, 1 full strength), and how many of the

    swaps an auto-encoder paints, as swapping programs do (0 to 1; 0 where there is none)."""

    self_blend: float = 0.50
    swap: float = 0.25
    autoencoder: float = 0.15
    rescale: float = 0.10
    repainted: float = 0.0
    difficulty: float = 1.0

    def shares(self) -> Floats:
        shares = np.array([self.self_blend, self.swap, self.autoencoder, self.rescale], np.float32)
        if not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            raise ValueError(f"shares of fakes must be at least 0 and not all 0, got {shares.tolist()}")
        if not 0 <= self.repainted <= 1:
            raise ValueError(f"repainted must be 0 to 1, got {self.repainted}")
        return np.asarray(shares / shares.sum(), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Helpers:
    """What some kinds need besides the face: a second identity, a generator, and the picture before its camera's

    compression: what a generator paints has none of it. A missing one is replaced."""

    donor: tuple[Image, FaceGeometry] | None = None
    reconstruct: Reconstruct | None = None
    clean: Image | None = None


class Fake(NamedTuple):
    """`image` (H, W, 3) uint8, `mask` (H, W) in 0..1, and which of KINDS it is."""

    image: Image
    mask: Floats
    kind: str


DEFAULT_MIX = FakeMix()
NO_HELPERS = Helpers()


def make_fake(
    image: Image,
    geometry: FaceGeometry,
    rng: np.random.Generator,
    mix: FakeMix = DEFAULT_MIX,
    helpers: Helpers = NO_HELPERS,
) -> Fake:
    """One fake of the default training distribution, of the size of `image`.

    Without a donor a swap becomes a self-blend, without a generator a reconstruction becomes a rescaling.
    """
    kind = KINDS[int(rng.choice(len(KINDS), p=_normalised(mix.shares())))]
    difficulty = mix.difficulty
    # The face is painted from the picture as it was before compression, or from the compressed one: both happen.
    source = helpers.clean if helpers.clean is not None and rng.random() < CLEAN_SOURCE[kind] else image
    if kind == "swap" and helpers.donor is not None:
        repaint = helpers.reconstruct if mix.repainted > 0 and rng.random() < mix.repainted else None
        altered, base = swap_face(image, geometry, helpers.donor, rng, repaint), image
    elif kind == "autoencoder" and helpers.reconstruct is not None:
        altered, base = helpers.reconstruct(source, geometry, rng), image
        if rng.random() < 0.5:
            altered = tones.shift_colours(altered, rng, 0.6)
        if rng.random() < 0.4:
            altered = tones.generator_look(altered, geometry, rng, difficulty)
    elif kind in ("autoencoder", "rescale"):
        kind = "rescale"
        altered, base = tones.generator_look(source, geometry, rng, difficulty), image
        if rng.random() < 0.4:
            altered = tones.shift_colours(altered, rng, 0.6)
    else:
        kind = "self_blend"
        altered, base = self_blend_parts(source, geometry, rng, difficulty)
        base = base if source is image else image
    return Fake(*_blend(base, altered, geometry, rng, difficulty), kind)


def self_blend_parts(
    image: Image, geometry: FaceGeometry, rng: np.random.Generator, difficulty: float
) -> tuple[Image, Image]:
    """The two versions of one picture that a self-blend joins: (altered, base)."""
    strength = 1.5 - 0.5 * difficulty
    toned = tones.shift_colours(image, rng, strength)
    toned = tones.change_sharpness(toned, geometry, rng, strength)
    altered, base = (toned, image) if rng.random() < 0.6 else (image, toned)
    altered = shake(altered, geometry, rng, strength)
    if rng.random() < 0.15:
        altered = tones.generator_look(altered, geometry, rng, difficulty)
    return altered, base


def swap_face(
    image: Image,
    geometry: FaceGeometry,
    donor: tuple[Image, FaceGeometry],
    rng: np.random.Generator,
    repaint: Reconstruct | None = None,
) -> Image:
    """Another person's face warped onto this one's points, painted anew by `repaint`, in this one's colours; a donor

    without as many points as the face raises ValueError."""
    moved = match_face(donor[0], donor[1], geometry, (image.shape[0], image.shape[1]))
    if repaint is not None:
        moved = repaint(moved, geometry, rng)
    moved = tones.transfer_colours(moved, image, geometry, float(rng.uniform(0.5, 1.0)))
    if repaint is None and rng.random() < 0.5:
        moved = tones.generator_look(moved, geometry, rng, 1.0)
    return moved


def _blend(
    base: Image, altered: Image, geometry: FaceGeometry, rng: np.random.Generator, difficulty: float
) -> tuple[Image, Floats]:
    mask = outline_mask(geometry, (base.shape[0], base.shape[1]), rng)
    weak = 1.0 - 0.7 * difficulty
    ratio = float(rng.choice([1.0, 1.0, 1.0, max(weak, 0.75), max(weak, 0.5), max(weak, 0.35)]))
    mask *= ratio
    weight = mask[..., None]
    mixed = base + weight * (altered.astype(np.float32) - base)
    return np.asarray(np.clip(mixed + 0.5, 0, 255), np.uint8), mask


def whole_picture_operation(image: Image, geometry: FaceGeometry, rng: np.random.Generator) -> Image:
    """A hard negative: an operation that fakes use, on the whole picture, which stays real."""
    choice = int(rng.integers(5))
    if choice == 0:
        return tones.shift_colours(image, rng, 1.2)
    if choice == 1:
        return tones.change_sharpness(image, geometry, rng, 1.0)
    if choice == 2:
        return tones.beauty_blur(image, rng)
    if choice == 3:
        return tones.generator_look(image, geometry, rng, 1.0)
    return tones.draw_occluder(image, geometry, rng)


def _normalised(shares: Floats) -> npt.NDArray[np.float64]:
    wide = shares.astype(np.float64)
    return np.asarray(wide / wide.sum(), np.float64)
