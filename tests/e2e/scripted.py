"""A service whose streams follow a script: the real server, hub and messages around scripted results.

What a browser sees of 1 to 200 streams must not depend on how fast this machine scores faces.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from streamwatch.config import ServerSettings, StreamSettings
from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    FailureReason,
    Severity,
    StreamInfo,
    StreamState,
    StreamStatus,
)
from streamwatch.protocols import WhipGateway
from streamwatch.server.auth import Access
from streamwatch.server.deps import Services
from streamwatch.server.hub import Hub, HubOptions
from streamwatch.server.ports import ScorePoint, ScoreQuery, StreamStatistics, StreamView
from streamwatch.server.run import serving
from tests.e2e.roles import HEIGHT, THRESHOLD, WIDTH, Role, analysed, verdict
from tests.fakes.control import MEMBERS, MemoryControl, instant

INFO = StreamInfo("h264", WIDTH, HEIGHT, 25.0, "tcp")
HEARTBEAT = 2.0
PAST = 1200.0
"""seconds before its start of which the service has a history"""


@dataclass
class Script(MemoryControl):
    """The service's side of the play; everything runs on the server's loop."""

    roles: dict[str, Role] = field(default_factory=dict)
    pasts: dict[str, list[ScorePoint]] = field(default_factory=dict)
    seq: int = 0
    began: float = field(default_factory=time.time)

    def cast(self, role: Role) -> None:
        self.roles[role.id] = role
        self.settings[role.id] = StreamSettings.model_validate({"url": role.url, "name": role.name})
        self.hub.configured(role.id, role.name)
        self.enter(role.id, role.state, role.reason, role.detail)

    def enter(self, stream: str, state: StreamState, reason: FailureReason | None = None, detail: str = "") -> None:
        role = self.roles[stream]
        role.state, role.reason, role.detail = state, reason, detail
        retry = instant().shifted(8) if state is StreamState.RECONNECTING else None
        self.statuses[stream] = StreamStatus(stream, state, instant(), reason, detail, 3 if retry else 0, retry)
        self.hub.status(self.statuses[stream], INFO if state is StreamState.LIVE else None)

    def publish(self, stream: str, score: float | None = None) -> None:
        """One analysed frame, captured just now; by default with the score of the role's course."""
        role, at = self.roles[stream], instant()
        self.seq += 1
        value = role.score(at.wall - self.began) if score is None else score
        self.hub.score(*analysed(role, self.seq, at, value))
        self.pasts.setdefault(stream, []).append(_point(role, at.wall, value))

    def open_alert(
        self, stream: str, kind: AlertKind = AlertKind.DEEPFAKE, evidence: Path | None = None, **changes: Any
    ) -> Alert:
        name, at, key = self.roles[stream].name, instant(), f"A{len(self.held) + 1:04d}"
        if kind is AlertKind.DEEPFAKE:
            text = f"{name}: score 0.91 above 0.70"
            opened = Alert(
                key, kind, "deepfake", stream, Severity.CRITICAL, at, at, 0.91, 0.94, THRESHOLD, text, track=1
            )
        else:
            text = f"{name}: no picture for 31 s"
            opened = Alert(key, kind, "stream-down", stream, Severity.WARNING, at, at, 31.0, 31.0, 30.0, text)
        if evidence is not None:
            self.bundles[key] = evidence
        opened = replace(opened, **changes)
        self._tell(AlertEvent(AlertPhase.OPENED, None, opened))
        return opened

    def join(self, alert: str, track: int, evidence: Path) -> None:
        """Another face comes to an open alert, with a bundle of its own."""
        before = self.held[alert]
        self.bundles[f"{alert}+{track}"] = evidence
        labels = {**before.labels, "tracks": f"{before.labels.get('tracks', 1)},{track}"}
        self._tell(AlertEvent(AlertPhase.UPDATED, before, replace(before, labels=labels, updated_at=instant())))

    def resolve(self, alert: str) -> None:
        before = self.held[alert]
        self._tell(AlertEvent(AlertPhase.RESOLVED, before, replace(before, resolved_at=instant())))

    def _tell(self, event: AlertEvent) -> None:
        self.held[event.after.id] = event.after
        self.hub.alert(event)

    async def play(self, rate: float) -> None:
        """All live streams, `rate` frames a second each, evenly spread over the time; 0 plays nothing."""
        turn = time.monotonic()
        while True:
            live = [role.id for role in self.roles.values() if role.state is StreamState.LIVE] if rate else []
            for stream in live:
                turn += 1 / rate / len(live)
                await asyncio.sleep(max(0.0, turn - time.monotonic()))
                if stream in self.roles and self.roles[stream].state is StreamState.LIVE:
                    self.publish(stream)
            turn = max(turn, time.monotonic() - 0.5)
            await asyncio.sleep(0 if live else 0.02)

    def _view(self, stream: str) -> StreamView:
        counts = StreamStatistics(90_000, 7_200, 7_104, {"replaced": 12}, 1, 2.0, 1.98, 0.21, 0.44)
        return StreamView(stream, self.settings[stream], self.statuses[stream], INFO, counts)

    async def add_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        role = Role(stream, settings.name or stream, url=settings.url.get_secret_value())
        view = await MemoryControl.add_stream(self, stream, settings)
        self.roles[stream] = role
        return view

    async def change_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        view = await MemoryControl.change_stream(self, stream, settings)
        self.roles[stream].state = StreamState.LIVE if settings.enabled else StreamState.PAUSED
        return view

    async def remove_stream(self, stream: str) -> None:
        await MemoryControl.remove_stream(self, stream)
        del self.roles[stream]

    async def scores(self, query: ScoreQuery) -> Sequence[ScorePoint]:
        """Two points a second by the role's course for the time before the start, then what was published."""
        role, end = self.roles[query.stream], min(query.until, self.began)
        first = max(query.since, self.began - PAST, end - query.limit / 2)
        times = [k / 2 for k in range(round(first * 2), round(end * 2))]
        older = [_point(role, at, role.score(at - self.began)) for at in times]
        newer = [point for point in self.pasts.get(query.stream, []) if query.since <= point.at < query.until]
        return [*older, *newer][-query.limit :]

    def describe(self) -> Mapping[str, Any]:
        return DESCRIPTION


