"""Training scenes of the face detector: 128 px pictures with faces of all sizes, and the targets of their anchors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamwatch.domain import Floats, Image
from streamwatch.inference.blazeface import ANCHOR_COUNT, INPUT_SIZE, make_anchors
from streamwatch.training.detector_faces import LabelledFace

MIN_FACE = 4.0
MAX_FACE = 150.0
VISIBLE_FACE = 0.6
"""A face with less of its box inside the picture is neither asked for nor forbidden; below a third it is background."""
ANCHOR_SIZES = np.concatenate([np.tile([8.0, 20.0], 256), np.tile([24.0, 36.0, 52.0, 72.0, 96.0, 126.0], 64)])
"""The face size in input pixels that each anchor is trained for."""
SIZE_REACH, SIZE_BORDER = 1.75, 2.6
"""An anchor answers for faces within the first factor of its size, and is not asked about those up to the second."""
MIRRORED_KEYPOINTS = [1, 0, 2, 3, 5, 4]

_ANCHOR_CENTRES = make_anchors().numpy() * INPUT_SIZE
_ANCHOR_STRIDES = np.concatenate([np.full(512, 8.0), np.full(384, 16.0)])


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture (128, 128, 3), its faces as boxes (N, 4) and keypoints (N, 6, 2) in its pixels."""

    image: Image
    boxes: Floats
    keypoints: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Per anchor: label (1 face, 0 background, -1 not asked), box (896, 4), keypoints (896, 6, 2) in input pixels."""

    labels: Floats
    boxes: Floats
    keypoints: Floats


class SceneMaker:
    """Draws scenes: one large face, a portrait in its surroundings, a mosaic of many, or no face at all."""

    def __init__(self, faces: list[LabelledFace], backgrounds: list[Image]) -> None:
        self._faces = faces
        self._portraits = [face for face in faces if face.context] or faces
        self._backgrounds = backgrounds

    def draw(self, rng: np.random.Generator) -> Scene:
        canvas = self.background(rng)
        boxes: list[Floats] = []
        keypoints: list[Floats] = []
        kind = rng.random()
        if kind < 0.2:
            sizes = np.empty(0)
        elif kind < 0.45:
            sizes = np.exp(rng.uniform(np.log(48), np.log(MAX_FACE), 1))
        else:
            largest = np.exp(rng.uniform(np.log(9), np.log(64)))
            count = int(np.clip(rng.integers(1, 4 + 500 // largest**1.4), 1, 14))
            sizes = np.sort(np.maximum(largest * rng.uniform(0.4, 1.0, count), MIN_FACE))[::-1]
        for size in sizes:
            portrait = rng.random() < 0.4
            pool = self._portraits if portrait else self._faces
            face = pool[rng.integers(len(pool))]
            placed = _place(face, float(size), boxes, rng)
            if placed is None:
                continue
            alone = bool(not boxes and size > 40 and rng.random() < 0.5)
            box, points = _paste(canvas, face, placed, alone, rng)
            boxes.append(box)
            keypoints.append(points)
        image = degrade(canvas, rng)
        return Scene(
            image, np.array(boxes, np.float32).reshape(-1, 4), np.array(keypoints, np.float32).reshape(-1, 6, 2)
        )

    def background(self, rng: np.random.Generator) -> Image:
        """A random cut of one background, sometimes split with another."""
        canvas = self._cut(rng)
        if rng.random() < 0.4:
            other, at = self._cut(rng), int(rng.integers(16, INPUT_SIZE - 16))
            if rng.random() < 0.5:
                canvas[:, at:] = other[:, at:]
            else:
                canvas[at:] = other[at:]
        return canvas

    def _cut(self, rng: np.random.Generator) -> Image:
        source = self._backgrounds[rng.integers(len(self._backgrounds))]
        side = int(rng.integers(64, source.shape[0] + 1))
        top, left = rng.integers(source.shape[0] - side + 1, size=2)
        cut = source[top : top + side, left : left + side]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        resized = cv2.resize(np.ascontiguousarray(cut), (INPUT_SIZE, INPUT_SIZE), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.uint8)


def _place(face: LabelledFace, size: float, taken: list[Floats], rng: np.random.Generator) -> Floats | None:
    """Centre and size at which the face's picture leaves the earlier faces uncovered; None where none is found."""
    for _ in range(6):
        overhang = 0.35 if rng.random() < 0.25 else 0.0
        low = size * (0.5 - overhang)
        if low < INPUT_SIZE - low:
            centre = rng.uniform(low, INPUT_SIZE - low, 2)
        else:
            centre = INPUT_SIZE / 2 + rng.normal(0, 0.12 * size, 2)
        # The whole picture is pasted, so its reach, not the box alone, has to stay clear of the others.
        scale = size / face.size
        offset = (face.box[:2] + face.box[2:]) / 2
        extent = np.concatenate(
            [centre - offset * scale, centre + (np.array(face.image.shape[1::-1]) - offset) * scale]
        )
        clear = all(
            extent[0] > box[2] or extent[2] < box[0] or extent[1] > box[3] or extent[3] < box[1] for box in taken
        )
        if clear or not taken:
            return np.array([centre[0], centre[1], size], np.float32)
    return None


