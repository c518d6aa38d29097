"""The composition root: the only place that wires rooms together, and the service's start and end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streamwatch import __version__, logs
from streamwatch.alerts.dispatcher import Dispatcher, Report
from streamwatch.alerts.evidence import Evidence, EvidenceOptions
from streamwatch.alerts.rules import RuleEngine
from streamwatch.alerts.sinks import make_sinks
from streamwatch.config import Config, StreamSettings
from streamwatch.control import ControlledRooms, ServiceControl, Settled
from streamwatch.domain import AlertKind
from streamwatch.errors import StorageError, StreamWatchError
from streamwatch.fleet import Fleet
from streamwatch.history.store import History
from streamwatch.inference.engine import EngineSettings, LocalEngine
from streamwatch.inference.weights import find_set
from streamwatch.ingest.recorder import Recorder
from streamwatch.ingest.source import SourceContext, make_source
from streamwatch.metrics import Metrics
from streamwatch.monitor import MonitorServices, MonitorSettings, StreamMonitor
from streamwatch.redact import display_url
from streamwatch.results import Desk, Results
from streamwatch.server.auth import Access
from streamwatch.server.deps import Services
from streamwatch.server.hub import Hub, HubOptions
from streamwatch.server.run import Address, serving

log = logging.getLogger(__name__)

REAP_WITHIN = 2.0


class Service:
    """Everything, from a configuration. `async with` starts it and stops it, in reverse order, within 5 s.

    Starting raises ConfigError, WeightsError, DeviceError or ServerError; a dead camera, sink or database does not keep
    it from starting.
    """

    def __init__(self, config: Config, path: Path | None = None) -> None:
        logs.configure(config.log_level, config.log_format)
        self._config = config
        self._path = path
        self._stack = AsyncExitStack()
        self.fleet: Fleet
        self.control: ServiceControl
        self.engine: LocalEngine
        self.address: Address

    @property
    def url(self) -> str:
        """The dashboard's address."""
        return self.address.url

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
        # What may be refused without work comes before what takes seconds.
        rules = RuleEngine(
            config.alerts,
            hysteresis=config.scoring.hysteresis,
            new_id=lambda: secrets.token_hex(8),
            labels={name: stream.labels for name, stream in config.streams.items()},
        )
        sinks = make_sinks(config.alerts.sinks)
        weights = find_set(config.ensemble.weights)
        build = {"version": __version__, "torch": version("torch"), "weights": f"{weights.name}-{weights.hash[:12]}"}
        metrics = Metrics(build, stale_after=config.scoring.stale_after)
        self.engine = LocalEngine(EngineSettings(config.device, config.detector, config.ensemble), metrics)
        hub = Hub(HubOptions(ring=config.server.resume_ring, max_clients=config.server.max_clients), metrics)
        await enter(self.engine)

        results: Results

        def report(kind: AlertKind, name: str, problem: str | None) -> None:
            results.service(kind, name, problem)

        history = await self._open_history(History(config.history, metrics, report))
        dispatcher = Dispatcher(
            history.alerts,
            {name: (sinks[name], settings) for name, settings in config.alerts.sinks.items()},
            observer=metrics,
            report=report,
            group_wait=config.alerts.group_wait,
        )
        self._stack.push_async_callback(dispatcher.stop)
        recorder, evidence = self._evidence(metrics, report)
        results = Results(rules, hub, history, Desk(dispatcher, evidence), metrics)
        await self._restore(results, hub, history)
        self._own(history.run, "history")
        self._own(dispatcher.run, "dispatcher")
        self._own(results.run, "rules")
        if evidence is not None:
            self._own(evidence.run, "evidence")

        context = SourceContext()
        self._stack.push_async_callback(context.reaper.close, REAP_WITHIN)
        services = MonitorServices(self.engine, results, metrics, recorder)

        def removed(stream: str) -> None:
            results.removed(stream)
            hub.removed(stream)
            metrics.stream_removed(stream)
            if recorder is not None and evidence is not None:
                recorder.forget(stream)
                evidence.forget(stream)

        self.fleet = await enter(Fleet(lambda name, stream: self._monitor(name, stream, services, context), removed))
        directory = evidence.directory if evidence is not None else lambda alert: None
        rooms = ControlledRooms(self.fleet, self.engine, history, hub, results, self._allow, directory)
        self.control = ServiceControl(rooms, Settled(config, self._path, frozenset(config.streams)))
        http = Services(self.control, hub, config.server, Access(config.server), metrics.exposition)
        self.address = await enter(serving(http))
        for name, stream in config.streams.items():
            hub.configured(name, stream.name)
            await self.fleet.add(name, stream)

    def _evidence(self, metrics: Metrics, report: Report) -> tuple[Recorder | None, Evidence | None]:
        settings = self._config.alerts.evidence
        if not settings.enabled:
            return None, None
        recorder = Recorder(settings.ring_seconds, settings.ring_megabytes)
        options = EvidenceOptions(self._identity, self._pictures, self._config.scoring.window)
        return recorder, Evidence(settings, options, recorder, metrics, report)

    def _identity(self, stream: str) -> Mapping[str, Any]:
        """Who judged a stream: what its evidence is signed with."""
        engine = self.engine.describe()
        shown = self._config.model_dump_json(by_alias=True).encode()
        monitor = self.fleet.monitors.get(stream)
        return {
            "streamwatch": __version__,
            "weights": engine["weights"],
            "detector": engine["detector"],
            "devices": engine["devices"],
            "configuration_sha256": hashlib.sha256(shown).hexdigest(),
            "source": display_url(monitor.settings.stream.url.get_secret_value()) if monitor else "",
            "clock": monitor.newest.frame.clock.value if monitor and monitor.newest else None,
        }

    def _pictures(self, stream: str) -> bool:
        """Whether pictures of the stream may be stored at all."""
        monitor = self.fleet.monitors.get(stream)
        own = monitor.settings.stream.store_frames if monitor else None
        return (own or self._config.alerts.evidence.store_frames) != "never"

    async def _open_history(self, history: History) -> History:
        """A database that is down keeps nobody from watching: it is tried again in the background."""
        self._stack.push_async_callback(history.close)
        try:
            await history.open()
        except StorageError as error:
            log.error("history: %s; scores wait in memory until it is back", error)
        return history

    async def _restore(self, results: Results, hub: Hub, history: History) -> None:
        try:
            alerts = await history.alerts.active()
        except StorageError:
            return
        for alert in alerts:
            hub.restored(alert)
        results.restore(alerts)

    def _monitor(
        self, stream: str, settings: StreamSettings, services: MonitorServices, context: SourceContext
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
        )
        return StreamMonitor(stream, wanted, lambda: make_source(stream, settings, config.ingest, context), services)

    async def _allow(self, url: str) -> None:
        del url

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


