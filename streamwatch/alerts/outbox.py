"""The outbox: events are recorded in the database, and leave by memory where it is down or slow. Outcomes of deliveries
are noted there as well, whenever it can take them. Nobody who delivers waits for the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from streamwatch.alerts.fallback import MemoryOutbox
from streamwatch.domain import Alert, AlertEvent, AlertKind
from streamwatch.errors import RecordRefused, StorageError
from streamwatch.observer import Observer
from streamwatch.protocols import AlertStore, Delivery, Report

log = logging.getLogger(__name__)

RECORD_WITHIN = 1.0
"""Seconds that the database has to record an event before the event leaves by memory as well."""
READ_WITHIN = 0.5
"""Seconds that a sink waits for the database to say what is due before it goes on with what is in memory."""
RETRY_FIRST = 1.0
RETRY_CAP = 30.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an attempt ended. Without an error it was delivered; with one and no next attempt it is a dead letter."""

    delivery: Delivery
    at: float
    error: str | None
    next_attempt: float | None

    @property
    def final(self) -> bool:
        return self.error is None or self.next_attempt is None


class Outbox:
    """`submit`, `delivered` and `failed` are for the event loop and never block. `run` writes until cancelled; `drain`
    then writes what is left.

    While an event is unrecorded, it and all that come after it are in memory too, so that none overtakes another.
    """

    def __init__(
        self, store: AlertStore, wake: Callable[[str], None], observer: Observer, report: Report, backlog: int
    ) -> None:
        """`wake` is called with the name of a sink that has something to deliver. At most `backlog` events wait to be
        recorded, and as many outcomes to be noted."""
        self._store = store
        self._wake = wake
        self._observer = observer
        self._report = report
        self._backlog = backlog
        self._unrecorded: deque[tuple[AlertEvent, Sequence[str]]] = deque()
        self._memory = MemoryOutbox()
        self._by_memory = False
        """all that is unrecorded has been given to the memory, and all that comes will be"""
        self._well: bool | None = None
        """whether the last record was taken; None: none was tried since the start"""
        self._unnoted: dict[int, _Outcome] = {}
        """id of a row of the database -> what became of it, as far as the database does not know"""
        self._readings: dict[str, asyncio.Task[list[Delivery]]] = {}
        self._arrived, self._settled = asyncio.Event(), asyncio.Event()
        self._lost = 0

    @property
    def unrecorded(self) -> int:
        return len(self._unrecorded)

    @property
    def unnoted(self) -> int:
        return len(self._unnoted)

    @property
    def in_memory(self) -> int:
        return len(self._memory)

    @property
    def lost(self) -> int:
        return self._lost + self._memory.lost

    def submit(self, event: AlertEvent, sinks: Sequence[str]) -> None:
        """Takes an event on its way. Beyond the backlog the oldest is lost and counted."""
        if len(self._unrecorded) >= self._backlog:
            self._unrecorded.popleft()
            self._lose()
        self._unrecorded.append((event, sinks))
        if self._by_memory:
            self._to_memory(event, sinks)
        self._arrived.set()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._record_all(), name="alerts: recorder")
                tasks.create_task(self._note_all(), name="alerts: notes")
        finally:
            for reading in self._readings.values():
                reading.cancel()
            await asyncio.gather(*self._readings.values(), return_exceptions=True)

    async def drain(self) -> None:
        """After `run` was cancelled: what the database still takes, so that the next run goes on from there."""
        while self._unrecorded:
            try:
                await self._record(*self._unrecorded[0])
            except StorageError as error:
                lost = len(self._unrecorded)
                log.error("alerts: %d events could not be recorded: %s", lost, error)
                self._observer.history_lost("alert_events", lost)
                return
        try:
            await self._note()
        except StorageError as error:
            log.warning("alerts: %d deliveries will be made again: %s", self.unnoted, error)

    # --- recording -------------------------------------------------------------------------------------------------

    async def _record_all(self) -> None:
        delay = RETRY_FIRST
        while True:
            if not self._unrecorded:
                self._arrived.clear()
                await self._arrived.wait()
            try:
                await self._record(*self._unrecorded[0])
                delay = RETRY_FIRST
            except StorageError:
                await asyncio.sleep(delay)
                delay = min(RETRY_CAP, delay * 2)

    async def _record(self, event: AlertEvent, sinks: Sequence[str]) -> None:
        """The head of `_unrecorded`; it stays there until it is safe, so that a cancellation loses nothing. Raises
        StorageError."""
        late = asyncio.get_running_loop().call_later(RECORD_WITHIN, self._late)
        try:
            # What has left by memory is done; what has not goes on by the database: a restart must not lose it.
            await self._store.record(event, self._memory.waiting_for(event) if self._by_memory else sinks)
        except RecordRefused as error:
            log.error("alerts: %s is not in the history: %s", event.after.id, error)
            self._lose()
            if not self._by_memory:
                self._to_memory(event, sinks)
        except StorageError as error:
            self._leave_by_memory()
            if self._well is not False:
                log.error("alerts: the outbox cannot be written (%s); delivering from memory", error)
                self._report(AlertKind.STORAGE, "outbox", str(error))
            self._well = False
            raise
        else:
            self._memory.hand_over(event)
        finally:
            late.cancel()
        if self._unrecorded and self._unrecorded[0][0] is event:  # it may have been lost meanwhile
            self._unrecorded.popleft()
        if not self._unrecorded:
            self._by_memory = False
            self._memory.handed_over()
            if not self._well:  # also what an earlier run said of it is over
                self._report(AlertKind.STORAGE, "outbox", None)
            self._well = True
        for sink in sinks:
            self._wake(sink)

    def _late(self) -> None:
        if not self._by_memory:
            log.warning("alerts: the outbox is not written within %g s; delivering from memory", RECORD_WITHIN)
        self._leave_by_memory()

    def _leave_by_memory(self) -> None:
        if self._by_memory:
            return
        self._by_memory = True
        for event, sinks in self._unrecorded:
            self._to_memory(event, sinks)

    def _to_memory(self, event: AlertEvent, sinks: Sequence[str]) -> None:
        self._memory.record(event, sinks)
        for sink in sinks:
            self._wake(sink)

    def _lose(self) -> None:
        self._lost += 1
        self._observer.history_lost("alert_events", 1)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def due(self, sink: str, limit: int) -> list[Delivery]:
        """What may be tried now, of each alert at most one from the database and one from memory. What a slow database
        says later is in the answer to a later call, for which the sink is woken."""
        reading = self._readings.get(sink)
        if reading is None:
            reading = self._readings[sink] = asyncio.create_task(self._read(sink, limit))
            await asyncio.wait({reading}, timeout=READ_WITHIN)
            if not reading.done():
                reading.add_done_callback(lambda _: self._wake(sink))
        in_memory = self._memory.due(sink, time.time(), limit)
        if not reading.done():
            return in_memory
        del self._readings[sink]
        return reading.result() + in_memory

    async def _read(self, sink: str, limit: int) -> list[Delivery]:
        # Of the moment before the database is asked: what is noted meanwhile may not be in its answer.
        outcomes = {row: o for row, o in self._unnoted.items() if o.delivery.sink == sink}
        if len(self._unnoted) >= self._backlog:
            return []
        now = time.time()
        finished = [row for row, outcome in outcomes.items() if outcome.final]
        postponed = len(outcomes) - len(finished)
        try:
            rows = await self._store.due(sink, now, limit + postponed, finished)
        except StorageError:
            return []
        known = [_as_known(row, outcomes.get(row.id)) for row in rows]
        return [row for row in known if row.next_attempt <= now][:limit]

    async def active(self) -> list[Alert]:
        """The alerts that are open; none while the database does not know all that was said of them. Raises
        StorageError."""
        return [] if self._unrecorded else await self._store.active()

    # --- noting ----------------------------------------------------------------------------------------------------

    def delivered(self, delivery: Delivery) -> None:
        if delivery.id < 0:
            self._memory.delivered(delivery)
        else:
            self._settle(_Outcome(delivery, time.time(), None, None))

    def failed(self, delivery: Delivery, error: str, next_attempt: float | None) -> None:
        """`next_attempt` None: it is given up."""
        if delivery.id < 0:
            self._memory.failed(delivery, next_attempt)
        else:
            # No database refuses it for a character that a receiver or a library said.
            said = "".join(c if c.isprintable() else "?" for c in error)
            self._settle(_Outcome(delivery, time.time(), said, next_attempt))

    def _settle(self, outcome: _Outcome) -> None:
        """From here on it counts, even if the database cannot take it: nothing is delivered twice for that."""
        self._unnoted[outcome.delivery.id] = outcome
        self._settled.set()

    async def _note_all(self) -> None:
        delay = RETRY_FIRST
        while True:
            self._settled.clear()
            try:
                await self._note()
                delay = RETRY_FIRST
                await self._settled.wait()
            except StorageError as problem:
                if delay == RETRY_FIRST:
                    log.warning("alerts: outcomes of deliveries cannot be noted yet: %s", problem)
                await asyncio.sleep(delay)
                delay = min(RETRY_CAP, delay * 2)

    async def _note(self) -> None:
        """Raises StorageError."""
        for row, outcome in list(self._unnoted.items()):
            if outcome.error is None:
                await self._store.delivered(outcome.delivery, outcome.at)
            else:
                await self._store.failed(outcome.delivery, outcome.error, outcome.next_attempt)
            if self._unnoted.get(row) is outcome:  # a later attempt may have ended meanwhile
                del self._unnoted[row]


def _as_known(row: Delivery, outcome: _Outcome | None) -> Delivery:
    """A row with what the database does not know of it yet."""
    if outcome is None or outcome.next_attempt is None:
        return row
    return replace(row, attempts=outcome.delivery.attempts + 1, next_attempt=outcome.next_attempt)
