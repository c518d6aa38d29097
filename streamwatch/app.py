"""The composition root: the only place that wires rooms together, and the service's start and end."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streamwatch import __version__, logs
from streamwatch.alerts.dispatcher import Dispatcher
from streamwatch.alerts.evidence import Evidence, EvidenceOptions
from streamwatch.alerts.rules import RuleEngine
from streamwatch.alerts.sinks import make_sinks
from streamwatch.config import Config, StreamSettings
from streamwatch.control import ControlledRooms, ServiceControl, Settled
from streamwatch.demo.canary import canary_source, is_canary, render_canary
from streamwatch.domain import AlertKind, StreamState, StreamStatus
from streamwatch.errors import StorageError
from streamwatch.fleet import Fleet
from streamwatch.history.store import History
from streamwatch.inference.engine import EngineSettings, LocalEngine
from streamwatch.inference.weights import find_set
from streamwatch.ingest.allow import AllowList, allow_list, check_url
from streamwatch.ingest.pacer import Pacer
from streamwatch.ingest.rates import Share
from streamwatch.ingest.reaper import Reaper
from streamwatch.ingest.recorder import Recorder
from streamwatch.ingest.source import SourceContext, SourceMaker, make_source
from streamwatch.ingest.webrtc import WebRtcGateway
from streamwatch.metrics import Metrics
from streamwatch.monitor import MonitorServices, MonitorSettings, StreamMonitor
from streamwatch.redact import display_url
from streamwatch.results import Desk, Results
from streamwatch.reviews import count_reviews
from streamwatch.server.auth import Access, is_loopback
from streamwatch.server.deps import Services
from streamwatch.server.hub import Hub, HubOptions
from streamwatch.server.run import Address, reserve, serving

log = logging.getLogger(__name__)

REAP_WITHIN = 1.0
"""Seconds granted at the end to threads that hang in a library: with all else, Ctrl-C is to end within five."""
RESTORE_AGAIN = 5.0
RESTORE_REACH = 86_400.0
"""Seconds back to which alerts that have ended are looked through for evidence that a kill kept from being sealed."""


@dataclass(frozen=True, slots=True)
class _Rooms:
    hub: Hub
    metrics: Metrics
    results: Results
    history: History
    recorder: Recorder | None
    evidence: Evidence | None


class Service:
    """Everything, from a configuration. `async with` starts it and stops it, in reverse order, within 5 s.

    Starting raises ConfigError, WeightsError, DeviceError or ServerError; a dead camera, sink or database does not keep
    it from starting.
    """

    def __init__(self, config: Config, path: Path | None = None) -> None:
        logs.configure(config.log_level, config.log_format)
        self._config = config
        self._settled = Settled(config, path, frozenset(config.streams))
        self._gateway: WebRtcGateway | None = None
        self._stack = AsyncExitStack()
        self.fleet: Fleet
        self.control: ServiceControl
        self.pacer: Pacer
        self.engine: LocalEngine
        self.address: Address
        self._results: Results

    @property
    def url(self) -> str:
        """The dashboard's address."""
        return self.address.url

    @property
    def reloadable(self) -> bool:
        """It was made from a file, which can be read again."""
        return self._settled.path is not None

    async def __aenter__(self) -> Service:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.control.drain()
        await self._stack.aclose()

    async def _start(self) -> None:
        config, enter = self._config, self._stack.enter_async_context
        # What may be refused without work comes before what takes seconds, and before anything is touched that belongs
        # to a service that already runs here.
        address = reserve(config.server)
        self._stack.callback(address.close)
        rules = RuleEngine(
            config.alerts,
            hysteresis=config.scoring.hysteresis,
            new_id=lambda: secrets.token_hex(8),
            labels=self._labels,
        )
        weights = find_set(config.ensemble.weights)
        build = {"version": __version__, "torch": version("torch"), "weights": f"{weights.name}-{weights.hash[:12]}"}
        metrics = Metrics(build, stale_after=config.scoring.stale_after)
        recorder, evidence = self._evidence(metrics)
        self.engine = LocalEngine(EngineSettings(config.device, config.detector, config.ensemble), metrics)
        hub = Hub(HubOptions(ring=config.server.resume_ring, max_clients=config.server.max_clients), metrics)
        await enter(self.engine)
        rooms = await self._alerting(rules, hub, metrics, recorder, evidence)
        gateway = WebRtcGateway()
        self._stack.push_async_callback(gateway.close_all)
        self._gateway = gateway
        context = SourceContext(Reaper(observer=metrics), gateway)
        self._stack.push_async_callback(context.reaper.close, REAP_WITHIN)
        allowed = allow_list(config.ingest, loopback_only=is_loopback(config.server.host))
        self.pacer = Pacer(self._pace, config.ingest.budget_fps)
        self.fleet = await enter(self._fleet(rooms, context, allowed))
        self._own(self.pacer.run, "pacer")
        self.control = ServiceControl(
            ControlledRooms(
                self.fleet,
                self.engine,
                rooms.history,
                hub,
                rooms.results,
                lambda url: check_url(url, allowed, context.reaper),
                lambda: self.pacer.budget,
                rooms.evidence.directories if rooms.evidence is not None else lambda alert: [],
                gateway,
            ),
            self._settled,
        )
        http = Services(self.control, hub, config.server, Access(config.server), metrics.exposition)
        self.address = await enter(serving(http, address))
        self._stack.callback(rooms.history.hurry)  # at the end the first of all
        await self._begin(hub)

    async def _begin(self, hub: Hub) -> None:
        """Starts the configured streams."""
        streams = self._config.streams
        if any(is_canary(stream) for stream in streams.values()):
            await render_canary()
        for name, stream in streams.items():
            hub.configured(name, stream.name)
            await self.fleet.add(name, stream)

    async def _alerting(
        self, rules: RuleEngine, hub: Hub, metrics: Metrics, recorder: Recorder | None, evidence: Evidence | None
    ) -> _Rooms:
        """From verdicts to alerts, evidence and history; takes up what an earlier run left open."""
        config = self._config
        sinks = make_sinks(config.alerts.sinks)
        history = await self._open_history(History(config.history, metrics, self._report))
        dispatcher = Dispatcher(
            history.alerts,
            {name: (sinks[name], settings) for name, settings in config.alerts.sinks.items()},
            observer=metrics,
            report=self._report,
            group_wait=config.alerts.group_wait,
        )
        self._stack.push_async_callback(dispatcher.stop)
        results = self._results = Results(rules, hub, history, Desk(dispatcher, evidence), metrics)
        if history.statistics.open:
            await self._restore(results, hub, history, evidence)
        else:
            self._own(lambda: self._restore(results, hub, history, evidence), "restoration")
        self._own(history.run, "history")
        self._own(dispatcher.run, "dispatcher")
        if evidence is not None:
            self._own(evidence.run, "evidence")  # before the rules, so that at the end they say nothing after it
        self._own(results.run, "rules")
        self._own(lambda: count_reviews(history.alerts, metrics), "reviews")
        return _Rooms(hub, metrics, results, history, recorder, evidence)

    def _fleet(self, rooms: _Rooms, context: SourceContext, allowed: AllowList) -> Fleet:
        services = MonitorServices(self.engine, rooms.results, rooms.metrics, rooms.recorder, self.pacer)
        ingest = self._config.ingest

        async def removed(stream: str) -> None:
            rooms.results.removed(stream)
            rooms.hub.removed(stream)
            rooms.metrics.stream_removed(stream)
            self.pacer.remove(stream)
            if context.gateway is not None:
                await context.gateway.forget(stream)
            if rooms.recorder is not None and rooms.evidence is not None:
                rooms.recorder.forget(stream)
                rooms.evidence.forget(stream)

        def make_monitor(name: str, stream: StreamSettings) -> StreamMonitor:
            # The configuration file may name any host; what the API adds is checked again at each connection.
            limits = None if name in self._settled.from_file else allowed
            real = canary_source(stream)
            return self._monitor(name, stream, services, lambda: make_source(name, real, ingest, context, limits))

        return Fleet(make_monitor, removed)

    def _evidence(self, metrics: Metrics) -> tuple[Recorder | None, Evidence | None]:
        """Refused where another service seals in that directory; any other fault of it keeps nobody from watching."""
        settings = self._config.alerts.evidence
        if not settings.enabled:
            return None, None
        recorder = Recorder(settings.ring_seconds, settings.ring_megabytes)
        options = EvidenceOptions(self._identity, self._pictures)
        evidence = Evidence(settings, options, recorder, metrics, self._report)
        self._stack.callback(evidence.close)
        return recorder, evidence

    def _report(self, kind: AlertKind, name: str, problem: str | None) -> None:
        """The service speaks of itself, from when its rooms run."""
        self._results.service(kind, name, problem)

    def _identity(self, stream: str) -> Mapping[str, Any]:
        """Who judged a stream: what its evidence is signed with."""
        engine = self.engine.describe()
        shown = self._settled.config.model_dump_json(by_alias=True).encode()  # what holds now
        settings, monitor = self._settled.config.streams.get(stream), self._watched(stream)
        return {
            "streamwatch": __version__,
            "weights": engine["weights"],
            "detector": engine["detector"],
            "devices": engine["devices"],
            "configuration_sha256": hashlib.sha256(shown).hexdigest(),
            "source": display_url(settings.url.get_secret_value()) if settings else "",
            "clock": monitor.newest.frame.clock.value if monitor and monitor.newest else None,
        }

    def _labels(self, stream: str) -> Mapping[str, str]:
        known = self._settled.config.streams.get(stream)
        return known.labels if known is not None else {}

    def _pictures(self, stream: str) -> bool:
        """Whether pictures of the stream may be stored at all; not of one that is not known."""
        settings = self._settled.config.streams.get(stream)
        if settings is None:
            return False
        return (settings.store_frames or self._config.alerts.evidence.store_frames) != "never"

    def _watched(self, stream: str) -> StreamMonitor | None:
        """None also while there is no fleet yet: alerts of an earlier run are taken up before."""
        fleet: Fleet | None = getattr(self, "fleet", None)
        return fleet.monitors.get(stream) if fleet is not None else None

    async def _open_history(self, history: History) -> History:
        """A database that is down keeps nobody from watching: it is tried again in the background."""
        self._stack.push_async_callback(history.close)
        try:
            await history.open()
        except StorageError as error:
            log.error("history: %s; scores wait in memory until it is back", error)
        return history

    async def _restore(self, results: Results, hub: Hub, history: History, evidence: Evidence | None) -> None:
        """Waits for a database that is down at the start: what it holds must not stay open for ever."""
        await history.ready()
        while True:
            try:
                since = time.time() - max(results.rules.longest_cooldown, RESTORE_REACH)
                alerts = results.earlier(await history.alerts.active(since))
                break
            except StorageError as error:
                log.error("alerts of the last run cannot be taken up yet: %s", error)
                await asyncio.sleep(RESTORE_AGAIN)
        for alert in alerts:
            if alert.active:
                hub.restored(alert)
            if evidence is not None:
                evidence.interrupted(alert)
        results.restore(alerts)
        for alert in alerts:
            if alert.kind is AlertKind.SINK_FAILING and alert.labels.get("name") not in self._config.alerts.sinks:
                results.service(alert.kind, alert.labels.get("name", ""), None)  # the sink is no more

    def _pace(self, stream: str, share: Share) -> None:
        if (monitor := self.fleet.monitors.get(stream)) is not None:
            monitor.set_rate(share.fps)
            monitor.set_degraded(share.degraded)

    def _monitor(
        self, stream: str, settings: StreamSettings, services: MonitorServices, make: SourceMaker
    ) -> StreamMonitor:
        config = self._config
        record = self.engine.weights.record
        wanted = MonitorSettings(
            settings,
            config.ingest,
            config.scoring,
            self.engine.threshold if settings.threshold is None else settings.threshold,
            record.disagreement_p99,
            config.device.deadline,
            config.detector.min_face,
            config.detector.max_fps,
        )
        burst = settings.burst_fps or config.ingest.burst_fps

        before: StreamState | None = None

        def changed(status: StreamStatus) -> None:
            """Only streams that send something share in the budget; who is paused, or given up for a source of another
            kind, takes no publisher."""
            nonlocal before
            if status.state is StreamState.LIVE:
                if before is not StreamState.LIVE:  # not where only `degraded` changed: that would forget a suspicion
                    self.pacer.add(stream, wanted.sample_fps, burst)
            else:
                self.pacer.remove(stream)
            if status.state in (StreamState.PAUSED, StreamState.STOPPED) and self._gateway is not None:
                self._gateway.withdraw(stream)
            before = status.state

        return StreamMonitor(stream, wanted, make, services, changed)

    def _own(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Runs `work` until the service ends; an unexpected end is logged, and readiness says so."""

        async def body() -> None:
            await work()

        task = asyncio.create_task(body(), name=name)

        def ended(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                log.critical("%s has failed", name, exc_info=done.exception())
                self.control.fail(f"{name} has failed")

        task.add_done_callback(ended)

        async def cancel() -> None:
            task.cancel()
            await asyncio.wait([task])

        self._stack.push_async_callback(cancel)
