"""Clips cut from what a real camera sends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamwatch.camera import Camera
from streamwatch.domain import ClockSource, Frame, Image, Instant
from streamwatch.errors import StorageError
from streamwatch.ingest.recorder import Recorder
from streamwatch.ingest.source import SourceContext
from streamwatch.protocols import ClipInfo, ClipKind, ClipSource
from tests.fakes.ingest import Collector, source_for, until
from tests.fakes.patterns import clip


class Recording(Collector):
    """Passes on what a monitor would."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def packet(self, packet: Any, template: Any) -> None:
        super().packet(packet, template)
        self._recorder.packet("cam", packet, template)

    def offer(
        self,
        image: Image,
        captured_at: Instant,
        pts: float | None,
        clock: ClockSource,
        quantiser: float | None = None,
    ) -> None:
        super().offer(image, captured_at, pts, clock, quantiser)
        self._recorder.frame("cam", Frame("cam", self.offered, captured_at, pts, image, clock, quantiser))


@contextlib.asynccontextmanager
async def recorded(url: str, recorder: Recorder) -> AsyncIterator[Recording]:
    sink = Recording(recorder)
    task = asyncio.create_task(source_for(url, SourceContext()).run(sink))
    try:
        yield sink
    finally:
        task.cancel()
        await asyncio.wait([task])


async def cut(clips: ClipSource, stream: str, start: float, end: float, path: Path) -> ClipInfo | None:
    selected = clips.select(stream, start, end)
    return None if selected is None else await selected.write(path)


def decoded(path: Path) -> tuple[int, float]:
    """(pictures that decode without an error, seconds)"""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        return sum(1 for _ in container.decode(video=0)), float((container.duration or 0) / 1e6)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264-b", ".mp4"),
        ("libvpx", ".webm"),
        pytest.param("libx265", ".mp4", marks=pytest.mark.slow),
        pytest.param("libsvtav1", ".mp4", marks=pytest.mark.slow),
    ],
)
async def test_what_arrived_is_cut_without_encoding(codec: str, suffix: str, tmp_path: Path) -> None:
    recorder: Recorder = Recorder(seconds=10)
    clips: ClipSource = recorder
    async with Camera([clip(codec, gop=12)]) as camera, recorded(camera.url, recorder) as sink:
        await until(lambda: sink.packets >= 45, "two seconds")
        await asyncio.sleep(0.1)
    now = time.time()
    info = await cut(clips, "cam", now - 1.0, now, tmp_path / "clip.bin")
    assert info is not None
    assert (info.kind, info.path) == (ClipKind.REMUXED, tmp_path / f"clip{suffix}")
    assert info.start <= now - 1.0
    count, seconds = decoded(info.path)
    # What leads an open group's key picture refers to the group before: a decoder that begins here skips it.
    assert info.packets - 4 <= count <= info.packets
    assert seconds == pytest.approx(info.end - info.start, abs=0.3)
    assert [path.name for path in tmp_path.iterdir()] == [info.path.name], "no half-written file is left"


async def test_a_stream_without_packets_is_encoded_once(tmp_path: Path) -> None:
    recorder, rng, now = Recorder(), np.random.default_rng(1), time.time()
    for index in range(20):
        image = np.full((121, 161, 3), rng.integers(0, 255), np.uint8)
        recorder.frame("cam", Frame("cam", index, Instant(50 + index / 5, now - 4 + index / 5), None, image))
    info = await cut(recorder, "cam", now - 2, now, tmp_path / "clip.mp4")
    assert info is not None
    assert info.kind is ClipKind.ENCODED
    assert info.start <= now - 2
    assert decoded(info.path)[0] == info.packets >= 10


async def test_raw_pictures_are_encoded_once(tmp_path: Path) -> None:
    """A test pattern, like some webcams, sends pictures that no container holds."""
    recorder = Recorder()
    async with recorded("lavfi:testsrc2=size=320x240:rate=25", recorder) as sink:
        await until(lambda: sink.offered >= 8, "pictures")
    info = await cut(recorder, "cam", time.time() - 1.0, time.time(), tmp_path / "clip.mp4")
    assert info is not None
    assert info.kind is ClipKind.ENCODED
    assert decoded(info.path)[0] == info.packets > 0


async def test_a_cut_survives_the_connection_it_came_from(tmp_path: Path) -> None:
    """The ring keeps no reference into a closed container; two connections give two clips."""
    recorder = Recorder()
    async with Camera([clip(gop=12)]) as camera:
        for _ in range(2):
            async with recorded(camera.url, recorder) as sink:
                await until(lambda: sink.packets >= 20, "pictures")
    ended = time.time()
    info = await cut(recorder, "cam", ended - 0.3, ended, tmp_path / "clip.mp4")
    assert info is not None
    assert decoded(info.path)[0] > 0
    recorder.forget("cam")
    assert await cut(recorder, "cam", ended - 0.3, ended, tmp_path / "again.mp4") is None
    assert recorder.statistics().streams == 0


async def test_memory_is_bounded_and_losses_are_counted() -> None:
    recorder = Recorder(seconds=60, megabytes=0.05)
    async with Camera([clip(gop=12)]) as camera, recorded(camera.url, recorder) as sink:
        await until(lambda: sink.packets >= 40, "pictures")
    statistics = recorder.statistics()
    assert statistics.size <= 0.05 * (1 << 20)
    assert statistics.evicted > 0


async def test_a_clip_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    recorder = Recorder()
    async with Camera([clip(gop=12)]) as camera, recorded(camera.url, recorder) as sink:
        await until(lambda: sink.packets >= 20, "pictures")
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(StorageError, match="cannot be written"):
        await cut(recorder, "cam", 0, time.time(), blocked / "clip.mp4")
