"""From alert events to sinks by way of a durable outbox: at least once, in order per alert, no sink waiting for
another.

An event is first recorded, alert and outbox in one transaction, then every sink that it is for is woken; each sink has
its own task. While the database is down events leave by an outbox in memory and are recorded once it is back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamwatch.alerts.fallback import MemoryOutbox
from streamwatch.alerts.sinks import AlertSink
from streamwatch.config import SinkSettings
from streamwatch.domain import AlertEvent, AlertKind, Severity
from streamwatch.errors import DeliveryFailed, RecordRefused, StorageError
from streamwatch.observer import NullObserver, Observer
from streamwatch.protocols import AlertStore, Delivery

log = logging.getLogger(__name__)

BATCH = 50
POLL = 2.0
"""Seconds after which a sink's task looks by itself for what an earlier run left to be tried again."""
BACKOFF_FIRST = 1.0
BACKOFF_CAP = 300.0
FAILING_AFTER = 3
"""Failures in a row after which a sink is reported as failing."""
REMEMBERED = 1000
_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}

Report = Callable[[AlertKind, str, str | None], None]
"""(kind, name, problem or None): the service speaks of itself."""


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """`unrecorded` events wait for the database, `in_memory` deliveries leave without it; `lost` ones are gone."""

    unrecorded: int
    in_memory: int
    lost: int
    delivered: int
    failed_attempts: int
    dead: int


@dataclass(slots=True)
class _Post:
    """One sink and where its task stands."""

    sink: AlertSink
    settings: SinkSettings
    wake: asyncio.Event
    failures: int = 0
    well: bool = False
    """it has delivered since the start or since it was last said to fail"""
    next_try: float = float("inf")


