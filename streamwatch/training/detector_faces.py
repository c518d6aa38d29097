"""The labelled faces and the face-free backgrounds that the detector's training scenes are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage

from streamwatch.domain import Floats, Image
from streamwatch.training.faces import (
    LABELS,
    UNREADABLE,
    DatasetError,
    check_box,
    faces_folder,
    read_arrays,
    read_picture,
)

LABEL_UNIT = 16.0
"""labels.npz holds sixteenths of a pixel."""
FREE_PHOTOGRAPHS = (
    *("brick", "chelsea", "clock_motion", "coffee", "coins", "color", "grass", "gravel", "ihc", "moon"),
    *("motorcycle_left", "motorcycle_right", "retina", "rocket", "text", "hubble_deep_field"),
)
"""Face-free pictures that scikit-image ships; its portraits are left out on purpose."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFace:
    """One picture with one labelled face: RGB image, box (x0, y0, x1, y1) and keypoints (6, 2) in its pixels.

    `context` tells a picture with natural surroundings from one that its face fills.
    """

    image: Image
    box: Floats
    keypoints: Floats
    context: bool

    @property
    def size(self) -> float:
        return float(self.box[3] - self.box[1])


def load_faces(data_dir: Path, split: str, limit: int | None = None, max_side: int | None = None) -> list[LabelledFace]:
    """The labelled faces of one split, in the order of labels.npz, which lies in `data_dir` or its folder `faces`.

    `max_side` bounds the pictures kept, `limit` takes an even sample. Raises DatasetError naming what cannot be read.
    """
    folder = faces_folder(data_dir)
    try:
        labels = read_arrays(folder / LABELS, "split", "name", "box", "keypoints")
    except UNREADABLE as error:
        raise DatasetError(f"{folder / LABELS}: cannot be read as face labels: {error}") from error
    rows = np.flatnonzero(labels["split"] == split)
    names, boxes, keypoints = labels["name"], labels["box"] / LABEL_UNIT, labels["keypoints"] / LABEL_UNIT
    if len(rows) == 0:
        raise DatasetError(f"{folder / LABELS}: no rows of split {split!r}")
    if limit is not None and limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).astype(int)]
    faces = []
    for row in rows:
        check_box(boxes[row], f"{folder / LABELS}: {names[row]}")
        image = read_picture(folder / str(names[row]))
        scale = min(1.0, (max_side or max(image.shape)) / max(image.shape))
        if scale < 1.0:
            image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        box, points = (boxes[row] * scale).astype(np.float32), (keypoints[row] * scale).astype(np.float32)
        context = bool(box[3] - box[1] < 0.6 * image.shape[0])
        faces.append(LabelledFace(image, box, points, context))
    return faces


def make_backgrounds(faces: list[LabelledFace], rng: np.random.Generator, count: int, side: int = 160) -> list[Image]:
    """Square face-free pictures: surroundings of portraits, portraits without their faces, ears and eyes, photographs,
    scrambled faces, drawings and noise."""
    portraits = [face for face in faces if face.context] or faces
    photographs = _free_photographs()
    makers = [
        lambda: _surroundings(portraits[rng.integers(len(portraits))], rng),
        lambda: _faceless(portraits[rng.integers(len(portraits))], rng),
        lambda: _detail(faces[rng.integers(len(faces))], rng),
        lambda: _random_crop(photographs[rng.integers(len(photographs))], rng),
        lambda: _scrambled(faces[rng.integers(len(faces))].image, rng),
        lambda: _drawing(rng, side),
        lambda: _smooth_noise(rng, side),
    ]
    chosen = rng.choice(len(makers), size=count, p=[0.22, 0.18, 0.18, 0.17, 0.08, 0.11, 0.06])
    return [
        np.asarray(cv2.resize(makers[kind](), (side, side), interpolation=cv2.INTER_AREA), np.uint8) for kind in chosen
    ]


def _free_photographs() -> list[Image]:
    folder = Path(skimage.__file__).parent / "data"
    found = [path for name in FREE_PHOTOGRAPHS for path in folder.glob(f"{name}.*")]
    images = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in found]
    return [image.astype(np.uint8) for image in images if image is not None]


def _surroundings(face: LabelledFace, rng: np.random.Generator) -> Image:
    """A rectangle of the picture beside or below its face, at least 24 px wide."""
    height, width = face.image.shape[:2]
    x0, y0, x1, y1 = face.box + 0.12 * face.size * np.array([-1, -2, 1, 1], np.float32)
    bands = [(0, 0, width, y0), (0, y1, width, height), (0, 0, x0, height), (x1, 0, width, height)]
    usable = [band for band in bands if band[2] - band[0] >= 24 and band[3] - band[1] >= 24]
    if not usable:
        return _scrambled(face.image, rng)
    left, top, right, bottom = (int(value) for value in usable[rng.integers(len(usable))])
    return _random_crop(face.image[top:bottom, left:right], rng)


