"""Cameras that change what they send in mid-stream: followed without a new connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from streamwatch.camera import Camera
from streamwatch.domain import DropReason
from streamwatch.domain import FailureReason as R
from streamwatch.ingest.source import SourceContext
from tests.fakes.ingest import Collector, Watch, ingest_settings, source_for, source_threads, until
from tests.fakes.patterns import clip, later, playlist, turned, without_timestamps
from tests.fakes.web import WebServer


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert source_threads() == []


async def test_a_change_of_resolution_in_mid_stream() -> None:
    clips = [clip(gop=12, seconds=1.0), clip(gop=12, seconds=1.0, size=(480, 360))]
    async with Camera(clips) as camera, Watch(camera.url) as watch:
        await until(lambda: {info.width for info in watch.sink.infos} == {320, 480}, "both sizes")
        await until(lambda: {p.image.shape[1] for p in watch.sink.pictures} == {320, 480}, "pictures of both sizes")
        assert watch.reasons() == []


@pytest.mark.slow
async def test_a_camera_that_turns_its_picture_in_mid_stream() -> None:
    """Cameras tell it in the stream itself (H.264's display orientation); the pictures stay upright."""
    clips = [clip(gop=12, seconds=1.0), turned(clip(gop=12, seconds=1.0))]
    async with Camera(clips) as camera, Watch(camera.url) as watch:
        shapes = {(240, 320, 3), (320, 240, 3)}
        await until(lambda: {p.image.shape for p in watch.sink.pictures} == shapes, "pictures both ways up")
        assert {info.rotation % 180 for info in watch.sink.infos} == {0, 90}
        assert watch.reasons() == []


@pytest.mark.slow
async def test_a_change_of_frame_rate_in_mid_stream() -> None:
    """The target rate is kept in time, not in frames, from 25 to 10 a second and back; a change costs at most the
    samples of the group of pictures in which it comes."""
    clips = [clip(gop=12, seconds=4.0), clip(gop=10, fps=10, seconds=4.0)]
    async with Camera(clips) as camera, Watch(camera.url) as watch:
        await until(lambda: {25.0, 10.0} <= {info.fps for info in watch.sink.infos}, "both rates are told", 30)
        await watch.live(20)
        pts = [picture.pts for picture in watch.sink.pictures if picture.pts is not None]
        gaps = [b - a for a, b in pairwise(pts)]
        assert max(gaps) <= 0.9, gaps
        assert sum(gap > 0.4 for gap in gaps) <= 1 + len(gaps) // 20, gaps
        assert sum(gaps) / len(gaps) <= 0.24, gaps
        assert watch.reasons() == []


@pytest.mark.slow
async def test_a_change_of_codec_in_mid_stream(tmp_path: Path) -> None:
    """A multiplex goes from H.264 to H.265 and back, on one connection; where it stays, the stream is
    opened anew."""
    parts = [clip(container="ts"), clip("libx265", container="ts", seconds=10.0)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    async with WebServer(tmp_path) as server, Watch(f"{server.url}/paced-13/both.ts") as watch:
        await until(lambda: {info.codec for info in watch.sink.infos} == {"h264", "hevc"}, "both codecs", 30)
        assert R.DECODE_ERRORS in watch.reasons()
        await watch.live()


@pytest.mark.slow
async def test_a_change_of_codec_where_the_camera_ends_the_connection() -> None:
    """Of H.264 it is known how hard it was compressed, of H.265 not."""
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url) as watch:
        await watch.live()
        told = [picture.quantiser for picture in watch.sink.pictures]
        assert all(quantiser is not None and 10 < quantiser < 40 for quantiser in told), told
        camera.switch([clip("libx265", gop=12)])
        await until(lambda: watch.sink.infos[-1].codec == "hevc", "H.265")
        await watch.live()
        assert watch.sink.pictures[-1].quantiser is None


async def test_what_a_server_sends_at_once_on_connecting_is_not_taken_for_live() -> None:
    """Two seconds of the past arrive within milliseconds, without sender reports that would tell: none of them is
    analysed, and what follows is as fresh as it looks."""
    async with Camera([clip(gop=12, seconds=6.0)]) as camera:
        camera.reports, camera.burst = False, 2.0
        often = ingest_settings(sample_fps=10.0)
        async with Watch(camera.url, often) as first:
            await first.live()  # the camera has a past only once it is watched
            await asyncio.sleep(2.5)
            async with Watch(camera.url, often) as second:
                await second.live(5)
                # Both see the same pictures; the newcomer must not think any of them newer than it is.
                known = {p.image.tobytes(): p.captured_at.mono for p in first.sink.pictures}
                seen = [(p.captured_at.mono, known.get(p.image.tobytes())) for p in second.sink.pictures]
                apart = [abs(mine - its) for mine, its in seen if its is not None]
                assert apart, "the two saw no picture in common"
                assert max(apart) < 0.3, apart
                assert second.sink.drops[DropReason.STALE] >= 5


@pytest.mark.slow
async def test_a_live_playlist_whose_time_begins_anew_is_neither_rushed_nor_held_up() -> None:
    """The recording behind it is repeated every six seconds, with a discontinuity: its timestamps fall by six."""
    async with WebServer(playlist().parent) as server, Watch(server.url + "/live.m3u8") as watch:
        await watch.live()
        began, before = time.monotonic(), watch.sink.offered
        taken = []
        while time.monotonic() - began < 14.0:
            await asyncio.sleep(0.1)
            taken.append(watch.sink.pictures[-1].taken_at)
        elapsed = time.monotonic() - began
        assert watch.sink.offered - before == pytest.approx(5.0 * elapsed, rel=0.3)
        assert max(b - a for a, b in pairwise(taken)) < 2.5


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libx264", "libx264-b"])
async def test_recordings_that_were_joined_are_played_at_their_own_speed(codec: str, tmp_path: Path) -> None:
    """Each has timestamps of its own: they fall by two seconds at the first seam, and leap a minute at the second."""
    part = clip(codec, seconds=2.0)
    parts = [later(part, 0.0), later(part, 0.0), later(part, 60.0)]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    sink, began = Collector(), time.monotonic()
    async with asyncio.timeout(15):
        await source_for(f"file:{tmp_path}/joined.ts", SourceContext()).run(sink)
    assert time.monotonic() - began == pytest.approx(6.0, abs=0.8)
    assert sink.offered == pytest.approx(30, abs=3)
    assert all(0.0 <= picture.taken_at - picture.captured_at.mono < 1.0 for picture in sink.pictures)


async def test_a_recording_without_timestamps_is_played_in_a_loop() -> None:
    bare, sink = without_timestamps(), Collector()
    task = asyncio.create_task(source_for(f"file:{bare}", SourceContext(), loop=True, realtime=False).run(sink))
    await until(lambda: sink.offered >= 40 or task.done(), "two rounds and a half")
    task.cancel()
    await asyncio.wait([task])
    pts = [picture.pts for picture in sink.pictures if picture.pts is not None]
    assert all(0.1 < b - a < 0.3 for a, b in pairwise(pts)), pts