class Dispatcher:
    """`submit` is for the event loop and never blocks. `run` delivers until cancelled; `stop` records what is still
    waiting."""

    def __init__(
        self,
        store: AlertStore,
        sinks: Mapping[str, tuple[AlertSink, SinkSettings]],
        *,
        observer: Observer | None = None,
        report: Report | None = None,
        group_wait: float = 0.0,
        backlog: int = 10_000,
    ) -> None:
        self._store = store
        self._posts = {name: _Post(sink, settings, asyncio.Event()) for name, (sink, settings) in sinks.items()}
        self._observer = observer or NullObserver()
        self._report = report or (lambda kind, name, problem: None)
        self._group_wait = group_wait
        self._backlog = backlog
        self._incoming: deque[AlertEvent] = deque()
        self._unrecorded: deque[AlertEvent] = deque()
        """events that left by memory while the database was down, and still belong into its history"""
        self._memory = MemoryOutbox()
        self._recorded = False
        """the database has taken an event since the start"""
        self._arrived = asyncio.Event()
        self._newest: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._delivered = self._failed = self._dead = self._lost = 0

    @property
    def statistics(self) -> DispatcherStatistics:
        lost = self._lost + self._memory.lost
        waiting = len(self._incoming) + len(self._unrecorded)
        return DispatcherStatistics(
            waiting, len(self._memory), lost, self._delivered, self._failed, self._dead
        )  # fmt: skip

    def submit(self, event: AlertEvent) -> None:
        """Takes an event on its way. Beyond the backlog the oldest is lost and counted."""
        if len(self._incoming) >= self._backlog:
            self._incoming.popleft()
            self._lose()
        self._incoming.append(event)
        self._arrived.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._record_all(), name="alerts: recorder")
            for name, post in self._posts.items():
                tasks.create_task(self._serve(name, post), name=f"alerts: sink {name}")

    async def stop(self) -> None:
        """After `run` was cancelled: records what came last, so that the next run delivers it, and closes the sinks."""
        while self._incoming or self._unrecorded:
            source = self._unrecorded or self._incoming
            event = source[0]
            left = source is self._unrecorded
            try:
                await self._store.record(event, self._memory.waiting_for(event) if left else self._sinks_for(event))
            except RecordRefused as error:
                self._refused(event, error)
            except StorageError as error:
                lost = len(self._incoming) + len(self._unrecorded)
                log.error("alerts: %d events could not be recorded: %s", lost, error)
                self._observer.history_lost("alert_events", lost)
                break
            self._memory.hand_over(event)
            source.popleft()
        for name, post in self._posts.items():
            try:
                await post.sink.close()
            except Exception:
                log.exception("alerts: closing the sink %s", name)

    # --- recording -------------------------------------------------------------------------------------------------

    async def _record_all(self) -> None:
        delay = 1.0
        while True:
            if not self._incoming:
                timeout = delay if self._unrecorded else None
                self._arrived.clear()
                await _wait(self._arrived, timeout)
            recovered = await self._catch_up()
            delay = 1.0 if recovered else min(30.0, delay * 2)
            while self._incoming:
                await self._record(self._incoming[0])

    async def _catch_up(self) -> bool:
        while self._unrecorded:
            event = self._unrecorded[0]
            try:
                # What has not left by memory yet goes on by the database: a restart must not lose it.
                await self._store.record(event, self._memory.waiting_for(event))
                self._memory.hand_over(event)
            except RecordRefused as error:  # it stays in memory until it has been delivered
                self._refused(event, error)
            except StorageError:
                return False
            self._unrecorded.popleft()
            if not self._unrecorded:
                self._report(AlertKind.STORAGE, "outbox", None)
        return True

    async def _record(self, event: AlertEvent) -> None:
        """The head of `_incoming`; it stays there until it is safe, so that a cancellation loses nothing."""
        sinks = self._sinks_for(event)
        try:
            if self._unrecorded:
                raise StorageError("earlier events wait")
            await self._store.record(event, sinks)
            if not self._recorded:  # what an earlier run said of it is over
                self._recorded = True
                self._report(AlertKind.STORAGE, "outbox", None)
        except RecordRefused as error:
            self._refused(event, error)
            self._memory.record(event, sinks)
        except StorageError as error:
            if not self._unrecorded:
                log.error("alerts: the outbox cannot be written (%s); delivering from memory", error)
                self._report(AlertKind.STORAGE, "outbox", str(error))
            self._memory.record(event, sinks)
            if len(self._unrecorded) >= self._backlog:
                self._unrecorded.popleft()
                self._lose()
            self._unrecorded.append(event)
        if self._incoming and self._incoming[0] is event:
            self._incoming.popleft()
        for sink in sinks:
            self._posts[sink].wake.set()

    def _sinks_for(self, event: AlertEvent) -> Sequence[str]:
        if event.after.silenced:
            return ()
        rank = _RANK[event.after.severity]
        return [n for n, p in self._posts.items() if rank >= _RANK[p.settings.min_severity]]

    def _refused(self, event: AlertEvent, error: RecordRefused) -> None:
        log.error("alerts: %s is not in the history: %s", event.after.id, error)
        self._lose()

    def _lose(self) -> None:
        self._lost += 1
        self._observer.history_lost("alert_events", 1)

    # --- delivering ------------------------------------------------------------------------------------------------

    async def _serve(self, name: str, post: _Post) -> None:
        while True:
            post.wake.clear()
            groups = _by_stream(await self._due(name))
            # A stream's deliveries gather from the first of them on.
            ripe_at = [min(d.created_at for d in group) + self._group_wait for group in groups]
            now = time.time()
            if all(at > now for at in ripe_at):
                await _wait(post.wake, max(0.01, min([now + POLL, post.next_try, *ripe_at]) - now))
                continue
            post.next_try = float("inf")
            for group, at in zip(groups, ripe_at, strict=True):
                if at <= now:
                    await self._attempt(name, post, group)

    async def _due(self, name: str) -> list[Delivery]:
        now = time.time()
        in_memory = self._memory.due(name, now, BATCH)
        try:
            return await self._store.due(name, now, BATCH) + in_memory
        except StorageError:
            return in_memory

    async def _attempt(self, name: str, post: _Post, group: Sequence[Delivery]) -> None:
        fresh = [d for d in group if not self._superseded(d)]
        for delivery in group:
            if delivery not in fresh:
                await self._settle(delivery, None)
        if not fresh:
            return
        try:
            await post.sink.send(fresh)
        except DeliveryFailed as error:
            await self._retry(name, post, fresh, error)
            return
        except Exception as error:  # a sink's fault is never the service's
            log.exception("alerts: the sink %s", name)
            await self._retry(name, post, fresh, DeliveryFailed(type(error).__name__))
            return
        for delivery in fresh:
            self._observer.delivery(name, "delivered")
            self._remember(delivery)
            await self._settle(delivery, None)
            self._delivered += 1
        if post.failures >= FAILING_AFTER:
            log.warning("alerts: the sink %s delivers again", name)
        if not post.well:  # also what an earlier run said of it is over
            self._report(AlertKind.SINK_FAILING, name, None)
        post.failures, post.well = 0, True

    async def _retry(self, name: str, post: _Post, group: Sequence[Delivery], error: DeliveryFailed) -> None:
        now = time.time()
        post.failures += 1
        for delivery in group:
            delay = min(BACKOFF_CAP, BACKOFF_FIRST * 2.0 ** min(delivery.attempts, 20)) * random.uniform(0.75, 1.25)
            dead = not error.retryable or now + delay > delivery.created_at + post.settings.give_up_after
            if dead:
                log.error("alerts: %s to sink %s is given up: %s", delivery.event.after.id, name, error)
            else:
                post.next_try = min(post.next_try, now + delay)
            self._observer.delivery(name, "dead" if dead else "retried")
            await self._settle(delivery, str(error), None if dead else now + delay)
            self._dead += dead
        self._failed += 1
        if post.failures == FAILING_AFTER:
            log.warning("alerts: the sink %s fails: %s", name, error)
        if post.failures >= FAILING_AFTER:  # each time: the first may fall into the cooldown of the last alert
            post.well = False
            self._report(AlertKind.SINK_FAILING, name, str(error))

    async def _settle(self, delivery: Delivery, error: str | None, next_attempt: float | None = None) -> None:
        """Notes the outcome. If the database cannot take it, the delivery will be made again: at least once."""
        if delivery.id < 0:
            if error is None:
                self._memory.delivered(delivery)
            else:
                self._memory.failed(delivery, next_attempt)
            return
        try:
            if error is None:
                await self._store.delivered(delivery, time.time())
            else:
                await self._store.failed(delivery, error, next_attempt)
        except StorageError as problem:
            log.warning("alerts: the outcome of a delivery could not be noted: %s", problem)
            await asyncio.sleep(1.0)  # it is still due: do not storm the sink with it

    def _superseded(self, delivery: Delivery) -> bool:
        """Something newer of this alert has reached the sink already: what left by memory overtook the database."""
        key = (delivery.sink, delivery.event.after.id)
        return delivery.event.after.updated_at.wall < self._newest.get(key, float("-inf"))

    def _remember(self, delivery: Delivery) -> None:
        key = (delivery.sink, delivery.event.after.id)
        self._newest[key] = delivery.event.after.updated_at.wall
        self._newest.move_to_end(key)
        while len(self._newest) > REMEMBERED:
            self._newest.popitem(last=False)


def _by_stream(deliveries: Sequence[Delivery]) -> list[list[Delivery]]:
    groups: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        # One notification never holds two events of one alert: `due` gives one from the database and one from memory.
        group = groups.setdefault(delivery.event.after.stream, [])
        if all(d.event.after.id != delivery.event.after.id for d in group):
            group.append(delivery)
    return list(groups.values())


async def _wait(event: asyncio.Event, timeout: float | None) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass
