"""One stream's connection through all its attempts: the state machine at work, and the only place that retries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from streamwatch.config import IngestSettings
from streamwatch.domain import (
    ClockSource,
    DropReason,
    FailureReason,
    Image,
    Instant,
    StreamInfo,
    StreamState,
    StreamStatus,
)
from streamwatch.errors import ConfigError, SourceError, SourceUnavailable, StreamEnded
from streamwatch.ingest.backoff import Backoff
from streamwatch.ingest.source import RatedSource, SourceMaker
from streamwatch.ingest.states import Event, after
from streamwatch.observer import Observer
from streamwatch.protocols import Sink

log = logging.getLogger(__name__)

# The outer watchdog gives the source this much longer than its own timeouts: it is for sources that hang.
_MARGIN = 2.0
# A source that waits for its peer burdens nobody: it goes back to waiting soon.
_BACK_TO_WAITING = 0.5
# How often the camera's clock is compared with ours.
_LOOK = 5.0
# The share of the read timeout after which a silence is told.
_QUIET_SHARE = 0.5
_ORDERED = Exception("ended by a command")
_IDLE = frozenset({StreamState.PAUSED, StreamState.ENDED, StreamState.FAILED})


class Supervisor:
    """Keeps one stream connected.

        supervisor = Supervisor("lobby", lambda: make_source(...), sink, ingest, on_status, observer)
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.run())     # returns when stopped
            ...
            supervisor.pause(); supervisor.resume(); supervisor.set_rate(5.0); supervisor.stop()

    `on_status` is called in the loop for each change, with every secret already removed; so is
    `observer.reconnecting(stream, reason)` for each lost attempt. The commands are synchronous, legal in every state
    and take effect within 2 s, also inside a connection that hangs. Cancelling `run` stops the source too.
    """

    def __init__(
        self,
        stream: str,
        make_source: SourceMaker,
        sink: Sink,
        settings: IngestSettings,
        on_status: Callable[[StreamStatus], None],
        observer: Observer,
    ) -> None:
        self._stream = stream
        self._make_source = make_source
        self._sink = sink
        self._settings = settings
        self._on_status = on_status
        self._observer = observer
        self._backoff = Backoff(settings)
        self._commands = asyncio.Event()
        self._paused = self._stopped = False
        self._source: RatedSource | None = None
        self._rate: float | None = None
        self._waits = False
        self.status = StreamStatus(stream, StreamState.CONNECTING, _now())

    def pause(self) -> None:
        self._paused = True
        self._commands.set()

    def resume(self) -> None:
        """Also starts an ended or failed stream again."""
        self._paused = False
        self._commands.set()

    def stop(self) -> None:
        self._stopped = True
        self._commands.set()

    def set_rate(self, fps: float) -> None:
        """Sampled pictures a second, for this connection and those after it."""
        self._rate = fps
        if self._source is not None:
            self._source.set_rate(fps)

    async def run(self) -> None:
        """Returns once stopped."""
        self._emit(self.status.state)
        while not self._stopped:
            self._commands.clear()
            if self.status.state in _IDLE or self._paused:
                await self._idle()
            else:
                await self._attempt()
        self._event(Event.STOP)

    async def _idle(self) -> None:
        """Waits for a command."""
        self._event(Event.PAUSE)
        await self._commands.wait()
        if not self._paused and not self._stopped:
            self._backoff.reset()
            self._event(Event.RESUME)

    async def _attempt(self) -> None:
        """One connection, and the wait after it."""
        watched = _Watched(self._sink, self._opened)
        task = asyncio.create_task(self._run_source(watched), name=f"source {self._stream}")
        error: BaseException | None
        try:
            error = await self._watch(task, watched)
        finally:
            watched.detach()
            await _cancelled(task)
            self._waits = self._source is not None and self._source.waits
            self._source = None
        if self._stopped or self._paused:
            return
        if error is _ORDERED:  # and taken back while the source was still ending
            self._event(Event.PAUSE)
            self._backoff.reset()
            self._event(Event.RESUME)
            return
        if watched.live_since is not None and time.monotonic() - watched.live_since >= self._settings.stable_after:
            self._backoff.reset()
        if error is None:
            self._event(Event.FINISHED, FailureReason.ENDED)
        elif isinstance(error, ConfigError):
            self._event(Event.REFUSED, FailureReason.NOT_ALLOWED, str(error))
        else:
            await self._lost(error)

    async def _run_source(self, sink: Sink) -> None:
        self._source = self._make_source()
        if self._rate is not None:
            self._source.set_rate(self._rate)
        await self._source.run(sink)

    async def _watch(self, task: asyncio.Task[None], watched: _Watched) -> BaseException | None:
        """Until the source ends, a command comes (_ORDERED) or nothing moves any more. What the source raised, or
        None."""
        command = asyncio.create_task(self._commands.wait())
        try:
            while True:
                self._report_skew()
                left, quiet = self._time_left(watched), time.monotonic() - watched.moved_at
                if left is not None and left <= 0:
                    return self._silent(watched, quiet)
                self._tell_silence(quiet)
                timeout = min(_LOOK, _QUIET_SHARE / 2 * self._settings.read_timeout, _LOOK if left is None else left)
                await asyncio.wait({task, command}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if task.cancelled():
                    return SourceUnavailable("the source was cancelled", FailureReason.CONNECTION_FAILED)
                if task.done():
                    return task.exception()
                if self._paused or self._stopped:
                    return _ORDERED
                self._commands.clear()
                if command.done():
                    command = asyncio.create_task(self._commands.wait())
        finally:
            await _cancelled(command)

    def _report_skew(self) -> None:
        skew = self._source.skew if self._source is not None else None
        if skew is not None:
            self._observer.clock_skew(self._stream, skew)

    def _time_left(self, watched: _Watched) -> float | None:
        """Seconds until the watchdog bites; None where it may not."""
        if watched.live_since is not None:
            limit = self._settings.read_timeout
        elif self._source is not None and self._source.waits:
            return None
        else:
            limit = self._settings.open_timeout
        return watched.moved_at + limit + _MARGIN - time.monotonic()

    def _tell_silence(self, quiet: float) -> None:
        """An operator sees that nothing comes before it is given up."""
        if quiet >= _QUIET_SHARE * self._settings.read_timeout:
            self._event(Event.STALLED, FailureReason.STALLED, "nothing arrives")
        elif self.status.state is StreamState.STALLED:
            self._event(Event.OPENED)

    def _silent(self, watched: _Watched, quiet: float) -> SourceError:
        if watched.live_since is None:
            return SourceUnavailable(f"no picture within {quiet:.0f} s", FailureReason.TIMEOUT)
        return StreamEnded(f"nothing arrived for {quiet:.0f} s", FailureReason.STALLED)

    async def _lost(self, error: BaseException) -> None:
        if not isinstance(error, SourceError):
            # A fault of ours in one source must not take the other streams down; it is logged in full.
            log.error("stream %s: unexpected error in its source", self._stream, exc_info=error)
        reason = error.reason if isinstance(error, SourceError) else FailureReason.CONNECTION_FAILED
        detail = str(error) if isinstance(error, SourceError) else f"unexpected {type(error).__name__}"
        if reason is FailureReason.STALLED:
            self._event(Event.STALLED, reason, detail)
        delay = self._backoff.next(reason)
        if self._waits:
            delay = min(delay, _BACK_TO_WAITING)
        self._observer.reconnecting(self._stream, reason)
        log.info("stream %s: %s; next attempt in %.1f s", self._stream, detail, delay)
        self._event(Event.LOST, reason, detail, retry_at=_now().shifted(delay))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wait_for_order()
        if not (self._stopped or self._paused):
            self._event(Event.RETRY, reason, detail)

    async def _wait_for_order(self) -> None:
        while not (self._stopped or self._paused):
            await self._commands.wait()
            self._commands.clear()

    def _opened(self) -> None:
        self._event(Event.OPENED)

    def _event(
        self, event: Event, reason: FailureReason | None = None, detail: str = "", retry_at: Instant | None = None
    ) -> None:  # fmt: skip
        state = after(self.status.state, event)
        if state is not None:
            self._emit(state, reason, detail, retry_at)

    def _emit(
        self, state: StreamState, reason: FailureReason | None = None, detail: str = "", retry_at: Instant | None = None
    ) -> None:  # fmt: skip
        attempt = self._backoff.attempt
        self.status = StreamStatus(self._stream, state, _now(), reason, detail, attempt, retry_at)
        self._on_status(self.status)


class _Watched:
    """The sink as the source sees it: notes that something moves, and says when the first picture came.

    After `detach` nothing reaches the sink any more, even from a thread that wakes up late.
    """

    def __init__(self, sink: Sink, on_live: Callable[[], None]) -> None:
        self._sink = sink
        self._on_live = on_live
        self._loop = asyncio.get_running_loop()
        self._attached = True
        self.moved_at = time.monotonic()
        self.live_since: float | None = None

    def detach(self) -> None:
        self._attached = False

    def connected(self, info: StreamInfo) -> None:
        if not self._attached:
            return
        first, self.live_since = self.live_since is None, self.live_since or time.monotonic()
        self._sink.connected(info)
        if first:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._live)

    def decoded(self, count: int = 1) -> None:
        self.moved_at = time.monotonic()
        if self._attached:
            self._sink.decoded(count)

    def offer(
        self,
        image: Image,
        captured_at: Instant,
        pts: float | None,
        clock: ClockSource,
        quantiser: float | None = None,
    ) -> None:
        self.moved_at = time.monotonic()
        if self._attached:
            self._sink.offer(image, captured_at, pts, clock, quantiser)

    def dropped(self, reason: DropReason, count: int = 1) -> None:
        if self._attached:
            self._sink.dropped(reason, count)

    def packet(self, packet: Any, template: Any) -> None:
        self.moved_at = time.monotonic()
        if self._attached:
            self._sink.packet(packet, template)

    def _live(self) -> None:
        if self._attached:
            self._on_live()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits for its end; its error was read already."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


def _now() -> Instant:
    return Instant(time.monotonic(), time.time())
