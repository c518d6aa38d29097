"""The nouns that all rooms share. Standard library and numpy only. (The Protocols are in protocols.py.)

A score is the probability that the face is fake, 0 to 1. A logit is its log-odds, calibrated.
Boxes are (x0, y0, x1, y1) in pixels of the frame, keypoints (6, 2) in the order right eye, left eye, nose, mouth,
right tragion, left tragion. Monotonic times are seconds of `time.monotonic()`, wall times are Unix seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Box(NamedTuple):
    """Pixels of the frame; x1 and y1 are exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0


class Instant(NamedTuple):
    """One moment on both clocks: ordering and durations use `mono`, what people read uses `wall`."""

    mono: float
    wall: float

    def shifted(self, seconds: float) -> Instant:
        return Instant(self.mono + seconds, self.wall + seconds)


class ClockSource(StrEnum):
    """Where a frame's capture time comes from."""

    RTCP = "rtcp"
    ARRIVAL = "arrival"
    FILE = "file"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One sampled frame. `seq` rises by one for each sampled frame of a stream over the whole life of its monitor,
    reconnections included. `image` is uint8 (height, width, 3) RGB, or anything with `__dlpack__` of that shape."""

    stream: str
    seq: int
    captured_at: Instant
    pts: float | None
    image: Image
    clock: ClockSource = ClockSource.ARRIVAL
    quantiser: float | None = None
    """how hard H.264 compressed it: the mean quantiser, 0 to 51; None where that is not known"""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return int(self.image.shape[1]), int(self.image.shape[0])


class UnknownReason(StrEnum):
    WARMING_UP = "warming_up"
    NO_FACE = "no_face"
    LOW_QUALITY = "low_quality"
    STALE = "stale"
    DISAGREEMENT = "disagreement"


class Verdict(StrEnum):
    REAL = "real"
    SUSPECT = "suspect"
    FAKE = "fake"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a face can be trusted. `weight` 0 to 1; `gate` names the measure that shuts the face out, else None.
    `measures` are the raw values: size (box height, px), sharpness, brightness, pose, truncation, compression,
    quantiser."""

    weight: float
    gate: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face of one frame. `track` and `quality` are filled in by the scoring room. Not `detected`: carried from the
    frame before by its motion."""

    box: Box
    confidence: float
    keypoints: Floats | None = None
    track: int | None = None
    quality: Quality | None = None
    detected: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class FaceScore:
    """What the ensemble says of one face. `members` maps a member's name to its calibrated logit, `logit` is fused.
    `crop` is what the members saw, uint8 (S, S, 3) RGB; `heat` the fused manipulation map, float32 (h, w) 0 to 1."""

    face: Face
    logit: float
    members: Mapping[str, float]
    crop: Image | None = None
    heat: Floats | None = None

    @property
    def score(self) -> float:
        return sigmoid(self.logit)


@dataclass(frozen=True, slots=True, eq=False)
class FrameScores:
    """All that is known of one analysed frame, on its way to the window, the hub and the recorders."""

    frame: Frame
    faces: tuple[FaceScore, ...]
    scored_at: Instant


@dataclass(frozen=True, slots=True)
class TrackScore:
    """One face track in the window. `score` is None while its verdict is unknown."""

    track: int
    box: Box
    score: float | None
    verdict: Verdict
    reason: UnknownReason | None
    coverage: float
    quality: float
    confirmed: bool
    members: Mapping[str, float] = field(default_factory=dict)
    """member name -> window score, 0 to 1"""
    visible: bool = True
    """seen in the newest frame"""
    logit: float | None = None
    """of the newest frame alone; None where this track was not scored in it"""
    gate: str | None = None
    """where the reason is low quality: the measure of `Quality` that shut out most of its faces"""


@dataclass(frozen=True, slots=True)
class StreamScore:
    """The window's verdict on a stream after one frame (or after time went by without any). `score` is that of the
    worst confirmed track and None whenever the verdict is unknown. `coverage` is the accepted share of the expected
    frames."""

    stream: str
    seq: int
    at: Instant
    verdict: Verdict
    reason: UnknownReason | None
    score: float | None
    threshold: float
    coverage: float
    tracks: tuple[TrackScore, ...] = ()
    frame_size: tuple[int, int] | None = None
    scored_at: Instant | None = None
    worst_track: int | None = None
    instant_logit: float | None = None
    """the worst accepted face of this frame alone; what the fast rule accumulates"""
    scene_cut: bool = False
    gate: str | None = None
    """where the reason is low quality: that of the track that gave it"""
    window: float | None = None
    """seconds that the verdict looks back: longer at low rates; None where a record of elsewhere does not say"""


class StreamState(StrEnum):
    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    PAUSED = "paused"
    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"


class FailureReason(StrEnum):
    CONNECTION_FAILED = "connection_failed"
    AUTH_FAILED = "auth_failed"
    TLS = "tls"
    TIMEOUT = "timeout"
    NOT_FOUND = "not_found"
    CODEC_UNSUPPORTED = "codec_unsupported"
    NO_VIDEO = "no_video"
    ENDED = "ended"
    STALLED = "stalled"
    DECODE_ERRORS = "decode_errors"
    NOT_ALLOWED = "not_allowed"
    DEVICE_MISSING = "device_missing"


class DropReason(StrEnum):
    QUEUE_FULL = "queue_full"
    REPLACED = "replaced"
    STALE = "stale"
    EXPIRED = "expired"
    BUDGET = "budget"
    DECODE_ERROR = "decode_error"
    FAILED = "failed"
    """an unexpected error in the analysis"""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """Where a stream's life stands. `detail` is fit for an operator and holds no secret."""

    stream: str
    state: StreamState
    at: Instant
    reason: FailureReason | None = None
    detail: str = ""
    attempt: int = 0
    retry_at: Instant | None = None
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a source learnt when it connected."""

    codec: str
    width: int
    height: int
    fps: float | None
    transport: str = ""
    decoder: str = "cpu"
    rotation: int = 0


class AlertKind(StrEnum):
    DEEPFAKE = "deepfake_suspected"
    STREAM_DOWN = "stream_down"
    STREAM_STALE = "stream_stale"
    NO_FACE = "no_face_for"
    DRIFT = "detector_drift"
    CANARY = "canary"
    SINK_FAILING = "sink_failing"
    STORAGE = "storage"
    TEST = "test"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Review(StrEnum):
    NONE = "none"
    ACKNOWLEDGED = "acknowledged"
    CONFIRMED = "confirmed"
    FALSE_ALARM = "false_alarm"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert through its life. `stream` is "" where it speaks of the service. `value` is the rule's value now,
    `peak` its worst; `threshold` what it was measured against."""

    id: str
    kind: AlertKind
    rule: str
    stream: str
    severity: Severity
    opened_at: Instant
    updated_at: Instant
    value: float
    peak: float
    threshold: float
    summary: str
    track: int | None = None
    resolved_at: Instant | None = None
    review: Review = Review.NONE
    review_note: str = ""
    reviewed_by: str = ""
    silenced: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.resolved_at is None


class AlertPhase(StrEnum):
    OPENED = "opened"
    UPDATED = "updated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """A change of one alert: `before` is None when it opens."""

    phase: AlertPhase
    before: Alert | None
    after: Alert


def sigmoid(logit: float) -> float:
    """1 / (1 + e^-x) without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


def logit(score: float, limit: float = 20.0) -> float:
    """Log-odds of a score, clamped to +-limit so that 0 and 1 stay finite."""
    if score <= 0.0:
        return -limit
    if score >= 1.0:
        return limit
    return max(-limit, min(limit, math.log(score / (1.0 - score))))
