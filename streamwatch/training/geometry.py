"""Where a face lies in a picture, and the region masks that pseudo-fakes are blended through."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamwatch.domain import Floats

MIN_POINTS = 6
MOUTH_SHARE = 0.42


@dataclass(frozen=True, slots=True, eq=False)
class FaceGeometry:
    """A face's box (x0, y0, x1, y1), its points (K, 2) and the outline of its blendable area (M, 2), all in pixels.

    Two faces can be warped onto each other where their points have the same meaning (same K).
    """

    box: Floats
    points: Floats
    outline: Floats

    @classmethod
    def from_landmarks(cls, box: npt.ArrayLike, landmarks: npt.ArrayLike) -> FaceGeometry:
        """From a face mesh (K, 2): the outline is its convex hull."""
        points = np.asarray(landmarks, np.float32).reshape(-1, 2)
        if len(points) < MIN_POINTS:
            raise ValueError(f"a face mesh needs at least {MIN_POINTS} points, got {len(points)}")
        hull = np.asarray(cv2.convexHull(points), np.float32)[:, 0]
        return cls(np.asarray(box, np.float32), points, hull)

    @classmethod
    def from_keypoints(cls, box: npt.ArrayLike, keypoints: npt.ArrayLike) -> FaceGeometry:
        """From the detector's six keypoints (eyes, nose, mouth, tragions): the outline is an ellipse."""
        points = np.asarray(keypoints, np.float32).reshape(-1, 2)
        if len(points) != MIN_POINTS:
            raise ValueError(f"expected {MIN_POINTS} keypoints, got {len(points)}")
        eyes, mouth = points[:2].mean(0), points[3]
        down = mouth - eyes
        length = max(float(np.hypot(*down)), 1.0)
        down = down / length
        across = np.array((-down[1], down[0]), np.float32)
        ear_span = float(abs((points[5] - points[4]) @ across))
        half_width = np.clip(0.5 * ear_span, 0.75 * length, 1.1 * length)
        centre = eyes + 0.42 * length * down
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False, dtype=np.float32)[:, None]
        outline = centre + half_width * np.cos(angles) * across + 1.3 * length * np.sin(angles) * down
        return cls(np.asarray(box, np.float32), points, outline.astype(np.float32))

    @classmethod
    def from_box(cls, box: npt.ArrayLike) -> FaceGeometry:
        """From a box alone: an upright ellipse, and the places where keypoints usually are."""
        x0, y0, x1, y1 = np.asarray(box, np.float32)
        places = np.array([(0.3, 0.33), (0.7, 0.33), (0.5, 0.55), (0.5, 0.75), (0.06, 0.4), (0.94, 0.4)], np.float32)
        return cls.from_keypoints(box, places * (x1 - x0, y1 - y0) + (x0, y0))

    def warped(self, matrix: npt.NDArray[np.floating]) -> FaceGeometry:
        """The same face after a 2 x 3 affine map of the picture; the box becomes the mapped box's bounds."""
        x0, y0, x1, y1 = self.box
        corners = _apply(matrix, np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32))
        box = np.concatenate((corners.min(0), corners.max(0)))
        return FaceGeometry(box, _apply(matrix, self.points), _apply(matrix, self.outline))


def _apply(matrix: npt.NDArray[np.floating], points: Floats) -> Floats:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float32)


def outline_mask(
    geometry: FaceGeometry, shape: tuple[int, int], rng: np.random.Generator, variety: float = 1.0
) -> Floats:
    """A randomly deformed, doubly blurred region of the face: float32 (H, W) in 0..1, 1 inside.

    The outline is displaced smoothly along its radius, and sometimes only a part of the face is taken: swaps differ in
    how much they cover, re-enactment alters the mouth alone. `variety` 0 leaves the outline as it is.
    """
    height, width = shape
    outline = _deformed(geometry.outline, rng, variety)
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [np.round(outline * 8).astype(np.int32)], 1.0, cv2.LINE_8, 3)
    if rng.random() < 0.15 * variety:
        _keep_lower_part(mask, geometry.outline, rng)
    size = float(np.ptp(geometry.outline[:, 1]))
    for share in (rng.uniform(0.01, 0.06), rng.uniform(0.01, 0.05)):
        cv2.GaussianBlur(mask, (0, 0), max(0.6, share * size), dst=mask, borderType=cv2.BORDER_REPLICATE)
    return np.minimum(mask, 1.0, out=mask)  # the blur's rounding can go beyond


def _deformed(outline: Floats, rng: np.random.Generator, variety: float) -> Floats:
    centre = outline.mean(0)
    ray = outline - centre
    angle = np.arctan2(ray[:, 1], ray[:, 0])
    radius = np.full(len(outline), 1.0 + variety * rng.uniform(-0.14, 0.06))
    for wave in (1, 2, 3, 5):
        radius += variety * rng.normal(0, 0.04 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(centre + ray * radius[:, None], np.float32)


def _keep_lower_part(mask: Floats, outline: Floats, rng: np.random.Generator) -> None:
    top, bottom = outline[:, 1].min(), outline[:, 1].max()
    cut = int(bottom - (bottom - top) * rng.uniform(MOUTH_SHARE, 0.65))
    mask[: max(0, cut)] = 0.0
