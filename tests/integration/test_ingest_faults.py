"""What cameras and networks do to a stream, done to it by a real camera: it must always come back by itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from streamwatch.camera import Camera, Credentials
from streamwatch.domain import ClockSource, DropReason, FailureReason, Image, StreamState
from streamwatch.ingest.source import SourceContext
from tests.fakes.ingest import Collector, Watch, ingest_settings, source_for, source_threads, until
from tests.fakes.patterns import clip, playlist, sound, without_timestamps
from tests.fakes.web import WebServer

R = FailureReason


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert source_threads() == []


async def test_a_camera_that_is_killed_and_started_again() -> None:
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url) as watch:
        await watch.live()
        await camera.stop()
        await watch.failed(R.CONNECTION_FAILED)
        back = time.monotonic()
        await camera.start()
        await watch.live(1)
        assert watch.sink.pictures[-1].captured_at.mono > back, "no old picture is shown as live"


async def test_a_first_connection_that_fails_is_tried_again() -> None:
    camera = Camera([clip(gop=12)], port=_free_port())
    async with Watch(camera.url) as watch:
        await watch.failed(R.CONNECTION_FAILED)
        assert watch.state is StreamState.RECONNECTING
        async with camera:
            await watch.live()


async def test_connected_then_silent() -> None:
    async with Camera([clip(gop=12)]) as camera:
        camera.silent = True
        async with Watch(camera.url, ingest_settings(open_timeout=1.0)) as watch:
            status = await watch.failed(R.TIMEOUT)
            assert "in time" in status.detail
            camera.silent = False
            await watch.live()


@pytest.mark.parametrize("transport", ["tcp", pytest.param("udp", marks=pytest.mark.slow)])
async def test_a_stall_in_the_middle_of_a_picture(transport: str) -> None:
    quick = ingest_settings(read_timeout=1.0)
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url, quick, transport=transport) as watch:
        await watch.live()
        camera.stall(in_frame=True)
        await watch.failed(R.STALLED)
        assert StreamState.STALLED in [status.state for status in watch.statuses]
        camera.resume()
        await watch.live()


async def test_a_short_stall_costs_nothing() -> None:
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url, ingest_settings(read_timeout=6.0)) as watch:
        await watch.live()
        camera.stall(in_frame=True)
        await asyncio.sleep(1.2)  # longer than one read waits
        camera.resume()
        await watch.live(4)
        assert watch.reasons() == []
        assert watch.sink.drops[DropReason.DECODE_ERROR] == 0


async def test_a_changed_password_and_no_hammering() -> None:
    who = Credentials("admin", "first-secret")
    async with Camera([clip(gop=12)], credentials=who) as camera:
        async with Watch(camera.url, ingest_settings(backoff_auth=1.0)) as watch:
            await watch.live()
            camera.credentials = Credentials("admin", "other")
            camera.drop()
            status = await watch.failed(R.AUTH_FAILED)
            assert "401" in status.detail
            assert status.retry_at is not None
            assert status.retry_at.mono - status.at.mono == pytest.approx(1.0, abs=0.1)
            attempts = camera.connections
            await asyncio.sleep(0.5)
            assert camera.connections == attempts, "a camera must not lock the account"
            camera.credentials = who
            await watch.live()
        assert not [status for status in watch.statuses if "secret" in status.detail]


async def test_a_path_that_vanishes_and_comes_back() -> None:
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url) as watch:
        await watch.live()
        camera.path, path = "/elsewhere", camera.path
        camera.drop()
        await watch.failed(R.NOT_FOUND)
        camera.path = path
        await watch.live()


async def test_a_clock_that_jumps_back() -> None:
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url) as watch:
        await watch.live()
        camera.jump(-30.0)
        await watch.live(6)
        ages = [picture.taken_at - picture.captured_at.mono for picture in watch.sink.pictures]
        assert max(ages) < 2.0
        assert watch.reasons() == []


@pytest.mark.slow
async def test_a_camera_whose_wall_clock_is_wrong_is_not_believed() -> None:
    async with Camera([clip(gop=12)]) as camera:
        camera.clock_offset = -3600.0
        async with Watch(camera.url) as watch:
            await watch.live(8)
            assert {picture.clock for picture in watch.sink.pictures} == {ClockSource.ARRIVAL}
            assert watch.sink.drops[DropReason.STALE] == 0


async def test_capture_time_by_sender_reports() -> None:
    async with Camera([clip(gop=12)]) as camera:
        camera.clock_offset = -0.5
        async with Watch(camera.url) as watch:
            await until(lambda: any(p.clock is ClockSource.RTCP for p in watch.sink.pictures), "a reported time")
            picture = watch.sink.pictures[-1]
            assert 0.45 <= picture.taken_at - picture.captured_at.mono < 1.5


@pytest.mark.slow
async def test_packets_without_timestamps() -> None:
    """In a file they are a picture apart, and over the network they are as old as their arrival."""
    bare = without_timestamps()
    async with Watch(f"file:{bare}") as watch:
        await watch.state_is(StreamState.ENDED)
        assert watch.sink.offered >= 5
    async with WebServer(bare.parent) as server, Watch(f"{server.url}/paced-3/{bare.name}") as watch:
        await watch.live()
        began, count = time.monotonic(), watch.sink.offered
        await asyncio.sleep(5.0)
        assert watch.sink.offered - count == pytest.approx(5.0 * (time.monotonic() - began), rel=0.3)
        assert all(0.0 <= p.taken_at - p.captured_at.mono < 1.0 for p in watch.sink.pictures)
        assert watch.reasons() == []


@pytest.mark.parametrize(("fps", "least", "most"), [pytest.param(1, 0.9, 1.1, marks=pytest.mark.slow), (120, 0.1, 0.4)])
async def test_slow_and_fast_cameras(fps: int, least: float, most: float) -> None:
    async with Camera([clip(fps=fps, seconds=3.0 if fps == 1 else 1.0)]) as camera, Watch(camera.url) as watch:
        await watch.live(3)
        pts = [picture.pts for picture in watch.sink.pictures if picture.pts is not None]
        assert all(least <= b - a <= most for a, b in pairwise(pts)), pts


@pytest.mark.slow
async def test_a_huge_frame_is_scaled_down_as_it_is_converted() -> None:
    huge = clip(size=(640, 480), fps=5, seconds=1.0, gop=5)
    whole: Image | None = None
    for side, shape in ((3840, (480, 640, 3)), (640, (480, 640, 3)), (333, (250, 333, 3)), (320, (240, 320, 3))):
        sink = Collector()
        await source_for(f"file:{huge}", SourceContext(), ingest_settings(max_side=side), realtime=False).run(sink)
        image = sink.pictures[-1].image
        assert image.shape == shape
        assert (sink.infos[0].width, sink.infos[0].height) == (640, 480)  # what the source sends
        whole = image if whole is None else whole
        expected = cv2.resize(whole, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        assert np.abs(expected.astype(int) - image).mean() < 4.0  # the same picture, whatever its size
    async with (
        Camera([clip(size=(3840, 2160), fps=5, seconds=1.0, gop=5)]) as camera,
        Watch(camera.url, ingest_settings(max_side=1920)) as watch,
    ):
        await watch.live()
        assert watch.sink.pictures[-1].image.shape == (1080, 1920, 3)


async def test_a_4k_stream() -> None:
    huge = clip(size=(3840, 2160), fps=5, seconds=1.0, gop=5)
    async with Camera([huge]) as camera, Watch(camera.url, ingest_settings(sample_fps=2.0)) as watch:
        await watch.live(2)
        assert watch.sink.pictures[-1].image.shape == (2160, 3840, 3)


@pytest.mark.slow
async def test_a_playlist_that_stops_growing() -> None:
    async with WebServer(playlist().parent) as server, Watch(f"{server.url}/live.m3u8") as watch:
        await watch.live()
        server.freeze()
        await until(lambda: {R.STALLED, R.ENDED} & set(watch.reasons()) != set(), "the stall is noticed")
        await asyncio.sleep(2.0)
        count = watch.sink.offered
        server.thaw()
        await until(lambda: watch.sink.offered >= count + 10, "it grows again", 30)
        await watch.live()


async def test_udp_where_tcp_is_refused() -> None:
    async with Camera([clip(gop=12)]) as camera:
        camera.transports = {"udp"}
        async with Watch(camera.url) as watch:
            await watch.live()
            assert watch.sink.infos[0].transport == "udp"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/401", R.AUTH_FAILED), ("/403", R.AUTH_FAILED), ("/404", R.NOT_FOUND), ("/500", R.CONNECTION_FAILED)],
)
async def test_refusals_by_http_are_named(path: str, reason: FailureReason) -> None:
    async with WebServer(Path("/nonexistent")) as server:
        url = server.url.replace("//", "//me:pass-word@") + path
        async with Watch(url) as watch:
            status = await watch.failed(reason)
            assert "pass-word" not in status.detail


async def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(random.Random(1).randbytes(4096))
    cases = {
        f"file:{sound()}": (R.NO_VIDEO, "only audio"),
        f"file:{noise}": (R.CONNECTION_FAILED, "not a video"),
        f"file:{tmp_path}/none.mp4": (R.NOT_FOUND, "no such file"),
        "webcam:/dev/video97": (R.DEVICE_MISSING, "no such device"),
        f"rtsp://127.0.0.1:{_free_port()}/x": (R.CONNECTION_FAILED, "refused"),
        "rtsp://me:pw-of-mine@no-such-host.invalid/x": (R.CONNECTION_FAILED, "resolved"),
    }
    for url, (reason, words) in cases.items():
        async with Watch(url) as watch:
            status = await watch.failed(reason)
            assert words in status.detail
            assert "pw-of-mine" not in status.detail


async def test_an_unknown_scheme_fails_for_good() -> None:
    async with Watch("gopher://host/x") as watch:
        await watch.state_is(StreamState.FAILED)
        assert watch.supervisor.status.reason is R.NOT_ALLOWED


async def test_commands_in_every_state() -> None:
    """STOPPED within 2 s, wherever the stream stands; a pause is kept, a resume goes on."""
    async with Camera([clip(gop=12)]) as camera:
        for state in ("connecting", "live", "stalled", "reconnecting", "paused", "ended", "failed"):
            camera.silent = state == "connecting"
            url = {
                "reconnecting": f"rtsp://127.0.0.1:{_free_port()}/x",
                "ended": f"file:{clip(seconds=1.0)}",
                "failed": "gopher://host/x",
            }
            async with Watch(url.get(state, camera.url)) as watch:
                if state == "paused":
                    watch.supervisor.pause()
                if state == "stalled":
                    await watch.live()
                    camera.stall()
                await watch.state_is(StreamState(state))
                began = time.monotonic()
                watch.supervisor.stop()
                await watch.state_is(StreamState.STOPPED)
                assert time.monotonic() - began < 2.0, state
                if state == "stalled":
                    camera.resume()


@pytest.mark.slow
async def test_a_pause_closes_the_connection_and_a_resume_opens_it() -> None:
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url) as watch:
        await watch.live()
        watch.supervisor.pause()
        await watch.state_is(StreamState.PAUSED)
        await until(lambda: not camera._sessions, "the connection is closed")
        offered = watch.sink.offered
        await asyncio.sleep(0.4)
        assert watch.sink.offered == offered
        watch.supervisor.resume()
        await watch.live()


@pytest.mark.slow
async def test_the_rate_can_be_changed_at_run_time() -> None:
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url, ingest_settings(sample_fps=2.0)) as watch:
        await watch.live(3)
        watch.supervisor.set_rate(12.5)
        await watch.live(10)
        pts = [picture.pts for picture in watch.sink.pictures[-5:] if picture.pts is not None]
        assert all(b - a <= 0.2 for a, b in pairwise(pts)), pts


async def test_no_secret_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    who = Credentials("user-name", "top secret/@:pass")
    async with Camera([clip(gop=12)], credentials=who) as camera, Watch(camera.url) as watch:
        await watch.live(1)
        camera.drop()
        await watch.failed(R.ENDED)
        camera.credentials = Credentials("user-name", "changed")
        await watch.failed(R.AUTH_FAILED)
    told = caplog.text + "".join(status.detail for status in watch.statuses)
    for secret in ("top secret", "top%20secret", "user-name"):
        assert secret not in told


@pytest.mark.slow
async def test_connecting_and_stopping_leaks_nothing() -> None:
    await _cycles(6)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_hundred_connections_leak_nothing() -> None:
    await _cycles(200)


@pytest.mark.slow
async def test_dead_cameras_do_not_touch_the_living() -> None:
    await _half_dead(8)


@pytest.mark.slow
async def test_fifty_streams_of_which_half_are_dead() -> None:
    await _half_dead(50)


async def _half_dead(count: int) -> None:
    """Half are served; the others are refused, silent, unknown or forbidden in turn."""
    silent = Camera([clip(gop=12)])
    async with Camera([clip(gop=12)]) as camera, silent:
        silent.silent = True
        refused = f"rtsp://127.0.0.1:{_free_port()}/x"
        dead = [refused, silent.url, camera.url + "-not-here", f"file:{sound()}"]
        watches = [
            Watch(camera.url if i % 2 else dead[i // 2 % 4], ingest_settings(sample_fps=2.0)) for i in range(count)
        ]
        for watch in watches:
            await watch.__aenter__()
        try:
            await asyncio.gather(*(watch.live(3) for watch in watches[1::2]))
            assert not any(watch.state is StreamState.LIVE for watch in watches[0::2])
            for watch in watches[1::2]:
                assert watch.reasons() == []
        finally:
            await asyncio.gather(*(watch.__aexit__() for watch in watches))


async def _cycles(count: int) -> None:
    """Connects, takes a picture, stops. Threads and descriptors stay; memory settles after the first rounds."""
    process = psutil.Process()
    settled = (0, 0, 0)
    async with Camera([clip(gop=5)]) as camera:
        for cycle in range(count):
            async with Watch(camera.url) as watch:
                await watch.live(1)
            if cycle == count // 3:
                gc.collect()
                settled = (process.num_threads(), process.num_fds(), process.memory_info().rss)
        gc.collect()
        threads, descriptors, memory = settled
        assert process.num_threads() <= threads + 2
        assert process.num_fds() <= descriptors + 3
        assert process.memory_info().rss - memory < 16 << 20


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
