"""From alert events to sinks by way of the outbox: at least once, in order per alert, no sink waiting for another or
for the database.

An event is first recorded, alert and outbox in one transaction, then every sink that it is for is woken; each sink has
its own task, and one more where its receiver wants to be told again what is still open.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamwatch.alerts.outbox import Outbox
from streamwatch.alerts.payload import event_key
from streamwatch.alerts.sinks import AlertSink, RenewingSink
from streamwatch.config import SinkSettings
from streamwatch.domain import Alert, AlertEvent, AlertKind, Severity
from streamwatch.errors import DeliveryFailed, StorageError
from streamwatch.observer import NullObserver, Observer
from streamwatch.protocols import AlertStore, Delivery, Report

log = logging.getLogger(__name__)

BATCH = 50
POLL = 2.0
"""Seconds after which a sink's task looks by itself for what an earlier run left to be tried again."""
BACKOFF_FIRST = 1.0
BACKOFF_CAP = 300.0
FAILING_AFTER = 3
"""Failures in a row after which a sink is reported as failing."""
REMEMBERED = 1000
RENEW_EVERY = 60.0
"""Seconds after which a receiver that forgets what it is not told again is told what is open."""
_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """`unrecorded` events and `unnoted` outcomes wait for the database, `in_memory` deliveries leave without it; `lost`
    ones are gone."""

    unrecorded: int
    unnoted: int
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
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
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
        renew_every: float = RENEW_EVERY,
        backlog: int = 10_000,
    ) -> None:
        self._posts = {name: _Post(sink, settings) for name, (sink, settings) in sinks.items()}
        self._observer = observer or NullObserver()
        self._report = report or (lambda kind, name, problem: None)
        self._group_wait = group_wait
        self._renew_every = renew_every
        self._outbox = Outbox(store, self._wake, self._observer, self._report, backlog)
        self._newest: OrderedDict[tuple[str, str], AlertEvent] = OrderedDict()
        """(sink, alert) -> the event of it that the sink took last"""
        self._delivered = self._failed = self._dead = 0

    @property
    def statistics(self) -> DispatcherStatistics:
        outbox = self._outbox
        return DispatcherStatistics(
            unrecorded=outbox.unrecorded,
            unnoted=outbox.unnoted,
            in_memory=outbox.in_memory,
            lost=outbox.lost,
            delivered=self._delivered,
            failed_attempts=self._failed,
            dead=self._dead,
        )

    def submit(self, event: AlertEvent) -> None:
        """Takes an event on its way. Beyond the backlog the oldest is lost and counted."""
        self._outbox.submit(event, [name for name, post in self._posts.items() if _wants(post, event.after)])

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._outbox.run(), name="alerts: outbox")
            for name, post in self._posts.items():
                tasks.create_task(self._serve(name, post), name=f"alerts: sink {name}")
                if isinstance(post.sink, RenewingSink):
                    tasks.create_task(self._renew(name, post, post.sink), name=f"alerts: renewing {name}")

    async def stop(self) -> None:
        """After `run` was cancelled: records what came last, so that the next run delivers it, and closes the sinks."""
        await self._outbox.drain()
        for name, post in self._posts.items():
            try:
                await post.sink.close()
            except Exception:
                log.exception("alerts: closing the sink %s", name)

    def _wake(self, sink: str) -> None:
        self._posts[sink].wake.set()

    # --- delivering ------------------------------------------------------------------------------------------------

    async def _serve(self, name: str, post: _Post) -> None:
        while True:
            post.wake.clear()
            groups = _by_stream(await self._outbox.due(name, BATCH))
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

    async def _attempt(self, name: str, post: _Post, group: Sequence[Delivery]) -> None:
        fresh = [d for d in group if not self._superseded(d)]
        for delivery in group:
            if delivery not in fresh:
                self._outbox.delivered(delivery)
        if not fresh:
            return
        try:
            async with post.sending:
                await post.sink.send(fresh)
                for delivery in fresh:
                    self._remember(delivery)
        except DeliveryFailed as error:
            if error.retryable or len(fresh) == 1:
                self._retry(name, post, fresh, error)
                return
            for delivery in fresh:  # whichever of them is refused, the others are not given up with it
                await self._attempt(name, post, [delivery])
            return
        except Exception as error:  # a sink's fault is never the service's
            log.exception("alerts: the sink %s", name)
            self._retry(name, post, fresh, DeliveryFailed(type(error).__name__))
            return
        for delivery in fresh:
            self._observer.delivery(name, "delivered")
            self._outbox.delivered(delivery)
            self._delivered += 1
        if post.failures >= FAILING_AFTER:
            log.warning("alerts: the sink %s delivers again", name)
        if not post.well:  # also what an earlier run said of it is over
            self._report(AlertKind.SINK_FAILING, name, None)
        post.failures, post.well = 0, True

    def _retry(self, name: str, post: _Post, group: Sequence[Delivery], error: DeliveryFailed) -> None:
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
            self._outbox.failed(delivery, str(error), None if dead else now + delay)
            self._dead += dead
        self._failed += 1
        if post.failures == FAILING_AFTER:
            log.warning("alerts: the sink %s fails: %s", name, error)
        if post.failures >= FAILING_AFTER:  # each time: the first may fall into the cooldown of the last alert
            post.well = False
            self._report(AlertKind.SINK_FAILING, name, str(error))

    # --- renewing --------------------------------------------------------------------------------------------------

    async def _renew(self, name: str, post: _Post, sink: RenewingSink) -> None:
        """Tells the receiver again what is open. No delivery depends on it: what fails is counted, and comes again."""
        while True:
            await asyncio.sleep(self._renew_every)
            try:
                alerts = [alert for alert in await self._outbox.active() if _wants(post, alert)]
            except StorageError:
                continue
            async with post.sending:
                # An alert may have been resolved since it was read; no resolution comes in between from here on.
                current = [alert for alert in alerts if not self._overtaken(name, alert)]
                for start in range(0, len(current), BATCH):
                    if not await self._renewed(name, sink, current[start : start + BATCH]):
                        break

    async def _renewed(self, name: str, sink: RenewingSink, alerts: Sequence[Alert]) -> bool:
        """Whether the receiver can be told the next ones."""
        try:
            await sink.renew(alerts)
            return True
        except DeliveryFailed as error:
            log.debug("alerts: the sink %s was not told again what is open: %s", name, error)
            again = not error.retryable  # these are refused, the next ones may not be
        except Exception:  # a sink's fault is never the service's
            log.exception("alerts: the sink %s", name)
            again = False
        self._observer.delivery(name, "not_renewed")
        return again

    # --- order -----------------------------------------------------------------------------------------------------

    def _superseded(self, delivery: Delivery) -> bool:
        """This event or a newer one of its alert has reached the sink: by memory, before the database knew of it."""
        newest = self._newest.get((delivery.sink, delivery.event.after.id))
        if newest is None:
            return False
        again = event_key(newest) == event_key(delivery.event) and newest.after.labels == delivery.event.after.labels
        return again or self._overtaken(delivery.sink, delivery.event.after)

    def _overtaken(self, sink: str, alert: Alert) -> bool:
        """Something newer of this alert has reached the sink."""
        newest = self._newest.get((sink, alert.id))
        return newest is not None and alert.updated_at.wall < newest.after.updated_at.wall

    def _remember(self, delivery: Delivery) -> None:
        key = (delivery.sink, delivery.event.after.id)
        self._newest[key] = delivery.event
        self._newest.move_to_end(key)
        while len(self._newest) > REMEMBERED:
            self._newest.popitem(last=False)


def _wants(post: _Post, alert: Alert) -> bool:
    return not alert.silenced and _RANK[alert.severity] >= _RANK[post.settings.min_severity]


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
