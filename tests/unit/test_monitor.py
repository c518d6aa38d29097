"""A monitor between a source that is this test itself and an engine that remembers what it was asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamwatch.config import IngestSettings, ScoringSettings, StreamSettings
from streamwatch.domain import (
    AlertEvent,
    ClockSource,
    DropReason,
    Face,
    FaceScore,
    Frame,
    FrameScores,
    Instant,
    StreamInfo,
    StreamScore,
    StreamStatus,
)
from streamwatch.monitor import MonitorServices, MonitorSettings, StreamMonitor
from streamwatch.observer import NullObserver
from streamwatch.protocols import FindOptions, Sink
from tests.fakes.ingest import until


class Silent:
    """A source that is connected and gives nothing by itself."""

    waits = False
    skew = None

    async def run(self, sink: Sink) -> None:
        sink.connected(StreamInfo("h264", 8, 8, 25.0))
        await asyncio.Event().wait()

    def set_rate(self, fps: float) -> None: ...


class Asked:
    """An engine that finds no face."""

    def __init__(self) -> None:
        self.finds: list[tuple[Frame, FindOptions]] = []

    async def find(self, frame: Frame, options: FindOptions, deadline: float) -> tuple[Face, ...]:
        self.finds.append((frame, options))
        return ()

    async def score(self, frame: Frame, faces: Sequence[Face], deadline: float) -> tuple[FaceScore, ...]:
        raise AssertionError("there is no face to score")


class Nowhere:
    def score(self, score: StreamScore, scores: FrameScores | None) -> None: ...
    def status(self, status: StreamStatus, info: StreamInfo | None) -> None: ...
    def alert(self, event: AlertEvent) -> None: ...


class Losses:
    def __init__(self) -> None:
        self.count = 0

    def report(self, stream: str, suspicious: bool) -> None: ...
    def analysed(self, count: int = 1) -> None: ...

    def lost(self, count: int = 1) -> None:
        self.count += count


@asynccontextmanager
async def monitored(engine: Asked, pace: Losses | None = None, **stream: Any) -> AsyncIterator[StreamMonitor]:
    settings = MonitorSettings(
        StreamSettings.model_validate({"url": "rtsp://127.0.0.1/x", **stream}),
        IngestSettings(max_frame_age=2.0),
        ScoringSettings(),
        threshold=0.7,
        disagreement_p99=None,
        deadline=5.0,
        min_face=32.0,
        detect_fps=5.0,
    )
    services = MonitorServices(engine, Nowhere(), NullObserver(), pace=pace)
    monitor = StreamMonitor("lobby", settings, Silent, services)
    async with asyncio.TaskGroup() as group:
        group.create_task(monitor.run())
        await until(lambda: monitor.info is not None, "connected")
        yield monitor
        monitor.stop()


def offer(monitor: StreamMonitor, age: float = 0.0, quantiser: float | None = None) -> None:
    taken = Instant(time.monotonic(), time.time()).shifted(-age)
    monitor.offer(np.zeros((8, 8, 3), np.uint8), taken, None, ClockSource.ARRIVAL, quantiser)


async def test_what_became_too_old_is_not_analysed() -> None:
    engine = Asked()
    async with monitored(engine) as monitor:
        offer(monitor, age=3.0)
        await until(lambda: monitor.counters.dropped[DropReason.STALE] == 1, "a stale frame")
        offer(monitor)
        await until(lambda: bool(engine.finds), "a fresh frame")
        assert [frame.seq for frame, _ in engine.finds] == [2]


async def test_the_compression_is_that_of_the_codec_that_is_sent_now() -> None:
    engine = Asked()
    async with monitored(engine) as monitor:
        counters = monitor.counters
        for quantiser in (21.0, None, 30.0, 31.0):  # a key picture, one that does not tell, two others
            offer(monitor, quantiser=quantiser)
        assert counters.quantiser == 30.0
        await until(lambda: any(frame.quantiser == 31.0 for frame, _ in engine.finds), "the newest frame")
        assert monitor.info is not None
        monitor.connected(replace(monitor.info, fps=12.0))
        await until(lambda: monitor.info is not None and monitor.info.fps == 12.0, "another rate")
        assert counters.quantiser == 30.0
        monitor.connected(replace(monitor.info, codec="hevc"))
        await until(lambda: counters.quantiser is None, "another codec")


async def test_the_engine_is_told_which_faces_count() -> None:
    engine = Asked()
    roi, ignore = (0.1, 0.2, 0.8, 0.9), ((0.0, 0.0, 0.1, 0.1), (0.5, 0.5, 0.6, 0.6))
    async with monitored(engine, roi=roi, ignore=ignore, max_faces=3) as monitor:
        offer(monitor)
        await until(lambda: bool(engine.finds), "a frame")
        assert engine.finds[0][1] == FindOptions(3, 32.0, roi, ignore)


@pytest.mark.parametrize(("realtime", "told"), [(True, 5), (False, 0)])
async def test_the_pace_is_told_what_the_machine_had_no_time_for(realtime: bool, told: int) -> None:
    """Also what was never decoded for want of time; not what the camera or the network spoilt, nor what a recording
    that is read as fast as possible loses on any machine."""
    losses = Losses()
    async with monitored(Asked(), losses, realtime=realtime) as monitor:
        overload = (DropReason.BUDGET, DropReason.REPLACED, DropReason.EXPIRED, DropReason.QUEUE_FULL)
        for reason in (*overload, DropReason.STALE, DropReason.DECODE_ERROR, DropReason.FAILED):
            monitor.dropped(reason)
        monitor.dropped(DropReason.BUDGET)
        await asyncio.sleep(0)
        assert losses.count == told
