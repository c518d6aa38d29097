"""The PyAV source: opens what a plan says, in a thread of its own, and runs it to its end."""

from __future__ import annotations

import errno
import logging
import threading
import time

import av
from av.container import InputContainer

from streamwatch.ingest.clock import CaptureClock
from streamwatch.ingest.decode import DecodeRun, Limits
from streamwatch.ingest.failures import unavailable
from streamwatch.ingest.plans import OpenPlan, pinned, ways
from streamwatch.ingest.reaper import Reaper
from streamwatch.ingest.sampling import Sampler
from streamwatch.protocols import Sink

log = logging.getLogger(__name__)

# How long one read of a live source waits before the stop flag is looked at. Not shorter: FFmpeg flushes its parser at
# each look, which cuts a picture that is still arriving in two.
_POLL = 2.0


class AvSource:
    """A Source for everything that FFmpeg opens. `set_rate` may be called at any time, from any thread.

    `run` returns when a recording came to its end; raises StreamEnded when a live stream ended or stalled,
    SourceUnavailable when it cannot be opened, DecodeFailed when it gives no pictures.
    """

    waits = False

    def __init__(self, plan: OpenPlan, reaper: Reaper, fps: float, limits: Limits, decoder: str = "auto") -> None:
        self._plan = plan
        self._reaper = reaper
        self._limits = limits
        self._decoder = decoder
        self._sampler = Sampler(fps)
        self._clock = CaptureClock()

    @property
    def skew(self) -> float | None:
        return self._clock.skew

    def set_rate(self, fps: float) -> None:
        self._sampler.fps = fps

    def pin(self, address: str) -> None:
        """Connect to this address of the host, which was checked. Before `run`."""
        self._plan = pinned(self._plan, address)

    async def run(self, sink: Sink) -> None:
        await self._reaper.run(lambda stop: self._work(stop, sink), name=f"source {self._plan.display}")

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _work(self, stop: threading.Event, sink: Sink) -> None:
        base = 0.0
        while not stop.is_set():
            container, chosen = self._open()
            # No other thread ever closes a container: that would crash the interpreter inside a blocked read.
            with container:
                if stop.is_set():
                    return  # cancelled while the open hung: the sink is no longer ours
                run = DecodeRun(chosen, container, sink, stop, self._limits)
                run.prepare(self._sampler, self._clock, self._decoder, base)
                run.read()
            if not chosen.loop or run.duration == 0.0:
                return
            base += run.duration

    def _open(self) -> tuple[InputContainer, OpenPlan]:
        """Tries the transports in turn; only a refused transport leads to the next."""
        options = ways(self._plan)
        for chosen, following in zip(options, [*options[1:], None], strict=True):
            began = time.monotonic()
            try:
                return self._open_one(chosen), chosen
            except (av.error.FFmpegError, ValueError, OSError, RuntimeError) as error:
                if following is None or not _transport_refused(error):
                    late = time.monotonic() - began >= 0.9 * self._limits.open_timeout
                    raise unavailable(error, self._plan.display, timed_out=late) from error
                log.info("%s: no %s there, trying %s", chosen.display, chosen.transport, following.transport)
        raise AssertionError("a plan has at least one way")

    def _open_one(self, chosen: OpenPlan) -> InputContainer:
        read = min(_POLL, self._limits.read_timeout) if chosen.interruptible else self._limits.read_timeout
        timeout = (self._limits.open_timeout, read)
        return av.open(chosen.target, "r", format=chosen.format, options=chosen.options, timeout=timeout)


def _transport_refused(error: BaseException) -> bool:
    """461, which FFmpeg reports as EPROTONOSUPPORT or as a client error without a number of its own."""
    return getattr(error, "errno", None) == errno.EPROTONOSUPPORT or isinstance(error, av.error.HTTPOtherClientError)
