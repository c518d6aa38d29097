"""The API's records and bodies: what goes out, what comes in."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from typing_extensions import TypedDict

from streamwatch.config import Slug, StreamSettings
from streamwatch.domain import AlertKind, Review
from streamwatch.errors import ConfigError
from streamwatch.redact import display_url
from streamwatch.server.messages import info_record, iso, ratio
from streamwatch.server.ports import DeliveryView, ReloadReport, ScorePoint, StreamStatistics, StreamView
from streamwatch.server.wire import InfoRecord, ScoreMessage

T = TypeVar("T")
SECRET_OR_OWN = {"url", "name", "enabled"}


_ISO = re.compile(r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")


def _parsed(value: object) -> datetime:
    if not isinstance(value, str) or not _ISO.match(value):
        raise ValueError("must be an ISO 8601 date and time")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be an ISO 8601 date and time") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


Time = Annotated[datetime, BeforeValidator(_parsed)]
"""ISO 8601; UTC where no offset is given."""


NEW_STREAM = {"id": "lobby", "url": "rtsp://user:password@10.0.0.7/stream1", "name": "Lobby"}
REVIEW = {"review": "false_alarm", "note": "a film on the lobby's screen"}


class NewStream(StreamSettings):
    """A stream to add: its id and its settings."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "lobby", "url": "rtsp://user:password@10.0.0.7/stream1", "name": "Lobby"}]
        }
    )
    id: Slug


if TYPE_CHECKING:

    class StreamPatch(BaseModel): ...
else:
    # The settings of a stream, each optional; null takes one back to its default.
    StreamPatch = create_model(
        "StreamPatch",
        __config__=ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": False}, {"sample_fps": 4}]}),
        __doc__="A merge patch (RFC 7396) of a stream's settings; null takes a setting back to its default.",
        **{
            name: (
                Annotated[(field.annotation, *field.metadata, Field())] | None,
                Field(default=None, description=field.description),
            )
            for name, field in StreamSettings.model_fields.items()
        },
    )


class ReviewBody(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"review": "false_alarm", "note": "a film on the lobby's screen"}]},
    )
    review: Review
    note: str = Field(default="", max_length=2000)


class AlertFilter(BaseModel):
    """The query of a list of alerts."""

    model_config = ConfigDict(extra="forbid")
    stream: str | None = Field(default=None, max_length=64)
    active: bool | None = None
    kind: AlertKind | None = None
    review: Review | None = None
    since: Time | None = None
    until: Time | None = None
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, max_length=512, description="`next` of the page before")


class LoginBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    token: str = Field(min_length=1, max_length=4096)


class SessionRecord(TypedDict):
    authenticated: bool
    scopes: list[str]
    anonymous: bool
    name: str


class Page(BaseModel, Generic[T]):
    """`next` goes into `?cursor=` for the page that follows; null on the last."""

    items: list[T]
    next: str | None = None


class StatisticsRecord(TypedDict):
    decoded: int
    sampled: int
    scored_faces: int
    dropped: dict[str, int]
    reconnects: int
    sample_fps: float | None
    measured_fps: float | None
    latency_p50: float | None
    latency_p95: float | None
    quantiser: float | None


class StreamRecord(TypedDict):
    """A stream. `url` is without user information and query: credentials never come back."""

    id: str
    name: str
    url: str
    enabled: bool
    state: str
    reason: str | None
    detail: str
    attempt: int
    retry_at: str | None
    degraded: bool
    since: str
    info: InfoRecord | None
    settings: dict[str, Any]
    from_file: bool
    score: ScoreMessage | None
    statistics: StatisticsRecord


class PointRecord(TypedDict):
    at: str
    score: float | None
    verdict: str
    reason: str | None
    threshold: float | None
    coverage: float | None
    members: dict[str, float]
    low: float | None
    high: float | None


class EvidenceFile(TypedDict):
    name: str
    size: int
    media_type: str
    href: str


class EvidenceRecord(TypedDict):
    alert: str
    files: list[EvidenceFile]
    zip: str
    joined: list[str]


class DeliveryRecord(TypedDict):
    sink: str
    sequence: int
    state: str
    attempts: int
    created_at: str
    finished_at: str | None
    error: str


class DeliveriesRecord(TypedDict):
    items: list[DeliveryRecord]


class ReloadRecord(TypedDict):
    added: list[str]
    changed: list[str]
    removed: list[str]
    restart_needed: list[str]


class Readiness(TypedDict):
    ready: bool
    reasons: list[str]


def delivery_record(delivery: DeliveryView) -> DeliveryRecord:
    return {
        "sink": delivery.sink,
        "sequence": delivery.sequence,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "created_at": iso(delivery.created_at),
        "finished_at": None if delivery.finished_at is None else iso(delivery.finished_at),
        "error": delivery.error,
    }


def stream_record(view: StreamView, score: ScoreMessage | None) -> StreamRecord:
    status = view.status
    return {
        "id": view.id,
        "name": view.settings.name or view.id,
        "url": display_url(view.settings.url.get_secret_value()),
        "enabled": view.settings.enabled,
        "state": status.state.value,
        "reason": status.reason.value if status.reason else None,
        "detail": status.detail,
        "attempt": status.attempt,
        "retry_at": iso(status.retry_at.wall) if status.retry_at else None,
        "degraded": status.degraded,
        "since": iso(status.at.wall),
        "info": info_record(view.info) if view.info else None,
        "settings": view.settings.model_dump(mode="json", exclude=SECRET_OR_OWN),
        "from_file": view.from_file,
        "score": score,
        "statistics": statistics_record(view.statistics),
    }


def statistics_record(statistics: StreamStatistics) -> StatisticsRecord:
    return {
        "decoded": statistics.decoded,
        "sampled": statistics.sampled,
        "scored_faces": statistics.scored_faces,
        "dropped": dict(statistics.dropped),
        "reconnects": statistics.reconnects,
        "sample_fps": ratio(statistics.sample_fps),
        "measured_fps": ratio(statistics.measured_fps),
        "latency_p50": ratio(statistics.latency_p50),
        "latency_p95": ratio(statistics.latency_p95),
        "quantiser": ratio(statistics.quantiser),
    }


def point_record(point: ScorePoint) -> PointRecord:
    return {
        "at": iso(point.at),
        "score": ratio(point.score),
        "verdict": point.verdict,
        "reason": point.reason,
        "threshold": ratio(point.threshold),
        "coverage": ratio(point.coverage),
        "members": {name: round(value, 4) for name, value in point.members.items()},
        "low": ratio(point.low),
        "high": ratio(point.high),
    }


def reload_record(report: ReloadReport) -> ReloadRecord:
    return {
        "added": list(report.added),
        "changed": list(report.changed),
        "removed": list(report.removed),
        "restart_needed": list(report.restart_needed),
    }


def patched(settings: StreamSettings, changes: dict[str, Any]) -> StreamSettings:
    """The settings under a merge patch. Raises ConfigError: one line a fault."""
    values = {
        name: getattr(settings, name) for name in StreamSettings.model_fields if changes.get(name, ...) is not None
    }
    values.update({name: value for name, value in changes.items() if value is not None})
    try:
        return StreamSettings.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)]
        raise ConfigError(*faults) from None


def etag(value: Any, key: bytes) -> str:
    """A strong validator. Keyed, since `value` may hold secrets that a plain hash would let one test guesses on."""
    text = json.dumps(value, sort_keys=True, default=str)
    return f'"{hashlib.blake2b(text.encode(), key=key, digest_size=12).hexdigest()}"'
