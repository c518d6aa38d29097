from __future__ import annotations

import asyncio
import threading

import pytest

from streamwatch.domain import FailureReason
from streamwatch.errors import SourceUnavailable
from streamwatch.ingest.reaper import Reaper
from streamwatch.observer import NullObserver


async def test_errors_come_out_and_threads_are_joined() -> None:
    reaper = Reaper()
    before = threading.active_count()

    def work(stop: threading.Event) -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        await reaper.run(work, "work")
    assert threading.active_count() == before
    assert reaper.statistics().hanging == 0


async def test_cancelling_stops_work_that_listens() -> None:
    reaper = Reaper()
    task = asyncio.create_task(reaper.run(_wait, "listens"))
    await asyncio.sleep(0.05)
    assert reaper.statistics().running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    statistics = reaper.statistics()
    assert (statistics.running, statistics.hanging, statistics.reaped) == (0, 0, 1)


async def test_work_that_hangs_is_owned_counted_and_joined_later() -> None:
    depths: list[int] = []

    class Watching(NullObserver):
        def queue_depth(self, queue: str, depth: int) -> None:
            assert queue == "hanging_threads"
            depths.append(depth)

    reaper, release = Reaper(limit=2, grace=0.05, observer=Watching()), threading.Event()
    tasks = [asyncio.create_task(reaper.run(lambda stop: _wait(release), f"hangs {i}")) for i in range(2)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert reaper.statistics().hanging == 2

    with pytest.raises(SourceUnavailable, match="still hang") as caught:
        await reaper.run(lambda stop: None, "refused")
    assert caught.value.reason is FailureReason.TIMEOUT

    assert await reaper.close(0.05) == 2, "it does not wait for ever"
    release.set()
    assert await reaper.close(5.0) == 0
    assert (max(depths), depths[-1]) == (2, 0)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("hangs")] == []


async def test_one_peer_cannot_take_all_the_places() -> None:
    reaper, release = Reaper(grace=0.01, each=2), threading.Event()
    tasks = [asyncio.create_task(reaper.run(lambda stop: _wait(release), "hangs")) for _ in range(2)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(SourceUnavailable, match="2 earlier connections to it still hang"):
        await reaper.run(lambda stop: None, "hangs")
    await reaper.run(lambda stop: None, "another")
    release.set()
    assert await reaper.close(5.0) == 0


def _wait(event: threading.Event) -> None:
    assert event.wait(30)
