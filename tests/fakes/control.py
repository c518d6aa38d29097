"""The service behind the API, held in memory: real settings, statuses and alerts, a real hub, no sources."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamwatch.config import Config, ServerSettings, StreamSettings
from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    Box,
    Face,
    FaceScore,
    Frame,
    FrameScores,
    Instant,
    Review,
    Severity,
    StreamInfo,
    StreamScore,
    StreamState,
    StreamStatus,
    TrackScore,
    Verdict,
)
from streamwatch.errors import Conflict, NotFound, UrlNotAllowed
from streamwatch.protocols import WhipGateway
from streamwatch.server.auth import Access
from streamwatch.server.deps import Services
from streamwatch.server.hub import Hub, HubOptions
from streamwatch.server.ports import AlertQuery, DeliveryView, ReloadReport, ScorePoint, ScoreQuery, StreamView

MEMBERS = ("TimmV2", "TimmV2ST", "ViT", "ViTST")


def instant(wall: float | None = None) -> Instant:
    return Instant(time.monotonic(), time.time() if wall is None else wall)


def stream_score(stream: str, seq: int, value: float = 0.81, at: Instant | None = None) -> StreamScore:
    track = TrackScore(
        track=7,
        box=Box(40.0, 20.0, 120.0, 140.0),
        score=value,
        verdict=Verdict.FAKE if value >= 0.7 else Verdict.REAL,
        reason=None,
        coverage=0.9,
        quality=0.7,
        confirmed=True,
        members=dict.fromkeys(MEMBERS, value),
    )
    moment = at or instant()
    return StreamScore(
        stream=stream,
        seq=seq,
        at=moment,
        verdict=track.verdict,
        reason=None,
        score=value,
        threshold=0.7,
        coverage=0.9,
        tracks=(track,),
        frame_size=(320, 240),
        scored_at=moment,
        worst_track=7,
    )


def frame_scores(stream: str, seq: int, value: float = 1.5, at: Instant | None = None) -> FrameScores:
    image = np.full((240, 320, 3), (seq * 16) % 256, dtype=np.uint8)
    image[20:140, 40:120] = (200, 150, 120)
    heat = np.linspace(0, 1, 14 * 14, dtype=np.float32).reshape(14, 14)
    face = Face(Box(40.0, 20.0, 120.0, 140.0), 0.99, track=7)
    scored = FaceScore(face, value, dict.fromkeys(MEMBERS, value), heat=heat)
    return FrameScores(Frame(stream, seq, at or instant(), seq / 25, image), (scored,), at or instant())


def alert(name: str, stream: str = "lobby", opened: float | None = None) -> Alert:
    at = instant(opened)
    return Alert(
        id=name,
        kind=AlertKind.DEEPFAKE,
        rule="deepfake",
        stream=stream,
        severity=Severity.CRITICAL,
        opened_at=at,
        updated_at=at,
        value=0.81,
        peak=0.83,
        threshold=0.7,
        summary=f"{stream}: score 0.81 above 0.70",
        track=7,
    )


@dataclass
class MemoryControl:
    """Implements server.ports.Control."""

    hub: Hub
    settings: dict[str, StreamSettings] = field(default_factory=dict)
    statuses: dict[str, StreamStatus] = field(default_factory=dict)
    held: dict[str, Alert] = field(default_factory=dict)
    points: list[ScorePoint] = field(default_factory=list)
    bundles: dict[str, Path] = field(default_factory=dict)
    told: dict[str, list[DeliveryView]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    reloading: Callable[[], ReloadReport] = ReloadReport
    whip: WhipGateway | None = None

    def _view(self, stream: str) -> StreamView:
        info = StreamInfo("h264", 320, 240, 25.0, "tcp")
        return StreamView(stream, self.settings[stream], self.statuses[stream], info)

    def streams(self) -> Sequence[StreamView]:
        return [self._view(stream) for stream in sorted(self.settings)]

    def stream(self, stream: str) -> StreamView:
        if stream not in self.settings:
            raise NotFound(f"there is no stream {stream!r}")
        return self._view(stream)

    async def add_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        if stream in self.settings:
            raise Conflict(f"there is already a stream {stream!r}")
        if not settings.url.get_secret_value().startswith("rtsp"):
            raise UrlNotAllowed(f"url: {settings.url.get_secret_value()}: this scheme is not allowed")
        self.settings[stream] = settings
        self.hub.configured(stream, settings.name)
        self._state(stream, StreamState.LIVE if settings.enabled else StreamState.PAUSED)
        return self._view(stream)

    async def change_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        self.stream(stream)
        self.settings[stream] = settings
        self.hub.configured(stream, settings.name)
        self._state(stream, StreamState.LIVE if settings.enabled else StreamState.PAUSED)
        return self._view(stream)

    async def remove_stream(self, stream: str) -> None:
        self.stream(stream)
        del self.settings[stream], self.statuses[stream]
        self.hub.removed(stream)

    def _state(self, stream: str, state: StreamState) -> None:
        self.statuses[stream] = StreamStatus(stream, state, instant())
        self.hub.status(self.statuses[stream], StreamInfo("h264", 320, 240, 25.0, "tcp"))

    async def scores(self, query: ScoreQuery) -> Sequence[ScorePoint]:
        return [point for point in self.points if query.since <= point.at < query.until][-query.limit :]

    async def alerts(self, query: AlertQuery) -> Sequence[Alert]:
        found = sorted(self.held.values(), key=lambda a: (a.opened_at.wall, a.id), reverse=True)
        return [
            a
            for a in found
            if (query.stream is None or a.stream == query.stream)
            and (query.active is None or a.active == query.active)
            and (query.kind is None or a.kind is query.kind)
            and (query.review is None or a.review is query.review)
            and (query.since is None or a.opened_at.wall >= query.since)
            and (query.until is None or a.opened_at.wall < query.until)
            and (query.before is None or (a.opened_at.wall, a.id) < query.before)
        ][: query.limit]

    async def alert(self, alert: str) -> Alert:
        if alert not in self.held:
            raise NotFound(f"there is no alert {alert!r}")
        return self.held[alert]

    async def review_alert(self, alert: str, review: Review, note: str, by: str) -> Alert:
        before = await self.alert(alert)
        after = replace(before, review=review, review_note=note, reviewed_by=by, updated_at=instant())
        self.held[alert] = after
        self.hub.alert(AlertEvent(AlertPhase.UPDATED, before, after))
        return after

    async def deliveries(self, alert: str) -> Sequence[DeliveryView]:
        return self.told.get(alert, [])

    async def evidence(self, alert: str) -> Sequence[Path]:
        if alert not in self.bundles:
            raise NotFound(f"there is no evidence of alert {alert!r}")
        return [self.bundles[alert], *(path for name, path in self.bundles.items() if name.startswith(f"{alert}+"))]

    def config(self) -> Config:
        return Config(streams=self.settings)

    async def reload(self) -> ReloadReport:
        return self.reloading()

    def describe(self) -> Mapping[str, Any]:
        return {"devices": [{"name": "cpu"}], "queues": {"detector": 0}}

    def not_ready(self) -> Sequence[str]:
        return self.reasons


def build(path: Path, options: HubOptions | None = None, **server: Any) -> tuple[Services, MemoryControl]:
    """Services on a free port of loopback, with tokens kept below `path`."""
    settings = ServerSettings(**{"port": 0, "auth": {"tokens": path / "tokens.json"}, **server})
    hub = Hub(options)
    control = MemoryControl(hub)
    return Services(control, hub, settings, Access(settings), lambda accept: (b"", "text/plain")), control
