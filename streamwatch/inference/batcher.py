"""Cross-stream batching: work of many streams waits in lanes, a free device takes all that is queued, up to a maximum.

Natural batching: nothing waits for a batch to fill unless `max_wait` says so; while a device is busy the next batch
gathers by itself. A future ties each item to its result, so a failed batch fails only those who wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from streamwatch.errors import DeviceError, Expired, Overloaded, StreamWatchError
from streamwatch.observer import Observer


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """`max_batch` items leave together, `max_queue` wait at most; `max_wait` seconds a batch may wait to fill."""

    name: str
    max_batch: int
    max_queue: int
    max_wait: float = 0.0


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """Counts since the start, except `queued`, `in_flight` and `last_batch_size`, which are of now."""

    queued: int
    in_flight: int
    last_batch_size: int
    largest_batch: int
    batches: int
    items: int
    expired: int
    refused: int
    failed: int


@dataclass(slots=True, eq=False)
class _Item:
    payload: Any
    deadline: float
    queued_at: float
    future: Future[Any]


@dataclass(slots=True, eq=False)
class _Lane:
    limits: LaneLimits
    items: deque[_Item] = field(default_factory=deque)
    in_flight: int = 0
    last_batch: int = 0
    largest_batch: int = 0
    batches: int = 0
    done: int = 0
    expired: int = 0
    refused: int = 0
    failed: int = 0

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(
            len(self.items), self.in_flight, self.last_batch, self.largest_batch, self.batches, self.done,
            self.expired, self.refused, self.failed,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Items of one lane that a device works on together. It must be ended by `Batcher.finish` or `Batcher.fail`."""

    lane: str
    items: tuple[_Item, ...]

    @property
    def payloads(self) -> list[Any]:
        return [item.payload for item in self.items]


class Batcher:
    """Thread-safe. Any thread submits; device threads `take`, work, and `finish` or `fail`.

    Lanes with work take turns, so that neither detection nor scoring starves the other.
    """

    def __init__(
        self, lanes: Sequence[LaneLimits], observer: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lanes = {limits.name: _Lane(limits) for limits in lanes}
        self._turns = deque(self._lanes.values())
        self._observer = observer
        self._clock = clock
        self._changed = threading.Condition()  # on an RLock: a future's callback may submit again
        self._closed: StreamWatchError | None = None

    def submit(self, lane: str, payloads: Sequence[Any], deadline: float) -> list[Future[Any]]:
        """One future for each payload; all are queued or none.

        Raises Expired where the monotonic `deadline` has passed, Overloaded where the lane is full, and what
        `close` was given once closed. A future that is cancelled before its batch begins costs nothing.
        """
        queue = self._lanes[lane]
        with self._changed:
            if self._closed is not None:
                raise self._closed.with_traceback(None)  # raised often: keep no caller's frames
            now = self._clock()
            if now >= deadline:
                queue.expired += len(payloads)
                raise Expired(f"the deadline of {len(payloads)} {lane} items passed before they were queued")
            if len(queue.items) + len(payloads) > queue.limits.max_queue:
                queue.refused += len(payloads)
                raise Overloaded(f"the {lane} queue holds {len(queue.items)} of at most {queue.limits.max_queue} items")
            items = [_Item(payload, deadline, now, Future()) for payload in payloads]
            queue.items.extend(items)
            depth = len(queue.items)
            self._changed.notify()
        self._observer.queue_depth(lane, depth)
        return [item.future for item in items]

    def take(self) -> Batch | None:
        """Blocks until there is work; None once closed. What has expired or was cancelled is dropped here, for free."""
        with self._changed:
            while self._closed is None:
                now = self._clock()
                for lane in self._lanes.values():
                    self._drop_dead(lane, now)
                waits = [self._patience(lane, now) for lane in self._turns]
                due = [lane for lane, wait in zip(self._turns, waits, strict=True) if wait is not None and wait <= 0]
                if due:
                    self._turns.remove(due[0])
                    self._turns.append(due[0])
                    batch = self._batch_of(due[0])
                    if batch.items:
                        return batch
                    continue  # all of it was cancelled just now
                self._changed.wait(min((wait for wait in waits if wait is not None), default=None))
        return None

    def finish(self, batch: Batch, results: Sequence[Any]) -> None:
        """Gives each item its result, in order."""
        if len(results) != len(batch.items):
            self.fail(batch, DeviceError(f"{len(batch.items)} {batch.lane} items gave {len(results)} results"))
            return
        self._leave(batch, failed=False)
        for item, result in zip(batch.items, results, strict=True):
            item.future.set_result(result)

    def fail(self, batch: Batch, error: BaseException) -> None:
        """All who wait for this batch, and nobody else, see the error."""
        self._leave(batch, failed=True)
        for item in batch.items:
            item.future.set_exception(error)

    def close(self, error: StreamWatchError | None = None) -> None:
        """Fails what is queued and all later submissions with `error`; batches already taken end as they will."""
        reason = error or DeviceError("the engine has been stopped")
        with self._changed:
            if self._closed is not None:
                return
            self._closed = reason
            left = [item for lane in self._lanes.values() for item in lane.items]
            for lane in self._lanes.values():
                lane.items.clear()
            self._changed.notify_all()
        for item in left:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(reason)

    def statistics(self) -> dict[str, LaneStatistics]:
        with self._changed:
            return {name: lane.statistics() for name, lane in self._lanes.items()}

    def _drop_dead(self, lane: _Lane, now: float) -> None:
        alive: deque[_Item] = deque()
        for item in lane.items:
            if item.future.cancelled():
                continue
            if now >= item.deadline:
                lane.expired += 1
                if item.future.set_running_or_notify_cancel():
                    item.future.set_exception(Expired(f"the deadline passed in the {lane.limits.name} queue"))
                continue
            alive.append(item)
        lane.items = alive

    def _patience(self, lane: _Lane, now: float) -> float | None:
        """Seconds until the lane's batch should leave; None where nothing waits."""
        if not lane.items:
            return None
        if len(lane.items) >= lane.limits.max_batch:
            return 0.0
        return lane.items[0].queued_at + lane.limits.max_wait - now

    def _batch_of(self, lane: _Lane) -> Batch:
        items: list[_Item] = []
        while lane.items and len(items) < lane.limits.max_batch:
            item = lane.items.popleft()
            if item.future.set_running_or_notify_cancel():  # from here on it cannot be cancelled
                items.append(item)
        lane.in_flight += len(items)
        lane.last_batch = len(items)
        lane.largest_batch = max(lane.largest_batch, len(items))
        lane.batches += 1
        self._observer.queue_depth(lane.limits.name, len(lane.items))
        return Batch(lane.limits.name, tuple(items))

    def _leave(self, batch: Batch, *, failed: bool) -> None:
        with self._changed:
            lane = self._lanes[batch.lane]
            lane.in_flight -= len(batch.items)
            if failed:
                lane.failed += len(batch.items)
            else:
                lane.done += len(batch.items)
