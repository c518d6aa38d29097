"""Synthetic faces for tests: an oval with eyes and a mouth over a textured background."""

from __future__ import annotations

import cv2
import numpy as np

from streamwatch.domain import Image
from streamwatch.training.faces import FaceSet, poses_of
from streamwatch.training.geometry import FaceGeometry

SIDE = 96


def draw_face(seed: int, side: int = SIDE) -> tuple[Image, FaceGeometry]:
    """A face whose skin is grainy, as cameras see it, with 20 points on its outline and inside."""
    rng = np.random.default_rng(seed)
    canvas = np.full((side, side, 3), rng.integers(40, 200, 3), np.uint8)
    cx, cy = side * rng.uniform(0.46, 0.54), side * rng.uniform(0.48, 0.56)
    rx, ry = side * rng.uniform(0.2, 0.24), side * rng.uniform(0.28, 0.32)
    skin = tuple(int(v) for v in rng.integers(90, 220, 3))
    cv2.ellipse(canvas, (round(cx), round(cy)), (round(rx), round(ry)), 0, 0, 360, skin, -1, cv2.LINE_AA)
    for dx in (-0.45, 0.45):
        cv2.circle(canvas, (round(cx + dx * rx), round(cy - 0.25 * ry)), max(1, round(0.13 * rx)), (20, 20, 30), -1)
    cv2.ellipse(canvas, (round(cx), round(cy + 0.5 * ry)), (round(0.4 * rx), 2), 0, 0, 360, (120, 30, 40), -1)
    canvas = np.clip(canvas + rng.normal(0, 9, canvas.shape), 0, 255).astype(np.uint8)
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    outline = np.stack((cx + rx * np.cos(angles), cy + ry * np.sin(angles)), 1)
    inside = np.array([(-0.45, -0.25), (0.45, -0.25), (0, 0), (0, 0.5), (-0.3, 0.5), (0.3, 0.5)]) * (rx, ry) + (cx, cy)
    box = (cx - rx, cy - ry, cx + rx, cy + ry)
    return canvas, FaceGeometry.from_landmarks(box, np.concatenate((outline, inside)))


def draw_faces(count: int, side: int = SIDE, seed: int = 0) -> FaceSet:
    pictures, geometries = zip(*(draw_face(seed * 1000 + i, side) for i in range(count)), strict=True)
    return FaceSet(pictures, geometries, [f"face{i}" for i in range(count)], poses_of(geometries))
