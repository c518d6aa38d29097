"""What the server may ask of the service (server.ports.Control), answered from fleet, history and engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamwatch import __version__
from streamwatch.config import Config, StreamSettings, load
from streamwatch.demo.canary import is_canary, render_canary
from streamwatch.domain import Alert, AlertEvent, AlertPhase, Instant, Review
from streamwatch.errors import ConfigError, NotFound
from streamwatch.fleet import Fleet
from streamwatch.history.store import History
from streamwatch.inference.engine import LocalEngine
from streamwatch.ingest.source import check_sources
from streamwatch.monitor import StreamMonitor, drops
from streamwatch.protocols import WhipGateway
from streamwatch.results import Results
from streamwatch.server.hub import Hub
from streamwatch.server.ports import (
    AlertQuery,
    DeliveryView,
    ReloadReport,
    ScorePoint,
    ScoreQuery,
    StreamStatistics,
    StreamView,
)

log = logging.getLogger(__name__)

Allow = Callable[[str], Awaitable[object]]
"""Raises UrlNotAllowed for a source URL that the API may not add."""

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class ControlledRooms:
    """What the control reaches into. `evidence` gives the directories of an alert's bundles, if any."""

    fleet: Fleet
    engine: LocalEngine
    history: History
    hub: Hub
    results: Results
    allow: Allow
    budget: Callable[[], float | None]
    evidence: Callable[[str], Sequence[Path]]
    whip: WhipGateway | None = None


@dataclass(slots=True)
class Settled:
    """The configuration that holds, and where it came from."""

    config: Config
    path: Path | None = None
    from_file: frozenset[str] = field(default_factory=frozenset)


