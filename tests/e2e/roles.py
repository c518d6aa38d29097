"""The parts that streams play for the browser: pictures, faces and scores by a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import skimage.data

from streamwatch.domain import (
    Box,
    Face,
    FaceScore,
    FailureReason,
    Floats,
    Frame,
    FrameScores,
    Image,
    Instant,
    StreamScore,
    StreamState,
    TrackScore,
    UnknownReason,
    Verdict,
    logit,
)
from tests.fakes.control import MEMBERS

THRESHOLD = 0.7
WIDTH, HEIGHT = 640, 360


@dataclass(slots=True)
class Role:
    """`base` is the stream's score (None: no face), `swing` how far it wanders, `spread` how far members differ."""

    id: str
    name: str
    base: float | None = 0.1
    swing: float = 0.04
    faces: int = 1
    url: str = "rtsp://10.0.0.7/stream1"
    state: StreamState = StreamState.LIVE
    reason: FailureReason | None = None
    detail: str = ""
    spread: float = 0.04

    @property
    def variant(self) -> int:
        return sum(map(ord, self.id)) % 4

    def score(self, t: float) -> float | None:
        if self.base is None:
            return None
        wave = math.sin(t / 9.0 + self.variant) + 0.4 * math.sin(t / 1.7)
        return _inside(self.base + self.swing * wave)

    def members(self, score: float) -> dict[str, float]:
        return {name: _inside(score + self.spread * (i - 1.5)) for i, name in enumerate(MEMBERS)}


def _inside(score: float) -> float:
    return min(0.985, max(0.01, score))


def verdict(score: float | None) -> Verdict:
    if score is None:
        return Verdict.UNKNOWN
    return Verdict.FAKE if score >= THRESHOLD else Verdict.SUSPECT if score >= THRESHOLD - 0.15 else Verdict.REAL


def analysed(role: Role, seq: int, at: Instant, score: float | None) -> tuple[StreamScore, FrameScores]:
    """What the service would publish of one frame in which the worst face scores `score` (None: there is none)."""
    tracks = _tracks(role, score)
    result = StreamScore(
        role.id,
        seq,
        at,
        verdict(score),
        UnknownReason.NO_FACE if score is None else None,
        score,
        THRESHOLD,
        0.95,
        tracks,
        (WIDTH, HEIGHT),
        worst_track=1 if tracks else None,
    )
    return result, FrameScores(Frame(role.id, seq, at, None, picture(role.variant)), _faces(tracks), at)


def _tracks(role: Role, score: float | None) -> tuple[TrackScore, ...]:
    values = [] if score is None else [score, *([0.12] * (role.faces - 1))]
    return tuple(
        TrackScore(i + 1, _box(role.variant, i), own, verdict(own), None, 0.95, 0.8, True, role.members(own))
        for i, own in enumerate(values)
    )


def _faces(tracks: Sequence[TrackScore]) -> tuple[FaceScore, ...]:
    return tuple(
        FaceScore(
            Face(track.box, 0.9, track=track.track),
            logit(track.score or 0.0),
            {},
            heat=_heat(track.score or 0.0) if track.track == 1 else None,
        )
        for track in tracks
    )


@cache
def picture(variant: int) -> Image:
    """One of four frames: a portrait before a plain wall, tinted."""
    canvas = np.full((HEIGHT, WIDTH, 3), (58, 64, 70), np.uint8)
    canvas += np.linspace(0, 40, WIDTH, dtype=np.uint8)[None, :, None]
    canvas[30:, _left(variant) : _left(variant) + 330] = cv2.resize(skimage.data.astronaut()[:340, 40:380], (330, 330))
    tint = np.array([(1, 1, 1), (1, 0.93, 0.85), (0.85, 0.95, 1), (0.95, 1, 0.9)][variant])
    return np.asarray(canvas * tint, dtype=np.uint8)


def _left(variant: int) -> int:
    return 155 + 12 * variant


def _box(variant: int, index: int) -> Box:
    left = _left(variant) + 130
    return Box(left, 82, left + 92, 202) if index == 0 else Box(30 + 70 * index, 120, 80 + 70 * index, 185)


def _heat(score: float) -> Floats:
    y, x = np.mgrid[0:14, 0:14].astype(np.float32)
    return np.asarray(score * np.exp(-((x - 8) ** 2 + (y - 9) ** 2) / 14), dtype=np.float32)
