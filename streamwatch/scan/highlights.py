"""The faces worth showing of a file: its most and least suspicious ones, at bounded memory."""

from __future__ import annotations

import base64
import heapq
import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from streamwatch.domain import FaceScore, Floats, Image

SHOWN = 6
THUMBNAIL = 160


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """`picture` and `heat` are JPEG data URLs; `heat` lays the manipulation map over the face."""

    score: float
    frame: int
    time: float
    picture: str
    heat: str | None


class Highlights:
    """Keeps the `SHOWN` highest and lowest scored faces as crops of some 150 kB each."""

    def __init__(self) -> None:
        self._order = itertools.count()  # breaks ties before arrays are compared
        self._worst: list[tuple[float, int, FaceScore, int, float]] = []
        self._best: list[tuple[float, int, FaceScore, int, float]] = []

    def add(self, scored: FaceScore, frame: int, time: float) -> None:
        if scored.crop is None:
            return
        for heap, key in ((self._worst, scored.logit), (self._best, -scored.logit)):
            entry = (key, next(self._order), scored, frame, time)
            if len(heap) < SHOWN:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)

    def worst(self) -> list[Thumbnail]:
        return [_thumbnail(*entry[2:]) for entry in sorted(self._worst, reverse=True)]

    def best(self) -> list[Thumbnail]:
        """Without those that are among the worst, in a file of few faces."""
        shown = {id(entry[2]) for entry in self._worst}
        return [_thumbnail(*entry[2:]) for entry in sorted(self._best, reverse=True) if id(entry[2]) not in shown]


def _thumbnail(scored: FaceScore, frame: int, time: float) -> Thumbnail:
    assert scored.crop is not None
    face = np.asarray(cv2.resize(scored.crop, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)
    heat = _jpeg(overlay(face, scored.heat)) if scored.heat is not None else None
    return Thumbnail(scored.score, frame, time, _jpeg(face), heat)


def overlay(face: Image, heat: Floats) -> Image:
    """The map (h, w) 0 to 1 in colours over the face (H, W, 3): the more altered a place looks, the less of the face
    shows."""
    smooth = np.clip(cv2.resize(heat, (face.shape[1], face.shape[0]), interpolation=cv2.INTER_CUBIC), 0, 1)
    colours = cv2.cvtColor(cv2.applyColorMap((smooth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    share = (0.25 + 0.55 * smooth)[..., None]
    return np.asarray(face * (1 - share) + colours * share, np.uint8)


def _jpeg(picture: Image) -> str:
    written, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert written, "a JPEG of uint8 RGB can always be made"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