async def run_until_stopped(
    service: Service,
    started: Callable[[], None],
    beside: Callable[[], Awaitable[None]] | None = None,
    duration: float | None = None,
) -> None:
    """Runs the service until SIGINT, SIGTERM or `duration` seconds after its start. SIGHUP reads the configuration
    again. `started` is called once it serves; `beside` runs as long as it does."""
    main = asyncio.current_task()
    assert main is not None
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:  # the second Ctrl-C must not interrupt the tidy end that the first one began
            stopping = True
            main.cancel()

    with _signals({signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: lambda: _reload(service)}):
        try:
            async with service:
                started()
                other = asyncio.create_task(_beside(beside), name="beside")
                try:
                    await asyncio.sleep(duration if duration is not None else float("inf"))
                finally:
                    other.cancel()
                    await asyncio.wait([other])
        except asyncio.CancelledError:
            if not stopping:
                raise
            main.uncancel()


async def _beside(work: Callable[[], Awaitable[None]] | None) -> None:
    if work is not None:
        await work()


@contextlib.contextmanager
def _signals(handlers: dict[signal.Signals, Callable[[], None]]) -> Any:
    loop = asyncio.get_running_loop()
    installed = []
    for number, handler in handlers.items():
        with contextlib.suppress(NotImplementedError, RuntimeError):  # not on Windows, not outside the main thread
            loop.add_signal_handler(number, handler)
            installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


_reloading: set[asyncio.Task[None]] = set()


def _reload(service: Service) -> None:
    async def reload() -> None:
        try:
            await service.control.reload()
        except StreamWatchError as error:
            log.error("the configuration was not read again, the old one holds: %s", error)

    task = asyncio.create_task(reload(), name="reload")
    _reloading.add(task)  # the loop keeps only weak references to tasks
    task.add_done_callback(_reloading.discard)
