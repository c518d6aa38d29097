"""A sink that remembers, and short-hands for running sources and supervisors against real servers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamwatch.config import IngestSettings, StreamSettings
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
from streamwatch.ingest.source import RatedSource, SourceContext, make_source
from streamwatch.ingest.supervisor import Supervisor
from streamwatch.observer import NullObserver


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    image: Image
    captured_at: Instant
    pts: float | None
    clock: ClockSource
    taken_at: float
    """monotonic"""
    quantiser: float | None = None


class Collector:
    """A protocols.Sink; keeps the last pictures only, so that long tests stay small."""

    def __init__(self, keep: int = 64) -> None:
        self.pictures: list[Picture] = []
        self.infos: list[StreamInfo] = []
        self.drops: Counter[DropReason] = Counter()
        self.decoded_count = 0
        self.offered = 0
        self.packets = 0
        self._keep = keep

    def connected(self, info: StreamInfo) -> None:
        self.infos.append(info)

    def decoded(self, count: int = 1) -> None:
        self.decoded_count += count

    def offer(
        self,
        image: Image,
        captured_at: Instant,
        pts: float | None,
        clock: ClockSource,
        quantiser: float | None = None,
    ) -> None:
        self.offered += 1
        picture = Picture(image, captured_at, pts, clock, time.monotonic(), quantiser)
        self.pictures = [*self.pictures[-self._keep + 1 :], picture]

    def dropped(self, reason: DropReason, count: int = 1) -> None:
        self.drops[reason] += count

    def packet(self, packet: Any, template: Any) -> None:
        self.packets += 1


def ingest_settings(**changes: Any) -> IngestSettings:
    """Short times, so that a fault shows soon; still generous for a busy machine."""
    quick = {"open_timeout": 5.0, "read_timeout": 2.0, "backoff_initial": 0.1, "backoff_cap": 0.4, "stable_after": 1.0}
    return IngestSettings(**{**quick, "sample_fps": 5.0, **changes})


def source_for(url: str, context: SourceContext, ingest: IngestSettings | None = None, **stream: Any) -> RatedSource:
    return make_source("cam", StreamSettings(url=url, **stream), ingest or ingest_settings(), context)


async def until(condition: Callable[[], bool], what: str | Callable[[], str], seconds: float = 20.0) -> None:
    """Waits until the condition holds; fails, naming what did not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(0.02)


def source_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("source ")]


class Watch:
    """A supervised stream: `async with Watch(url) as watch: await watch.live()`."""

    def __init__(self, url: str, ingest: IngestSettings | None = None, **stream: Any) -> None:
        self.sink = Collector()
        self.statuses: list[StreamStatus] = []
        self.context = SourceContext()
        settings = ingest or ingest_settings()

        def make() -> RatedSource:
            return source_for(url, self.context, settings, **stream)

        self.supervisor = Supervisor("cam", make, self.sink, settings, self.statuses.append, NullObserver())

    async def __aenter__(self) -> Watch:
        self.task = asyncio.create_task(self.supervisor.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.supervisor.stop()
        async with asyncio.timeout(10):
            await self.task
        assert await self.context.reaper.close(10.0) == 0

    @property
    def state(self) -> StreamState:
        return self.supervisor.status.state

    def reasons(self) -> list[FailureReason]:
        return [status.reason for status in self.statuses if status.reason is not None]

    async def live(self, pictures: int = 2) -> None:
        """Until it is live (again) and that many more pictures have come."""
        await until(lambda: self.state is StreamState.LIVE, lambda: f"live (is {self.supervisor.status})")
        target = self.sink.offered + pictures
        await until(lambda: self.sink.offered >= target, f"{pictures} pictures")

    async def failed(self, reason: FailureReason) -> StreamStatus:
        """Until a status with this reason has come."""
        await until(lambda: reason in self.reasons(), lambda: f"{reason} (have {self.statuses[-3:]})")
        return next(status for status in reversed(self.statuses) if status.reason is reason)

    async def state_is(self, state: StreamState) -> None:
        await until(lambda: self.state is state, lambda: f"{state} (is {self.supervisor.status})")
