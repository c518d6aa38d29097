"""What the server asks of the service: `Control`, implemented where the rooms are wired together.

The pictures and scores of the moment are not asked for: the hub has them from the monitors (ScorePublisher).
Errors are those of errors.py; the API turns them into problem documents: NotFound 404, Conflict 409, ConfigError 422
(UrlNotAllowed 403), Overloaded 503, StorageError 503.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from streamwatch.config import Config, StreamSettings
from streamwatch.domain import Alert, AlertKind, Review, StreamInfo, StreamStatus
from streamwatch.protocols import WhipGateway


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """Counts since the service started, and what holds now. Latencies are seconds, capture to score."""

    decoded: int = 0
    sampled: int = 0
    scored_faces: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """DropReason -> frames"""
    reconnects: int = 0
    sample_fps: float | None = None
    """analysed frames a second asked for now (a burst raises it, the budget lowers it)"""
    measured_fps: float | None = None
    latency_p50: float | None = None
    latency_p95: float | None = None
    quantiser: float | None = None
    """how hard H.264 compressed the newest frames: the median of their mean quantisers, 0 to 51"""


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream as it stands. `settings.url` is secret: only its display form leaves the server."""

    id: str
    settings: StreamSettings
    status: StreamStatus
    info: StreamInfo | None = None
    statistics: StreamStatistics = StreamStatistics()
    from_file: bool = False
    """True: it is in the configuration file, and a removal through the API lasts until the next reload."""


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """Wall times, Unix seconds. Newest `limit` points of [since, until), in rising order of time."""

    stream: str
    since: float
    until: float
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """One point of a stream's past. `score` None: unknown, `reason` says why. `members` 0 to 1 by name."""

    at: float
    score: float | None
    verdict: str
    reason: str | None = None
    threshold: float | None = None
    coverage: float | None = None
    members: Mapping[str, float] = field(default_factory=dict)
    low: float | None = None
    """where points were thinned out: the least ..."""
    high: float | None = None
    """... and the greatest score they stand for"""


@dataclass(frozen=True, slots=True)
class AlertQuery:
    """Newest first by (opened_at wall, id). `before`: only those that sort after this pair (the page's end)."""

    stream: str | None = None
    active: bool | None = None
    kind: AlertKind | None = None
    review: Review | None = None
    since: float | None = None
    until: float | None = None
    before: tuple[float, str] | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reload by difference did: ids of streams, and the names of settings that only a restart can change."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restart_needed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One event on its way to one sink: `state` pending, delivered or dead (given up). Times are Unix seconds."""

    sink: str
    sequence: int
    state: str
    attempts: int
    created_at: float
    finished_at: float | None
    error: str


class Control(Protocol):
    """All methods are called on the event loop; those that are not async return at once."""

    def streams(self) -> Sequence[StreamView]:
        """Sorted by id."""

    def stream(self, stream: str) -> StreamView:
        """Raises NotFound."""

    async def add_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        """Starts it; touches no other. Raises Conflict where the id is taken, UrlNotAllowed, ConfigError."""

    async def change_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        """The stream with these settings from now on: `enabled` False pauses it. Raises NotFound, UrlNotAllowed."""

    async def remove_stream(self, stream: str) -> None:
        """Legal in every state; returns when it has stopped. Raises NotFound."""

    async def scores(self, query: ScoreQuery) -> Sequence[ScorePoint]: ...

    async def alerts(self, query: AlertQuery) -> Sequence[Alert]:
        """At most `query.limit`."""

    async def alert(self, alert: str) -> Alert:
        """Raises NotFound."""

    async def review_alert(self, alert: str, review: Review, note: str, by: str) -> Alert:
        """Raises NotFound. The change also reaches the hub as an `updated` event."""

    async def deliveries(self, alert: str) -> Sequence[DeliveryView]:
        """How far each event of the alert has come, by sink and sequence; empty where no sink is told of it."""

    async def evidence(self, alert: str) -> Sequence[Path]:
        """The directory of the alert's bundle, then those of faces that joined it; each is named after its bundle,
        `ALERT+TRACK` for a face that joined, which may be asked for by itself. Raises NotFound where there is none
        (yet)."""

    def config(self) -> Config:
        """What holds now, streams added by the API included."""

    async def reload(self) -> ReloadReport:
        """Reads the configuration file again. Raises ConfigError, having changed nothing."""

    def describe(self) -> Mapping[str, Any]:
        """The system page, JSON-able: see docs/protocol.md for its keys."""

    def not_ready(self) -> Sequence[str]:
        """Why the service is not ready, empty when it is: weights, device, draining. A dead camera is no reason."""

    @property
    def whip(self) -> WhipGateway | None:
        """None: WebRTC ingest is not available."""