def _point(role: Role, at: float, score: float | None) -> ScorePoint:
    members = {} if score is None else role.members(score)
    return ScorePoint(at, score, verdict(score).value, None if members else "no_face", THRESHOLD, 0.95, members)


BUCKETS = {0.05: 20, 0.1: 900, 0.25: 8000, 0.5: 11_700, 1.0: 12_000}
LANE = {"queued": 1, "in_flight": 2, "last_batch_size": 4, "largest_batch": 16, "batches": 5000, "items": 10_500}
DESCRIPTION: Mapping[str, Any] = {
    "version": "0.1.0",
    "started_at": "2026-11-22T19:00:00.000Z",
    "devices": [{"device": "cpu", "name": "CPU (AVX2)", "dtype": dict.fromkeys(MEMBERS, "float32"), "alive": True}],
    "batches": {name: {**LANE, "expired": 12, "refused": 0, "failed": 0} for name in ("detect", "score")},
    "latency": {
        "count": 12_000,
        "p50": 0.2,
        "p95": 0.41,
        "p99": 0.6,
        "buckets": [{"le": le, "count": count} for le, count in BUCKETS.items()],
    },
    "weights": {
        "set": "bundled",
        "version": "1",
        "hash": "ab12" * 16,
        "fusion": "logit_mean",
        "threshold": THRESHOLD,
        "threshold_basis": "a script",
        "disagreement_p99": 2.4,
        "figures": {"auc": 0.93},
        "members": [
            {"name": name, "sha256": "ab12" * 16, "figures": {"auc": 0.9 + i / 100}} for i, name in enumerate(MEMBERS)
        ],
    },
    "detector": {"file": "blazeface.safetensors", "score_threshold": 0.85},
    "history": {"waiting": 0, "written": 4000, "lost": 0, "down": False},
    "streams": {"live": 8, "failed": 1},
}


class Service:
    """The scripted service. `stop` and `start` keep the address, as a restart of the real one does."""

    def __init__(self, roles: Sequence[Role], directory: Path, rate: float = 2.0, **server: Any) -> None:
        self.roles, self.rate = roles, rate
        auth = {"tokens": directory / "tokens.json", **server.pop("auth", {})}
        self.settings = ServerSettings.model_validate({"port": 0, "auth": auth, **server})
        self.gateway: WhipGateway | None = None

    async def start(self) -> None:
        hub = Hub(HubOptions(heartbeat=HEARTBEAT))
        self.script = Script(hub, whip=self.gateway)
        self.access = Access(self.settings)
        for role in self.roles:
            self.script.cast(replace(role))
        services = Services(self.script, hub, self.settings, self.access, lambda accept: (b"", "text/plain"))
        ready, self._stopping = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._serve(services, ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            waiting.cancel()
            self._task.result()

    async def _serve(self, services: Services, ready: asyncio.Event) -> None:
        async with serving(services) as address:
            self.url = address.url
            self.settings = self.settings.model_copy(update={"port": address.port})
            playing = asyncio.create_task(self.script.play(self.rate))
            ready.set()
            await self._stopping.wait()
            playing.cancel()

    async def stop(self) -> None:
        self._stopping.set()
        await self._task

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
