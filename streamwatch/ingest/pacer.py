"""Applies the shared budget: once a second, from what the streams show and what the machine manages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from streamwatch.ingest.rates import Capacity, Rates, Share

log = logging.getLogger(__name__)


class Pacer:
    """The shell around `rates`; belongs to the event loop.

        pacer = Pacer(apply, budget)            # apply(stream, share): set the monitor's rate and its degraded flag
        pacer.add("lobby", 2.0, 5.0)            # and remove("lobby")
        pacer.report("lobby", suspicious=True)  # at each verdict
        pacer.analysed(); pacer.lost()          # for each frame that was scored; that expired or was refused
        group.create_task(pacer.run())

    `budget` (analysed frames a second over all streams) None: learnt from the losses.
    """

    def __init__(self, apply: Callable[[str, Share], None], budget: float | None = None, period: float = 1.0) -> None:
        self._apply = apply
        self._rates = Rates(budget)
        self._capacity = Capacity() if budget is None else None
        self._period = period
        self._analysed = self._lost = 0

    def add(self, stream: str, base: float, burst: float) -> None:
        self._rates.add(stream, base, burst)

    def remove(self, stream: str) -> None:
        self._rates.remove(stream)

    def report(self, stream: str, suspicious: bool) -> None:
        self._rates.report(stream, suspicious)

    def analysed(self, count: int = 1) -> None:
        self._analysed += count

    def lost(self, count: int = 1) -> None:
        """Frames that the device had no time for. Those that merely gave way to a newer one count too."""
        self._lost += count

    @property
    def budget(self) -> float | None:
        """Frames a second that are shared out now; None: no limit."""
        return self._rates.budget

    async def run(self) -> None:
        """Until cancelled."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(self._period)
            now = time.monotonic()
            self._step(now - last)
            last = now

    def _step(self, elapsed: float) -> None:
        analysed, lost = self._analysed / elapsed, self._lost / elapsed
        self._analysed = self._lost = 0
        if self._capacity is not None:
            before = self._rates.budget
            self._rates.budget = self._capacity.update(self._rates.asked, analysed, lost)
            if before is None and self._rates.budget is not None:
                log.warning("the machine is overloaded: all streams share %.1f frames a second", self._rates.budget)
        for stream, given in self._rates.plan().items():
            self._apply(stream, given)
