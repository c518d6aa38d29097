"""The supervisor around sources that misbehave in ways in which real ones rarely do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from streamwatch.domain import ClockSource, FailureReason, Instant, StreamInfo, StreamState, StreamStatus
from streamwatch.ingest import supervisor as module
from streamwatch.ingest.supervisor import Supervisor
from streamwatch.observer import NullObserver
from streamwatch.protocols import Sink
from tests.fakes.ingest import Collector, ingest_settings, until

INFO = StreamInfo("h264", 4, 4, 25.0)


class Scripted:
    """A Source whose run is a function."""

    skew = 0.25

    def __init__(self, work: Callable[[Sink], Awaitable[None]], *, waits: bool = False) -> None:
        self._work = work
        self.waits = waits
        self.fps: float | None = None

    async def run(self, sink: Sink) -> None:
        await self._work(sink)

    def set_rate(self, fps: float) -> None:
        self.fps = fps


class Skews(NullObserver):
    def __init__(self) -> None:
        self.skews: list[float] = []
        self.reconnects: list[FailureReason] = []

    def clock_skew(self, stream: str, seconds: float) -> None:
        self.skews.append(seconds)

    def reconnecting(self, stream: str, reason: FailureReason) -> None:
        self.reconnects.append(reason)


class Run:
    def __init__(self, work: Callable[[Sink], Awaitable[None]], **fields: float) -> None:
        self.sink, self.statuses, self.observer, self.sources = (
            Collector(),
            list[StreamStatus](),
            Skews(),
            list[Scripted](),
        )

        def make() -> Scripted:
            self.sources.append(Scripted(work))
            return self.sources[-1]

        settings = ingest_settings(**fields)
        self.supervisor = Supervisor("cam", make, self.sink, settings, self.statuses.append, self.observer)

    def reasons(self) -> list[FailureReason | None]:
        return [status.reason for status in self.statuses]


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[Run]:
    task = asyncio.create_task(run.supervisor.run())
    try:
        yield run
    finally:
        run.supervisor.stop()
        await task


@pytest.fixture(autouse=True)
def _short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MARGIN", 0.05)
    monkeypatch.setattr(module, "_LOOK", 0.1)


def states(run: Run) -> list[StreamState]:
    return [status.state for status in run.statuses]


def picture(sink: Sink) -> None:
    sink.offer(np.zeros((4, 4, 3), np.uint8), Instant(0.0, 0.0), 0.0, ClockSource.ARRIVAL)


async def test_a_fault_of_ours_is_logged_in_full_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def work(sink: Sink) -> None:
        raise RuntimeError("a bug")

    async with running(Run(work)) as run:
        await until(lambda: len(run.sources) >= 2, "another attempt")
        assert run.supervisor.status.state is StreamState.RECONNECTING
        assert run.observer.reconnects[0] is FailureReason.CONNECTION_FAILED
        assert run.statuses[-1].detail == "unexpected RuntimeError"
    assert "a bug" in caplog.text


async def test_the_outer_watchdog_ends_an_opening_that_hangs() -> None:
    async def work(sink: Sink) -> None:
        await asyncio.sleep(3600)

    async with running(Run(work, open_timeout=0.1)) as run:
        await until(lambda: FailureReason.TIMEOUT in run.reasons(), "a timeout")


async def test_the_outer_watchdog_notices_a_stall() -> None:
    async def work(sink: Sink) -> None:
        sink.connected(INFO)
        picture(sink)
        await asyncio.sleep(3600)

    async with running(Run(work, read_timeout=0.1)) as run:
        await until(lambda: StreamState.RECONNECTING in states(run), "the stall")
        assert states(run)[1:4] == [StreamState.LIVE, StreamState.STALLED, StreamState.RECONNECTING]
        assert run.observer.skews[0] == 0.25


async def test_nothing_reaches_the_sink_after_the_source_was_given_up() -> None:
    kept: list[Sink] = []

    async def work(sink: Sink) -> None:
        kept.append(sink)
        sink.connected(INFO)
        picture(sink)
        await asyncio.sleep(3600)

    async with running(Run(work)) as run:
        await until(lambda: run.sink.offered == 1, "a picture")
        run.supervisor.pause()
        await until(lambda: run.supervisor.status.state is StreamState.PAUSED, "the pause")
        kept[0].connected(INFO)
        kept[0].decoded()
        kept[0].packet(None, None)
        picture(kept[0])
        await asyncio.sleep(0.05)
        assert (run.sink.offered, run.sink.decoded_count, run.sink.packets) == (1, 0, 0)
        assert run.supervisor.status.state is StreamState.PAUSED


async def test_a_recording_ends_and_can_be_started_again() -> None:
    async def work(sink: Sink) -> None:
        sink.connected(INFO)
        await asyncio.sleep(0.02)

    async with running(Run(work)) as run:
        await until(lambda: run.supervisor.status.state is StreamState.ENDED, "the end")
        run.supervisor.resume()
        await until(lambda: len(run.sources) == 2, "another run")


async def test_the_rate_holds_for_later_connections_too() -> None:
    async def work(sink: Sink) -> None:
        await asyncio.sleep(0.05)
        raise RuntimeError("again")

    run = Run(work)
    run.supervisor.set_rate(7.0)
    async with running(run):
        await until(lambda: len(run.sources) >= 2, "another attempt")
        run.supervisor.set_rate(9.0)
    assert run.sources[0].fps == 7.0


async def test_cancelling_ends_the_source() -> None:
    ended = asyncio.Event()

    async def work(sink: Sink) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    task = asyncio.create_task(Run(work).supervisor.run())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_pause_that_is_taken_back_while_the_source_ends_connects_again() -> None:
    async def slow_to_end(sink: Sink) -> None:
        sink.connected(INFO)
        sink.decoded()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.3)  # as a thread that is in a read

    async with running(Run(slow_to_end)) as run:
        await until(lambda: run.supervisor.status.state is StreamState.LIVE, "live")
        run.supervisor.pause()
        await asyncio.sleep(0.05)
        run.supervisor.resume()
        await until(lambda: len(run.sources) == 2, "a second connection")
        await until(lambda: run.supervisor.status.state is StreamState.LIVE, "live again")
        assert StreamState.ENDED not in states(run)


async def test_a_silence_is_told_before_it_is_given_up() -> None:
    async def halting(sink: Sink) -> None:
        sink.connected(INFO)
        for pause in (0.0, 1.5, 0.1, 3600.0):
            await asyncio.sleep(pause)
            sink.decoded()

    async with running(Run(halting, read_timeout=2.0)) as run:
        await until(lambda: states(run).count(StreamState.LIVE) == 2, "live again after a silence")
        await until(lambda: StreamState.RECONNECTING in states(run), "given up")
        told = [s for s in states(run) if s is not StreamState.CONNECTING][:5]
        assert told == [
            StreamState.LIVE,
            StreamState.STALLED,
            StreamState.LIVE,
            StreamState.STALLED,
            StreamState.RECONNECTING,
        ]
