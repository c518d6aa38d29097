"""The Protocols by which rooms that do not know each other meet. Only app.py joins them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    ClockSource,
    DropReason,
    Face,
    FaceScore,
    Frame,
    FrameScores,
    Image,
    Instant,
    StreamInfo,
    StreamScore,
    StreamStatus,
)

Report = Callable[[AlertKind, str, str | None], None]
"""(kind, name, problem or None): the service speaks of itself."""


class Sink(Protocol):
    """What a source gives its frames to. Called from the source's own thread or task; never blocks."""

    def connected(self, info: StreamInfo) -> None: ...
    def decoded(self, count: int = 1) -> None: ...
    def offer(
        self,
        image: Image,
        captured_at: Instant,
        pts: float | None,
        clock: ClockSource,
        quantiser: float | None = None,
    ) -> None: ...
    def dropped(self, reason: DropReason, count: int = 1) -> None: ...
    def packet(self, packet: Any, template: Any) -> None:
        """A demuxed packet (an `av.Packet`) for the recorder's ring, and its stream; the ring may ignore it."""


@runtime_checkable
class Source(Protocol):
    """One run of one source: returns at the end, raises SourceError, holds no retry logic. Cancelling `run` stops it
    promptly; a thread of its own is its own affair and always joined."""

    async def run(self, sink: Sink) -> None: ...


@dataclass(frozen=True, slots=True)
class FindOptions:
    """Which faces of a frame count. `roi` and `ignore` are (x0, y0, x1, y1) relative to the frame, 0 to 1."""

    max_faces: int = 16
    min_size: float = 24.0
    roi: tuple[float, float, float, float] | None = None
    ignore: tuple[tuple[float, float, float, float], ...] = ()


class Engine(Protocol):
    """Detection and scoring on the devices, batched over streams. Both raise Expired when the monotonic `deadline`
    passed before the work was begun, Overloaded when the queue is full. A failed batch fails only its own callers."""

    async def find(self, frame: Frame, options: FindOptions, deadline: float) -> tuple[Face, ...]: ...
    async def score(self, frame: Frame, faces: Sequence[Face], deadline: float) -> tuple[FaceScore, ...]: ...


class ScorePublisher(Protocol):
    """Takes results away from the monitor. Never blocks, never raises for a slow consumer."""

    def score(self, score: StreamScore, scores: FrameScores | None) -> None: ...
    def status(self, status: StreamStatus, info: StreamInfo | None) -> None: ...
    def alert(self, event: AlertEvent) -> None: ...


class ClipKind(StrEnum):
    REMUXED = "remuxed"
    ENCODED = "encoded"


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """A clip that was written: which way, and what it covers (wall times of its first and last picture)."""

    kind: ClipKind
    path: Path
    start: float
    end: float
    packets: int
    codec: str


class Clip(Protocol):
    """Encoded pictures taken out of a ring, in memory: whatever the ring forgets from then on, they stay."""

    async def write(self, path: Path) -> ClipInfo:
        """The file's suffix is corrected to its format: see the result's `path`. Raises StorageError; a file of that
        name appears only whole, a cancellation included."""


class ClipSource(Protocol):
    """The bounded rings of what was last seen of each stream."""

    def select(self, stream: str, start: float, end: float) -> Clip | None:
        """What the ring holds of wall times `start` to `end` (from the keyframe before `start`); None when it holds
        nothing. Never blocks."""


class WhipGateway(Protocol):
    """WebRTC ingest as the server sees it. Raises NotFound for an unknown stream or session, Conflict, ConfigError
    for a bad SDP."""

    async def publish(self, stream: str, offer: str) -> tuple[str, str]:
        """(session id, answer SDP)"""

    async def trickle(self, stream: str, session: str, fragment: str) -> None: ...
    async def close(self, stream: str, session: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """One row of the outbox: an alert event on its way to one sink. `sequence` orders the events of one alert."""

    id: int
    sink: str
    event: AlertEvent
    sequence: int
    attempts: int
    next_attempt: float
    created_at: float


class AlertStore(Protocol):
    """Alerts and their outbox. `record` is one transaction. All raise StorageError."""

    async def record(self, event: AlertEvent, sinks: Sequence[str]) -> None: ...
    async def due(self, sink: str, now: float, limit: int, finished: Collection[int] = ()) -> list[Delivery]:
        """The oldest undelivered rows of the sink, at most one per alert, that may be tried at wall time `now`.
        `finished` are ids of rows that are done with, though that could not be noted yet."""

    async def delivered(self, delivery: Delivery, at: float) -> None: ...
    async def failed(self, delivery: Delivery, error: str, next_attempt: float | None) -> None:
        """`next_attempt` None moves it to the dead letters."""

    async def active(self, resolved_since: float | None = None) -> list[Alert]:
        """Alerts not yet resolved, and those resolved since that wall time, for the start after a crash."""
