from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from streamwatch.errors import DeviceError, Expired, Overloaded
from streamwatch.inference.batcher import Batch, Batcher, LaneLimits
from streamwatch.observer import NullObserver

FAR = 1e9


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock, *, max_batch: int = 3, max_queue: int = 5, max_wait: float = 0.0) -> Batcher:
    lanes = [LaneLimits(name, max_batch, max_queue, max_wait) for name in ("detect", "score")]
    return Batcher(lanes, NullObserver(), clock)


def taken(batcher: Batcher) -> Batch:
    batch = batcher.take()
    assert batch is not None
    return batch


def test_a_free_device_takes_all_that_is_queued_up_to_the_maximum() -> None:
    batcher = make(Clock())
    futures = batcher.submit("score", [1, 2], FAR) + batcher.submit("score", [3, 4], FAR)
    first, second = taken(batcher), taken(batcher)
    assert (first.payloads, second.payloads) == ([1, 2, 3], [4])
    batcher.finish(second, ["d"])
    batcher.finish(first, ["a", "b", "c"])
    assert [future.result(0) for future in futures] == ["a", "b", "c", "d"]
    figures = batcher.statistics()["score"]
    assert (figures.batches, figures.items, figures.largest_batch, figures.in_flight) == (2, 4, 3, 0)


def test_lanes_with_work_take_turns() -> None:
    batcher = make(Clock(), max_batch=1)
    batcher.submit("score", [1, 2, 3], FAR)
    batcher.submit("detect", [7, 8], FAR)
    assert [taken(batcher).lane for _ in range(5)] == ["detect", "score", "detect", "score", "score"]


def test_a_full_lane_refuses_the_whole_submission_and_counts_it() -> None:
    batcher = make(Clock())
    batcher.submit("score", [1, 2, 3, 4], FAR)
    with pytest.raises(Overloaded, match="score queue holds 4 of at most 5"):
        batcher.submit("score", [5, 6], FAR)
    batcher.submit("detect", [1], FAR)  # the other lane has room of its own
    figures = batcher.statistics()["score"]
    assert (figures.queued, figures.refused) == (4, 2)


def test_work_past_its_deadline_never_reaches_a_device() -> None:
    clock = Clock()
    batcher = make(clock)
    early, late = batcher.submit("score", ["early"], 1.0) + batcher.submit("score", ["late"], 5.0)
    clock.now = 2.0
    assert taken(batcher).payloads == ["late"]
    assert isinstance(early.exception(0), Expired)
    assert late.running()
    with pytest.raises(Expired):
        batcher.submit("score", ["too late"], 2.0)
    assert batcher.statistics()["score"].expired == 2


def test_cancelled_work_costs_nothing() -> None:
    batcher = make(Clock())
    first, _ = batcher.submit("score", [1, 2], FAR)
    assert first.cancel()
    assert taken(batcher).payloads == [2]


def test_a_failed_batch_fails_only_those_who_wait_for_it() -> None:
    batcher = make(Clock(), max_batch=1)
    bad, good = batcher.submit("score", [1, 2], FAR)
    batcher.fail(taken(batcher), DeviceError("out of memory"))
    batcher.finish(taken(batcher), ["fine"])
    assert isinstance(bad.exception(0), DeviceError)
    assert good.result(0) == "fine"
    assert batcher.statistics()["score"].failed == 1


def test_a_wrong_number_of_results_fails_the_batch_instead_of_mixing_it_up() -> None:
    batcher = make(Clock())
    futures = batcher.submit("score", [1, 2], FAR)
    batcher.finish(taken(batcher), ["only one"])
    assert all(isinstance(future.exception(0), DeviceError) for future in futures)


def test_closing_fails_what_waits_and_ends_the_devices() -> None:
    batcher = make(Clock())
    (waiting,) = batcher.submit("score", [1], FAR)
    batcher.close()
    assert batcher.take() is None
    assert isinstance(waiting.exception(0), DeviceError)
    with pytest.raises(DeviceError, match="stopped"):
        batcher.submit("score", [2], FAR)


def test_a_batch_leaves_when_it_is_full_or_its_oldest_item_has_waited() -> None:
    clock = Clock()
    batcher = make(clock, max_batch=2, max_wait=0.01)
    batcher.submit("score", [1, 2], FAR)
    assert taken(batcher).payloads == [1, 2]
    batcher.submit("score", [3], FAR)
    clock.now = 0.02
    assert taken(batcher).payloads == [3]


def test_a_waiting_device_wakes_for_new_work() -> None:
    batcher = make(Clock())
    seen: list[Any] = []
    device = threading.Thread(target=lambda: seen.append(taken(batcher).payloads))
    device.start()
    batcher.submit("detect", ["frame"], FAR)
    device.join(10)
    assert seen == [["frame"]]


def test_a_callback_may_submit_again() -> None:
    batcher = make(Clock(), max_batch=1)
    again: list[Future[Any]] = []
    (future,) = batcher.submit("score", [1], FAR)
    future.add_done_callback(lambda _: again.extend(batcher.submit("score", [2], FAR)))
    batcher.finish(taken(batcher), ["one"])
    assert taken(batcher).payloads == [2]
    assert len(again) == 1