def _faceless(face: LabelledFace, rng: np.random.Generator) -> Image:
    """A portrait whose face is covered by a smooth surface of its own colour: hair and shoulders alone are no face."""
    image = face.image.copy()
    x0, y0, x1, y1 = np.clip(face.box, 0, None).astype(int)
    inside = image[y0:y1, x0:x1]
    cells = cv2.resize(cv2.resize(inside, (2, 2), interpolation=cv2.INTER_AREA), inside.shape[1::-1])
    surface = np.clip(cells + rng.normal(0, rng.uniform(0, 12), inside.shape), 0, 255)
    mask = np.zeros(inside.shape[:2], np.float32)
    centre = (inside.shape[1] // 2, int(0.46 * inside.shape[0]))
    cv2.ellipse(mask, centre, (int(0.47 * inside.shape[1]), int(0.54 * inside.shape[0])), 0, 0, 360, 1.0, -1)
    inside[:] = (surface * mask[..., None] + inside * (1 - mask[..., None])).astype(np.uint8)
    side = int(min(image.shape[:2]) * rng.uniform(0.6, 1.0))
    left, top = (int(rng.integers(image.shape[axis] - side + 1)) for axis in (1, 0))
    return image[top : top + side, left : left + side]


def _detail(face: LabelledFace, rng: np.random.Generator) -> Image:
    """The surroundings of one keypoint: an ear, an eye or a mouth alone is no face. Ears are mistaken most often."""
    x, y = face.keypoints[rng.choice(len(face.keypoints), p=[0.1, 0.1, 0.05, 0.15, 0.3, 0.3])]
    half = max(6.0, face.size * rng.uniform(0.12, 0.2))
    height, width = face.image.shape[:2]
    x0, y0 = int(np.clip(x - half, 0, width - 2 * half)), int(np.clip(y - half, 0, height - 2 * half))
    return face.image[y0 : y0 + int(2 * half), x0 : x0 + int(2 * half)]


def _random_crop(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    side = int(min(height, width) * rng.uniform(0.3, 1.0))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return image[top : top + side, left : left + side]


def _scrambled(image: Image, rng: np.random.Generator) -> Image:
    """The picture's patches in random order: skin, hair and cloth without a face."""
    cells = int(rng.integers(4, 8))
    side = 16 * cells
    patches = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).reshape(cells, 16, cells, 16, 3)
    shuffled = rng.permutation(patches.transpose(0, 2, 1, 3, 4).reshape(-1, 16, 16, 3))
    result = shuffled.reshape(cells, cells, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(side, side, 3)
    return np.ascontiguousarray(result, dtype=np.uint8)


def _drawing(rng: np.random.Generator, side: int) -> Image:
    """Shapes on a gradient: windows, screens, letters and skin-coloured ellipses, which are no faces."""
    image = _gradient(rng, side)
    for _ in range(int(rng.integers(2, 25))):
        skin = np.clip(np.array([200, 150, 120]) * rng.uniform(0.3, 1.2) + rng.normal(0, 12, 3), 0, 255)
        colour = tuple(float(v) for v in (skin if rng.random() < 0.3 else rng.integers(0, 256, 3)))
        a, b = rng.integers(0, side, 2), rng.integers(0, side, 2)
        thickness = int(rng.choice([-1, 1, 2, 5]))
        kind = rng.random()
        if kind < 0.35:
            cv2.ellipse(
                image, (int(a[0]), int(a[1])), (int(b[0] // 4 + 2), int(b[1] // 3 + 2)), 0, 0, 360, colour, thickness
            )
        elif kind < 0.6:
            cv2.rectangle(image, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), colour, thickness)
        elif kind < 0.8:
            cv2.line(image, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), colour, abs(thickness))
        else:
            text = "".join(chr(code) for code in rng.integers(48, 123, 6))
            cv2.putText(
                image, text, (int(a[0]), int(a[1])), int(rng.integers(0, 8)), float(rng.uniform(0.3, 2)), colour, 1
            )
    return image


def _gradient(rng: np.random.Generator, side: int) -> Image:
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
    return np.asarray(cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _smooth_noise(rng: np.random.Generator, side: int) -> Image:
    image = np.full((side, side, 3), rng.uniform(20, 235), np.float32)
    for cells in (3, 7, 19, 53):
        octave = rng.normal(0, rng.uniform(2, 45), (cells, cells, 1 if rng.random() < 0.5 else 3)).astype(np.float32)
        resized = cv2.resize(octave, (side, side), interpolation=cv2.INTER_CUBIC)
        image += resized.reshape(side, side, -1)
    return np.clip(image, 0, 255).astype(np.uint8)
