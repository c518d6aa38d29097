"""The wire schema, version 1: types of the websocket's messages and of the API's records.

schema.py publishes them as JSON Schema and AsyncAPI; messages.py makes them. Times are ISO 8601 in UTC with
milliseconds, scores are rounded to four digits, boxes to a tenth of a pixel.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

VERSION: Literal[1] = 1
_STRICT = ConfigDict(extra="forbid")

Unit = float | None
VerdictName = Literal["real", "suspect", "fake", "unknown"]
StateName = Literal["connecting", "live", "stalled", "reconnecting", "paused", "ended", "failed", "stopped"]


@with_config(_STRICT)
class FaceRecord(TypedDict):
    """One face track that is visible in the frame. `members`: what each member of the ensemble says, 0 to 1."""

    track: int
    box: list[float]
    score: Unit
    verdict: VerdictName
    reason: str | None
    gate: str | None
    """where the reason is low_quality: the measure that shut the face out (size, sharpness, brightness, glare, pose,
    truncation, compression)"""
    quality: float
    coverage: float
    confirmed: bool
    members: dict[str, float]
    logit: float | None
    """of the newest frame alone, where the face was scored in it: what the fast rule adds up, and replay needs"""


@with_config(_STRICT)
class ScoreMessage(TypedDict):
    """The window's verdict after one analysed frame. `score` is null when the verdict is unknown: `reason` says why.
    `age_ms`: from capture to the moment of publishing (in a snapshot: of sending)."""

    v: Literal[1]
    epoch: str
    seq: int
    type: Literal["score"]
    stream: str
    captured_at: str
    age_ms: int
    state: StateName
    verdict: VerdictName
    score: Unit
    threshold: float
    reason: str | None
    gate: str | None
    """where the reason is low_quality: that of the face that gave it"""
    coverage: float
    frame: list[int] | None
    worst: int | None
    """the track that gave the score"""
    faces: list[FaceRecord]
    skipped: NotRequired[int]
    """how many older messages of this kind this client did not get, because this one took their place"""


@with_config(_STRICT)
class InfoRecord(TypedDict):
    codec: str
    width: int
    height: int
    fps: float | None
    transport: str
    decoder: str


@with_config(_STRICT)
class StreamMessage(TypedDict):
    """A stream's state. In any state but live and stalled, earlier scores of the stream no longer hold."""

    v: Literal[1]
    epoch: str
    seq: int
    type: Literal["stream"]
    stream: str
    name: str
    at: str
    state: StateName
    reason: str | None
    detail: str
    attempt: int
    retry_at: str | None
    degraded: bool
    info: InfoRecord | None
    skipped: NotRequired[int]


@with_config(_STRICT)
class RemovedMessage(TypedDict):
    """The stream is no more."""

    v: Literal[1]
    epoch: str
    seq: int
    type: Literal["removed"]
    stream: str
    at: str


@with_config(_STRICT)
class AlertRecord(TypedDict):
    id: str
    kind: str
    rule: str
    stream: str
    severity: Literal["info", "warning", "critical"]
    active: bool
    opened_at: str
    updated_at: str
    resolved_at: str | None
    value: Unit
    peak: Unit
    threshold: Unit
    summary: str
    track: int | None
    review: Literal["none", "acknowledged", "confirmed", "false_alarm"]
    review_note: str
    reviewed_by: str
    silenced: bool
    labels: dict[str, str]


@with_config(_STRICT)
class AlertMessage(TypedDict):
    """A change of one alert. Never replaced by a later one. `stream` is "" where it speaks of the service."""

    v: Literal[1]
    epoch: str
    seq: int
    type: Literal["alert"]
    stream: str
    phase: Literal["opened", "updated", "resolved"]
    before: AlertRecord | None
    after: AlertRecord


@with_config(_STRICT)
class SnapshotStream(TypedDict):
    """Where one stream stands: `seq` is the last number given out."""

    stream: str
    seq: int
    status: StreamMessage | None
    score: ScoreMessage | None


@with_config(_STRICT)
class SnapshotMessage(TypedDict):
    """Always the first message, and again when a subscription grows. Streams named in `resumed` are left out: what the
    client missed of them follows."""

    v: Literal[1]
    epoch: str
    type: Literal["snapshot"]
    at: str
    version: str
    heartbeat_s: float
    resumed: list[str]
    streams: list[SnapshotStream]
    alerts: list[AlertRecord]


@with_config(_STRICT)
class HeartbeatMessage(TypedDict):
    """The service lives; `at` is its clock. Sent every `heartbeat_s`, and in answer to `ping`."""

    v: Literal[1]
    epoch: str
    type: Literal["heartbeat"]
    at: str


@with_config(_STRICT)
class ErrorMessage(TypedDict):
    """What the client sent was not understood; the connection goes on."""

    v: Literal[1]
    epoch: str
    type: Literal["error"]
    code: str
    message: str


@with_config(_STRICT)
class PictureHeader(TypedDict):
    """Head of a binary message: 4 bytes, big-endian, give its length; it follows as JSON in UTF-8, then the image.
    `thumbnail` is a JPEG of the analysed frame, `heat` an RGBA PNG to be stretched over `box`."""

    v: Literal[1]
    epoch: str
    type: Literal["thumbnail", "heat"]
    stream: str
    captured_at: str
    frame: list[int]
    size: list[int]
    box: list[float] | None
    track: int | None


@with_config(_STRICT)
class SubscribeMessage(TypedDict):
    """Replaces the subscription; a key that is left out stays as it was. `streams` null: all."""

    type: Literal["subscribe"]
    streams: NotRequired[list[str] | None]
    thumbnails: NotRequired[bool | Literal["small", "large"]]
    heat: NotRequired[bool]


@with_config(_STRICT)
class PingMessage(TypedDict):
    """Answered by a heartbeat."""

    type: Literal["ping"]


@with_config(_STRICT)
class ResumeMessage(TypedDict):
    """First message after `?resume=1`: the last `seq` seen of each stream, in that epoch."""

    type: Literal["resume"]
    epoch: str
    seq: dict[str, int]
