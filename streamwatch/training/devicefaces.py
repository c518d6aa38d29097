"""The training faces on the device that trains: cut and measured once, so that views of them are tensors alone."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from streamwatch.domain import Floats, Image
from streamwatch.inference.crop import CropJitter, crop_box
from streamwatch.training.faces import FaceSet
from streamwatch.training.geometry import FaceGeometry

STORED = 256
"""Side of the stored squares, in pixels; they reach MARGIN times as far as a crop, so that views may be moved."""
MARGIN = 1.25
RAYS = 64
POINTS = 96


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFaces:
    """All faces on the device: `pictures` uint8 (N, 3, STORED, STORED); in coordinates of -1..1 across those squares

    `points` (N, K, 2), the outline's `centres` (N, 2) and its `radii` (N, RAYS) by angle; `poses` (N, D) find donors.
    """

    pictures: Tensor
    points: Tensor
    centres: Tensor
    radii: Tensor
    poses: Tensor

    def __len__(self) -> int:
        return len(self.pictures)


def upload(faces: FaceSet, device: str) -> DeviceFaces:
    """Cut, measured and moved to the device once: 0.2 MB a face. Every second face is continued by mirroring."""
    squares, points, centres, radii = [], [], [], []
    for index, (image, geometry) in enumerate(zip(faces.images, faces.geometries, strict=True)):
        border = (cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)[index % 2]
        square, moved = _square(image, geometry, border)
        chosen = np.linspace(0, len(moved.points) - 1, min(POINTS, len(moved.points)), dtype=int)
        outline = _relative(moved.outline)
        squares.append(square)
        points.append(_relative(moved.points[chosen]))
        centres.append(outline.mean(0))
        radii.append(_radii(outline))
    if len({len(p) for p in points}) > 1:
        raise ValueError("the faces have different points: label them all with landmarks, or all with keypoints")
    pictures = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
    arrays = (points, centres, radii, faces.poses)
    return DeviceFaces(pictures.to(device), *(torch.from_numpy(np.asarray(a, np.float32)).to(device) for a in arrays))


def _square(image: Image, geometry: FaceGeometry, border: int) -> tuple[Image, FaceGeometry]:
    x0, y0, x1, _ = crop_box(tuple(float(v) for v in geometry.box), CropJitter(0, 0, MARGIN))  # type: ignore[arg-type]
    zoom = STORED / (x1 - x0)
    matrix = np.array([(zoom, 0, -zoom * x0), (0, zoom, -zoom * y0)])
    smooth = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom) if zoom < 0.8 else image
    square = cv2.warpAffine(smooth, matrix, (STORED, STORED), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(square, np.uint8), geometry.warped(matrix)


def _relative(points: Floats) -> Floats:
    return np.asarray((points + 0.5) * (2.0 / STORED) - 1.0, np.float32)


def _radii(outline: Floats) -> Floats:
    """How far the outline lies from its centre, at RAYS angles."""
    ray = outline - outline.mean(0)
    angle, radius = np.arctan2(ray[:, 1], ray[:, 0]), np.hypot(ray[:, 0], ray[:, 1])
    order = np.argsort(angle)
    angles = np.linspace(-np.pi, np.pi, RAYS, endpoint=False)
    return np.asarray(np.interp(angles, angle[order], radius[order], period=2 * np.pi), np.float32)
