from __future__ import annotations

import asyncio
import threading

import pytest

from streamwatch.latest import Latest


async def test_the_oldest_gives_way_and_is_counted() -> None:
    replaced: list[int] = []
    box = Latest[int](asyncio.get_running_loop(), replaced.append)
    for item in range(5):
        assert box.offer(item)
    assert await box.get() == 4
    assert sum(replaced) == 4
    assert len(box) == 0


async def test_capacity_keeps_the_newest_in_order() -> None:
    replaced: list[int] = []
    box = Latest[int](asyncio.get_running_loop(), replaced.append, capacity=3)
    for item in range(5):
        box.offer(item)
    assert [await box.get() for _ in range(3)] == [2, 3, 4]
    assert sum(replaced) == 2


async def test_a_waiting_task_is_woken_from_a_thread() -> None:
    box = Latest[str](asyncio.get_running_loop(), lambda _: None)
    waiting = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    thread = threading.Thread(target=box.offer, args=("frame",))
    thread.start()
    assert await asyncio.wait_for(waiting, 5) == "frame"
    thread.join()


async def test_cancelling_a_wait_loses_nothing() -> None:
    box = Latest[int](asyncio.get_running_loop(), lambda _: None)
    waiting = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    box.offer(1)
    assert await box.get() == 1


async def test_close_lets_what_is_held_be_taken_then_ends() -> None:
    box = Latest[int](asyncio.get_running_loop(), lambda _: None)
    box.offer(1)
    box.close()
    assert not box.offer(2)
    assert await box.get() == 1
    assert await box.get() is None


async def test_every_item_of_many_threads_is_taken_or_counted() -> None:
    lock, replaced = threading.Lock(), [0]

    def count(number: int) -> None:
        with lock:
            replaced[0] += number

    box = Latest[int](asyncio.get_running_loop(), count)
    threads = [threading.Thread(target=lambda: [box.offer(n) for n in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = 0

    async def take() -> None:
        nonlocal taken
        while await box.get() is not None:
            taken += 1

    taker = asyncio.create_task(take())
    for thread in threads:
        await asyncio.to_thread(thread.join)
    box.close()
    await asyncio.wait_for(taker, 10)
    assert taken + replaced[0] == 2000


def test_capacity_must_be_positive() -> None:
    loop = asyncio.new_event_loop()
    with pytest.raises(ValueError, match="at least 1"):
        Latest[int](loop, lambda _: None, capacity=0)
    loop.close()
