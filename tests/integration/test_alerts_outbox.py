"""Deliveries while the database reads and does not write, or does not answer at all: each once, soon, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from streamwatch.domain import Alert, AlertEvent
from streamwatch.errors import StorageError
from streamwatch.history.database import PATIENCE
from streamwatch.history.store import History
from streamwatch.protocols import AlertStore, Delivery
from tests.fakes.alerting import dispatching, hook, opened, resolved, until
from tests.fakes.webhook import Receiver


class Ailing:
    """A real store whose disk can be full, or which answers nobody until it is well again."""

    def __init__(self, store: AlertStore) -> None:
        self._store = store
        self._answers = asyncio.Event()
        self._answers.set()
        self.full = False
        self.takes = 1_000_000
        """records until it hangs by itself"""

    def hang(self) -> None:
        self._answers.clear()

    def heal(self) -> None:
        self.full, self.takes = False, 1_000_000
        self._answers.set()

    async def _answer(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._answers.wait()
        except TimeoutError:
            raise StorageError(f"no answer within {PATIENCE:.0f} s") from None

    async def _write(self) -> None:
        await self._answer()
        if self.full:
            raise StorageError("database or disk is full")

    async def record(self, event: AlertEvent, sinks: Sequence[str]) -> None:
        await self._write()
        await self._store.record(event, sinks)
        self.takes -= 1
        if not self.takes:
            self.hang()

    async def due(self, sink: str, now: float, limit: int, finished: Collection[int] = ()) -> list[Delivery]:
        await self._answer()
        return await self._store.due(sink, now, limit, finished)

    async def delivered(self, delivery: Delivery, at: float) -> None:
        await self._write()
        await self._store.delivered(delivery, at)

    async def failed(self, delivery: Delivery, error: str, next_attempt: float | None) -> None:
        await self._write()
        await self._store.failed(delivery, error, next_attempt)

    async def active(self, resolved_since: float | None = None) -> list[Alert]:
        await self._answer()
        return await self._store.active(resolved_since)


@pytest.fixture
def store(history: History) -> Ailing:
    return Ailing(history.alerts)


@pytest.mark.slow
async def test_what_cannot_be_noted_is_not_delivered_again(history: History, store: Ailing, receiver: Receiver) -> None:
    """More rows than are read at once wait when the disk fills up, and one alert has two of them."""
    waiting = [opened(f"a{i:02}", stream=f"cam{i}") for i in range(60)]
    waiting.append(resolved(waiting[0]))
    for event in waiting:
        await store.record(event, ["hook"])
    store.full = True
    async with dispatching(store, hook(receiver)) as dispatcher:
        await until(lambda: len(receiver.told) == 61)
        await asyncio.sleep(3.0)
        assert (dispatcher.statistics.unnoted, dispatcher.statistics.delivered) == (61, 61)
        store.heal()
        await until(lambda: dispatcher.statistics.unnoted == 0)
        assert await history.alerts.pending() == 0
    assert len(receiver.told) == len(set(receiver.told)) == 61
    assert [status for alert, status in receiver.told if alert == "a00"] == ["firing", "resolved"]


async def test_what_cannot_be_noted_is_bounded(store: Ailing, receiver: Receiver) -> None:
    """Beyond the bound rows wait, and what is new leaves by memory as ever."""
    for i in range(120):
        await store.record(opened(f"a{i:03}", stream=f"cam{i}"), ["hook"])
    store.full = True
    async with dispatching(store, hook(receiver), backlog=60) as dispatcher:
        await until(lambda: dispatcher.statistics.unnoted >= 60)
        dispatcher.submit(opened("new"))
        await until(lambda: ("new", "firing") in receiver.told, seconds=3.0)
        await asyncio.sleep(2.5)
        assert 60 <= dispatcher.statistics.unnoted <= 110  # what was read before the bound was reached
        store.heal()
        await until(lambda: len(receiver.told) == 121)
        await until(lambda: dispatcher.statistics.unnoted == 0 and dispatcher.statistics.unrecorded == 0)
    assert len(receiver.told) == len(set(receiver.told)) == 121


@pytest.mark.slow
async def test_a_failing_sink_keeps_its_backoff_while_nothing_can_be_noted(
    history: History, store: Ailing, receiver: Receiver
) -> None:
    await store.record(opened("a1"), ["hook"])
    store.full = True
    receiver.status = 503
    async with dispatching(store, hook(receiver)) as dispatcher:
        await until(lambda: dispatcher.statistics.failed_attempts == 1)
        await asyncio.sleep(6.0)  # the next ones after 1, 2 and 4 s, give or take a quarter
        assert 3 <= dispatcher.statistics.failed_attempts <= 4
        store.heal()
        await until(lambda: dispatcher.statistics.unnoted == 0)
        (delivery,) = await history.alerts.deliveries("a1")
        assert (delivery.state, delivery.error) == ("pending", "answered 503")
        assert delivery.attempts >= 3


async def test_what_was_noted_at_the_end_is_not_delivered_by_the_next_run(store: Ailing, receiver: Receiver) -> None:
    await store.record(opened("a1"), ["hook"])
    store.full = True
    async with dispatching(store, hook(receiver)) as dispatcher:
        await until(lambda: dispatcher.statistics.delivered == 1)  # `told` comes before the receiver's answer does
        store.full = False
    async with dispatching(store, hook(receiver)) as dispatcher:
        dispatcher.submit(opened("a2"))
        await until(lambda: len(receiver.told) == 2)
    assert [alert for alert, _ in receiver.told] == ["a1", "a2"]


async def test_alerts_leave_within_two_seconds_while_the_database_hangs(
    history: History, store: Ailing, receiver: Receiver
) -> None:
    """The first of them too; afterwards all are recorded, and nothing is told twice or out of order."""
    problems: list[str | None] = []
    report = lambda kind, name, problem: problems.append(problem)  # noqa: E731
    async with dispatching(store, hook(receiver), report=report) as dispatcher:
        dispatcher.submit(opened("a0"))
        await until(lambda: dispatcher.statistics.delivered == 1)
        store.hang()
        first = opened("a1")
        events = [first, resolved(first), opened("a2"), opened("a3")]
        events += [resolved(event) for event in events[2:]]
        for event in events:
            dispatcher.submit(event)
            told = (event.after.id, "firing" if event.after.active else "resolved")
            await until(lambda told=told: told in receiver.told, seconds=2.0)  # type: ignore[misc]
        assert dispatcher.statistics.unrecorded == 6
        store.heal()
        await until(lambda: dispatcher.statistics.unrecorded == 0)
        dispatcher.submit(opened("a4"))
        await until(lambda: len(receiver.told) == 8)
    expected = [(e.after.id, "firing" if e.after.active else "resolved") for e in events]
    assert receiver.told == [("a0", "firing"), *expected, ("a4", "firing")]
    assert [a.id for a in await history.alerts.active()] == ["a0", "a4"]
    assert set(problems) == {None}, "slow is not down"


async def test_no_event_overtakes_one_that_was_recorded_before_it(store: Ailing, receiver: Receiver) -> None:
    """The receiver and the database were ill; the database comes back, and hangs after the first of two events."""
    store.full, receiver.status = True, 503
    async with dispatching(store, hook(receiver)) as dispatcher:
        event = opened("a1")
        dispatcher.submit(event)
        dispatcher.submit(resolved(event))
        await until(lambda: dispatcher.statistics.failed_attempts >= 1)
        store.full, store.takes = False, 1
        await until(lambda: dispatcher.statistics.unrecorded == 1)
        receiver.status = 200
        await asyncio.sleep(3.0)
        assert receiver.told == []  # the first is in the database only, which does not say so
        store.heal()
        await until(lambda: len(receiver.told) == 2)
    assert receiver.told == [("a1", "firing"), ("a1", "resolved")]


async def test_a_row_that_was_read_late_is_delivered_once(store: Ailing, receiver: Receiver) -> None:
    await store.record(opened("a1"), ["hook"])
    store.hang()
    async with dispatching(store, hook(receiver)) as dispatcher:
        dispatcher.submit(opened("a2"))
        await until(lambda: receiver.told == [("a2", "firing")], seconds=2.0)
        store.heal()
        await until(lambda: len(receiver.told) == 2)
        await until(lambda: dispatcher.statistics.unnoted == 0 and dispatcher.statistics.unrecorded == 0)
        await asyncio.sleep(0.5)
    assert [alert for alert, _ in receiver.told] == ["a2", "a1"]