def _paste(
    canvas: Image, face: LabelledFace, place: Floats, alone: bool, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Warp one face picture onto the canvas, `alone` in place of all of it; returns its box and keypoints there."""
    image, points, box = face.image, face.keypoints, face.box
    centre = (box[:2] + box[2:]) / 2
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
        points = (points[MIRRORED_KEYPOINTS] * [-1, 1] + [image.shape[1], 0]).astype(np.float32)
        centre = (centre * [-1, 1] + [image.shape[1], 0]).astype(np.float32)
    scale = float(place[2]) / face.size
    while scale < 0.5:  # the warp samples bilinearly: halve first, or small faces alias
        half_size = (image.shape[1] // 2, image.shape[0] // 2)
        halved = np.asarray(cv2.resize(image, half_size, interpolation=cv2.INTER_AREA), np.uint8)
        factor = np.divide(half_size, image.shape[1::-1], dtype=np.float32)
        image, points, centre, scale = halved, points * factor, centre * factor, scale / float(factor.mean())
    angle = float(np.clip(rng.normal(0, 12), -40, 40))
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, scale)
    matrix[:, 2] += place[:2] - centre
    reach = INPUT_SIZE if alone else int(scale * max(image.shape) * 0.8) + 2
    low = np.clip(place[:2].astype(int) - reach, 0, INPUT_SIZE - 1)
    high = np.clip(place[:2].astype(int) + reach, low + 1, INPUT_SIZE)
    patch, size = canvas[low[1] : high[1], low[0] : high[0]], (int(high[0] - low[0]), int(high[1] - low[1]))
    placed_points = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    matrix[:, 2] -= low
    # A reflected border would show parts of the same face again, unlabelled, unless the face fills the picture.
    border = cv2.BORDER_REFLECT if place[2] > 100 and rng.random() < 0.5 else cv2.BORDER_REPLICATE
    warped = cv2.warpAffine(_tone(image, rng), matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
    if alone:
        patch[:] = warped
    else:
        mask = _mask(image.shape, centre, float(place[2]) / scale, rng)
        alpha = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR)[..., None].astype(np.uint16)
        patch[:] = ((warped * alpha + patch * (255 - alpha)) >> 8).astype(np.uint8)
    half = place[2] / 2
    box = np.array([place[0] - half, place[1] - half, place[0] + half, place[1] + half], np.float32)
    if rng.random() < 0.12:
        _occlude(canvas, box, rng)
    return box, placed_points


def _mask(shape: tuple[int, ...], centre: npt.NDArray[np.floating], size: float, rng: np.random.Generator) -> Image:
    """What of the picture is pasted: all of it, or the head alone with a soft border."""
    mask = np.full(shape[:2], 255, np.uint8)
    if rng.random() < 0.45:
        mask[:] = 0
        axes = (int(size * rng.uniform(0.52, 0.75)), int(size * rng.uniform(0.7, 0.95)))
        cv2.ellipse(mask, (int(centre[0]), int(centre[1] - 0.08 * size)), axes, 0, 0, 360, 255, -1)
        mask = cv2.blur(mask, (2 * int(size * 0.06) + 1,) * 2).astype(np.uint8)
    return mask


def _tone(image: Image, rng: np.random.Generator) -> Image:
    gain, offset = float(rng.uniform(0.7, 1.25)), float(rng.uniform(-25, 25))
    return np.asarray(cv2.convertScaleAbs(image, alpha=gain, beta=offset), np.uint8)


def _occlude(canvas: Image, box: Floats, rng: np.random.Generator) -> None:
    """Cover up to a third of the face with a plain bar or disc, as a mask, a hand or a microphone does."""
    size = float(box[3] - box[1])
    colour = tuple(float(value) for value in rng.integers(0, 256, 3))
    x, y = box[0] + rng.uniform(0, 1) * size, box[1] + rng.uniform(0.55, 1.1) * size
    if rng.random() < 0.5:
        cv2.circle(canvas, (int(x), int(y)), max(1, int(size * rng.uniform(0.1, 0.3))), colour, -1)
    else:
        cv2.rectangle(canvas, (int(box[0]), int(y)), (int(box[2]), int(y + 0.35 * size)), colour, -1)


def degrade(image: Image, rng: np.random.Generator) -> Image:
    """Camera and stream look: low light, colour cast, grey, blur, low resolution, noise and JPEG."""
    if rng.random() < 0.5:
        table = np.arange(256, dtype=np.float32)[:, None] / 255
        gamma = np.exp(rng.normal(0, 0.35)) * rng.uniform(0.95, 1.05, 3)
        gain = rng.uniform(0.35 if rng.random() < 0.25 else 0.8, 1.15) * rng.uniform(0.88, 1.1, 3)
        lut = np.clip(255 * gain * table**gamma, 0, 255).astype(np.uint8)
        image = cv2.LUT(image, lut.reshape(1, 256, 3)).astype(np.uint8)
    if rng.random() < 0.08:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8)
    if rng.random() < 0.2:
        side = int(INPUT_SIZE * rng.uniform(0.4, 0.9))
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (INPUT_SIZE, INPUT_SIZE), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    elif rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4))).astype(np.uint8)
    if rng.random() < 0.25:
        noise = np.empty(image.shape, np.int16)
        cv2.randn(noise, 0, float(rng.uniform(2, 14)))
        image = cv2.add(image, noise, dtype=cv2.CV_8U).astype(np.uint8)
    if rng.random() < 0.4:
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(image)


def assign(scene: Scene) -> Targets:
    """Match anchors and faces: the anchors of a fitting size whose cell is nearest, and those well inside the face.

    Every face has at least one anchor. Anchors in the border zone, of a face or of its size, are not asked at all.
    """
    labels = np.zeros(ANCHOR_COUNT, np.float32)
    boxes = np.zeros((ANCHOR_COUNT, 4), np.float32)
    keypoints = np.zeros((ANCHOR_COUNT, 6, 2), np.float32)
    if not len(scene.boxes):
        return Targets(labels, boxes, keypoints)
    sizes = scene.boxes[:, 3] - scene.boxes[:, 1]
    centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    distance = np.abs(_ANCHOR_CENTRES[:, None] - centres[None]).max(-1)  # (896, N)
    size_ratio = np.exp(np.abs(np.log(ANCHOR_SIZES[:, None] / np.clip(sizes, 8.0, 126.0)[None])))
    nearest = np.maximum(_ANCHOR_STRIDES[:, None] * 0.55, 0.22 * sizes[None])
    positive = (distance <= nearest) & (size_ratio <= SIZE_REACH)
    ignored = (distance <= np.maximum(_ANCHOR_STRIDES[:, None], 0.45 * sizes[None])) & ~positive
    ignored &= size_ratio <= SIZE_BORDER
    inside = np.minimum(scene.boxes[:, 2:], INPUT_SIZE) - np.maximum(scene.boxes[:, :2], 0)
    visible = np.prod(np.clip(inside, 0, None), axis=1) / sizes**2
    ignored |= positive & ((visible < VISIBLE_FACE) | (sizes < MIN_FACE))[None]
    asked = positive & ((visible >= VISIBLE_FACE) & (sizes >= MIN_FACE))[None]
    ignored &= (visible >= 0.33)[None]
    labels[ignored.any(1)] = -1
    owner = np.where(asked, distance / sizes[None], np.inf).argmin(1)
    chosen = asked.any(1)
    labels[chosen] = 1
    boxes[chosen] = scene.boxes[owner[chosen]]
    keypoints[chosen] = scene.keypoints[owner[chosen]]
    return Targets(labels, boxes, keypoints)


def batch_of(scenes: list[Scene]) -> tuple[Image, Targets]:
    """Stack scenes and their targets along a new first axis."""
    targets = [assign(scene) for scene in scenes]
    stacked = Targets(
        np.stack([t.labels for t in targets]),
        np.stack([t.boxes for t in targets]),
        np.stack([t.keypoints for t in targets]),
    )
    return np.stack([scene.image for scene in scenes]), stacked
