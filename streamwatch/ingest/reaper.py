"""Owns the threads in which blocking libraries run: each is joined, or counted as hanging until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from streamwatch.domain import FailureReason
from streamwatch.errors import SourceUnavailable
from streamwatch.observer import NullObserver, Observer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReaperStatistics:
    running: int
    hanging: int
    reaped: int


class Reaper:
    """Runs blocking work in threads of its own; belongs to one event loop.

    A thread that does not end within `grace` seconds of its cancellation (inside a hanging open or a DNS look-up, which
    nothing can interrupt) stays in the reaper's hands and is joined when its own timeout ends it. There are at most
    `limit` of those, and `each` of one name, so that one peer cannot take all the places: beyond that new work is
    refused. `close` joins what is left, for a bounded time.
    """

    def __init__(
        self, limit: int = 64, grace: float = 1.0, observer: Observer | None = None, *, each: int = 2
    ) -> None:  # fmt: skip
        self._limit = limit
        self._each = each
        self._grace = grace
        self._observer = observer or NullObserver()
        self._running = 0
        self._reaped = 0
        self._hanging: dict[asyncio.Future[None], threading.Thread] = {}

    def statistics(self) -> ReaperStatistics:
        return ReaperStatistics(self._running, len(self._hanging), self._reaped)

    async def run(self, work: Callable[[threading.Event], None], name: str) -> None:
        """Runs `work(stop)`, raises what it raises. Cancelling sets `stop`. Raises SourceUnavailable at a limit."""
        alike, every = sum(thread.name == name for thread in self._hanging.values()), len(self._hanging)
        if alike >= self._each or every >= self._limit:
            which = f"{alike} earlier connections to it" if alike >= self._each else f"{every} earlier connections"
            raise SourceUnavailable(f"{which} still hang; not opening another", FailureReason.TIMEOUT)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        stop, errors = threading.Event(), list[BaseException]()

        def body() -> None:
            try:
                work(stop)
            except BaseException as error:  # raised again in the caller, below
                errors.append(error)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop closed while the thread hung: nobody waits
                    loop.call_soon_threadsafe(_finish, done)

        # A daemon, so that one that hangs in a look-up cannot keep the process alive after `close` gave up on it.
        thread = threading.Thread(target=body, name=name, daemon=True)
        self._running += 1
        thread.start()
        try:
            await asyncio.shield(done)
        finally:
            self._running -= 1
            stop.set()
            await self._end(done, thread)
        if errors:
            raise errors[0]

    async def close(self, timeout: float = 3.0) -> int:
        """Joins the hanging threads; returns how many did not end in time."""
        if self._hanging:
            await asyncio.wait(list(self._hanging), timeout=timeout)
        for thread in self._hanging.values():
            log.warning("%s still hangs in the library at the end", thread.name)
        return len(self._hanging)

    async def _end(self, done: asyncio.Future[None], thread: threading.Thread) -> None:
        self._hanging[done] = thread
        done.add_done_callback(self._reap)
        if not done.done():
            await asyncio.wait([done], timeout=self._grace)
            self._observer.queue_depth("hanging_threads", len(self._hanging))
        else:
            self._reap(done)

    def _reap(self, done: asyncio.Future[None]) -> None:
        thread = self._hanging.pop(done, None)
        if thread is not None:
            thread.join()  # its last statement told us so: this does not wait
            self._reaped += 1
            self._observer.queue_depth("hanging_threads", len(self._hanging))


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
