"""Moving faces: the small misalignment of a self-blend, and one person's face onto another's points."""

from __future__ import annotations

import cv2
import numpy as np

from streamwatch.domain import Floats, Image
from streamwatch.training.geometry import FaceGeometry

GRID = 14


def shake(image: Image, geometry: FaceGeometry, rng: np.random.Generator, strength: float = 1.0) -> Image:
    """The picture shifted by up to 3 % of the face and scaled by up to 5 % about the face's centre."""
    cx, cy = geometry.outline.mean(0)
    size = float(np.ptp(geometry.outline[:, 1]))
    sx, sy = 1.0 + strength * rng.uniform(-0.05, 0.05, 2)
    dx, dy = strength * rng.uniform(-0.03, 0.03, 2) * size
    matrix = np.array([(sx, 0, cx * (1 - sx) + dx), (0, sy, cy * (1 - sy) + dy)])
    return _affine(image, matrix, (image.shape[0], image.shape[1]))


def fit_affine(source: Floats, target: Floats) -> Floats:
    """The least-squares 2 x 3 affine map of `source` points (K, 2) onto `target` points."""
    ones = np.ones((len(source), 1), np.float32)
    solution, *_ = np.linalg.lstsq(np.concatenate((source, ones), 1), target, rcond=None)
    return np.asarray(solution.T, np.float32)


def match_face(donor: Image, face: FaceGeometry, target: FaceGeometry, shape: tuple[int, int]) -> Image:
    """The donor's picture moved so that its face's points fall on the target's: H x W x 3 uint8.

    An affine fit, then what it leaves over, spread smoothly from the points (normalised Gaussian weights on a coarse
    grid). ValueError where the two faces do not have the same points.
    """
    if face.points.shape != target.points.shape:
        raise ValueError(f"the faces have different points: {len(face.points)} and {len(target.points)}")
    inverse = fit_affine(target.points, face.points)
    rest = face.points - (target.points @ inverse[:, :2].T + inverse[:, 2])
    height, width = shape
    xs = np.linspace(0, width - 1, GRID, dtype=np.float32)
    ys = np.linspace(0, height - 1, GRID, dtype=np.float32)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    sigma = 0.08 * float(np.ptp(target.points[:, 1]))
    distance = ((grid[:, None] - target.points[None]) ** 2).sum(-1)
    weight = np.exp(-0.5 * (distance - distance.min(1, keepdims=True)) / sigma**2)
    fade = np.exp(-0.5 * distance.min(1) / (2 * sigma) ** 2)
    flow = (weight @ rest) / weight.sum(1, keepdims=True) * fade[:, None]
    field = (grid @ inverse[:, :2].T + inverse[:, 2] + flow).reshape(GRID, GRID, 2).astype(np.float32)
    maps = _dense(field, (height, width))
    moved = cv2.remap(donor, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def _dense(field: Floats, shape: tuple[int, int]) -> Floats:
    """The coarse grid, whose corner nodes are the picture's corner pixels, at every pixel."""
    height, width = shape
    xs = np.linspace(0, GRID - 1, width, dtype=np.float32)
    ys = np.linspace(0, GRID - 1, height, dtype=np.float32)
    column, row = np.meshgrid(xs, ys)
    return np.asarray(cv2.remap(field, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _affine(image: Image, matrix: np.ndarray, shape: tuple[int, int]) -> Image:
    moved = cv2.warpAffine(image, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)