class ServiceControl:
    """Implements `server.ports.Control`. In the event loop only."""

    def __init__(self, rooms: ControlledRooms, settled: Settled) -> None:
        self._rooms = rooms
        self._settled = settled
        self._started_at = time.time()
        self._not_ready: list[str] = []

    # --- streams -----------------------------------------------------------------------------------------------------

    def streams(self) -> Sequence[StreamView]:
        return [self._view(monitor) for monitor in self._rooms.fleet.monitors.values()]

    def stream(self, stream: str) -> StreamView:
        return self._view(self._rooms.fleet[stream])

    async def add_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        await self._rooms.allow(settings.url.get_secret_value())
        self._rooms.hub.configured(stream, settings.name)
        monitor = await self._rooms.fleet.add(stream, settings)
        self._remember({**self._settled.config.streams, stream: settings})
        return self._view(monitor)

    async def change_stream(self, stream: str, settings: StreamSettings) -> StreamView:
        current = self._rooms.fleet[stream].settings.stream
        if settings.url != current.url:
            await self._rooms.allow(settings.url.get_secret_value())
        monitor = await self._rooms.fleet.change(stream, settings)
        self._rooms.hub.configured(stream, settings.name)
        self._remember({**self._settled.config.streams, stream: settings})
        return self._view(monitor)

    async def remove_stream(self, stream: str) -> None:
        await self._rooms.fleet.remove(stream)
        self._remember({name: kept for name, kept in self._settled.config.streams.items() if name != stream})

    def _remember(self, streams: Mapping[str, StreamSettings]) -> None:
        self._settled.config = self._settled.config.model_copy(update={"streams": dict(streams)})

    def _view(self, monitor: StreamMonitor) -> StreamView:
        counters = monitor.counters
        return StreamView(
            monitor.stream,
            monitor.settings.stream,
            monitor.status,
            monitor.info,
            StreamStatistics(
                counters.decoded,
                counters.sampled,
                counters.scored_faces,
                drops(counters),
                counters.reconnects,
                monitor.fps,
                counters.measured_fps(time.monotonic()),
                counters.latency(0.5),
                counters.latency(0.95),
                counters.quantiser,
            ),
            monitor.stream in self._settled.from_file,
        )

    # --- the past ----------------------------------------------------------------------------------------------------

    async def scores(self, query: ScoreQuery) -> Sequence[ScorePoint]:
        points = await self._rooms.history.scores.points(query.stream, query.since, query.until, query.limit)
        return [
            ScorePoint(
                point.at, point.score, point.verdict, point.reason, point.threshold, point.coverage, point.members,
                point.low, point.high,
            )
            for point in points
        ]  # fmt: skip

    async def alerts(self, query: AlertQuery) -> Sequence[Alert]:
        return await self._rooms.history.alerts.query(query)

    async def alert(self, alert: str) -> Alert:
        return await self._rooms.history.alerts.alert(alert)

    async def review_alert(self, alert: str, review: Review, note: str, by: str) -> Alert:
        before = await self._rooms.history.alerts.alert(alert)
        after = await self._rooms.history.alerts.review(alert, review, note, by)
        rules = self._rooms.results.rules
        rules.reviewed(after)
        if after.active and all(alert.id != after.id for alert in rules.active):
            # It is over, and the database has not heard of it yet: the page must not open it again.
            after = replace(after, resolved_at=Instant(time.monotonic(), time.time()))
        self._rooms.results.alert(AlertEvent(AlertPhase.UPDATED, before, after))
        return after

    async def deliveries(self, alert: str) -> Sequence[DeliveryView]:
        found = await self._rooms.history.alerts.deliveries(alert)
        return [
            DeliveryView(d.sink, d.sequence, d.state, d.attempts, d.created_at, d.finished_at, d.error) for d in found
        ]

    async def evidence(self, alert: str) -> Sequence[Path]:
        directories = await asyncio.to_thread(self._rooms.evidence, alert)
        if not directories:
            raise NotFound(f"there is no evidence of the alert {alert!r}")
        return directories

    # --- the service -------------------------------------------------------------------------------------------------

    def config(self) -> Config:
        return self._settled.config

    async def reload(self) -> ReloadReport:
        if self._settled.path is None:
            raise ConfigError("the service runs without a configuration file: there is nothing to read again")
        fresh = load(self._settled.path)
        check_sources(fresh.streams, fresh.ingest)
        if any(is_canary(settings) for settings in fresh.streams.values()):
            await render_canary()  # rendered where it is not there yet
        before = self._settled
        added_by_api = {
            name: settings for name, settings in before.config.streams.items()
            if name not in before.from_file and name not in fresh.streams
        }  # fmt: skip
        wanted = {**fresh.streams, **added_by_api}
        held, self._settled.from_file = before.config, frozenset(fresh.streams)
        for name, settings in wanted.items():
            self._rooms.hub.configured(name, settings.name)
        difference = await self._rooms.fleet.reconcile(wanted)
        unlike = [
            name for name in Config.model_fields
            if name != "streams" and getattr(fresh, name) != getattr(held, name)
        ]  # fmt: skip
        # What needs a restart keeps its old value, so that `config` tells what really holds.
        self._settled.config = held.model_copy(update={"streams": wanted})
        log.info(
            "configuration read again: %d added, %d changed, %d removed%s",
            len(difference.added), len(difference.changed), len(difference.removed),
            f"; a restart is needed for {', '.join(unlike)}" if unlike else "",
        )  # fmt: skip
        return ReloadReport(difference.added, difference.changed, difference.removed, tuple(unlike))

    def drain(self) -> None:
        """From here on the service is not ready: it is about to end."""
        self.fail("the service is ending")

    def fail(self, reason: str) -> None:
        """A part of the service that nothing can replace has ended."""
        self._not_ready.append(reason)

    def not_ready(self) -> Sequence[str]:
        return (*self._not_ready, *(f"the device {name} fails" for name in self._rooms.engine.failing()))

    @property
    def whip(self) -> WhipGateway | None:
        return self._rooms.whip

    def describe(self) -> Mapping[str, Any]:
        monitors = self._rooms.fleet.monitors.values()
        latencies = sorted(latency for monitor in monitors for latency in monitor.counters.latencies)
        history = self._rooms.history.statistics
        engine = self._rooms.engine.describe()
        return {
            "version": __version__,
            "started_at": datetime.fromtimestamp(self._started_at, UTC).isoformat().replace("+00:00", "Z"),
            "latency": describe_latency(latencies),
            "budget_fps": self._rooms.budget(),
            "streams": Counter(monitor.status.state.value for monitor in monitors),
            "history": {
                "waiting": history.waiting, "written": history.written, "lost": history.lost, "down": history.down
            },
            **engine,
        }  # fmt: skip


def describe_latency(ordered: Sequence[float]) -> dict[str, Any]:
    """Quantiles and cumulative counts of capture-to-score seconds, in rising order."""

    def quantile(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else None

    return {
        "count": len(ordered),
        "p50": quantile(0.5),
        "p95": quantile(0.95),
        "p99": quantile(0.99),
        "buckets": [{"le": bound, "count": sum(latency <= bound for latency in ordered)} for bound in BUCKETS],
    }
