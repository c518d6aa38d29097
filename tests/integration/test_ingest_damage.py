"""Data that is damaged, late or missing: it costs what it must, holds no thread, and nothing is given up too early."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from av.stream import Discard

from streamwatch.camera import Camera
from streamwatch.domain import DropReason, FailureReason, StreamState
from tests.fakes.ingest import Watch, ingest_settings, source_threads, until
from tests.fakes.patterns import clip, sound_after_the_picture
from tests.fakes.web import WebServer

R = FailureReason


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert source_threads() == []


@pytest.mark.slow
@pytest.mark.parametrize("discarded", [True, False])
async def test_sound_without_a_picture_is_a_stall(discarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the demuxer keeps the sound to itself: no thread is held by it, also not by several attempts."""
    if not discarded:
        monkeypatch.setattr("streamwatch.ingest.decode.Discard", SimpleNamespace(all=Discard.default))
    talking = sound_after_the_picture()
    quick = ingest_settings(read_timeout=1.0)
    async with (
        WebServer(talking.parent) as server,
        Watch(f"{server.url}/paced-12/{talking.name}", quick) as watch,
    ):
        await watch.live()
        # The source itself says so; the supervisor, which gives up on sources that hang, would have waited longer.
        told = "nothing arrived for 1 s"
        await until(lambda: any(told in status.detail for status in watch.statuses), "the stall is noticed")
        await asyncio.sleep(3.0)
        assert watch.context.reaper.statistics().hanging == 0
        began = time.monotonic()
        watch.supervisor.stop()
        await watch.state_is(StreamState.STOPPED)
        assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_a_camera_with_sound(transport: str) -> None:
    """Most have a microphone: its packets hide neither a picture nor that none comes."""
    quick = ingest_settings(read_timeout=1.0)
    async with Camera([clip(gop=12)], sound=True) as camera, Watch(camera.url, quick, transport=transport) as watch:
        await watch.live(5)
        assert camera.heard == 1
        assert watch.sink.infos[-1].transport == transport
        assert watch.reasons() == []
        camera.stall()
        await watch.failed(R.STALLED)
        camera.resume()
        await watch.live()


async def test_packet_loss_on_udp() -> None:
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url, transport="udp") as watch:
        await watch.live()
        for camera.faults.loss in (0.05, 0.20):
            await watch.live(5)
            assert watch.state is StreamState.LIVE


async def test_damaged_data() -> None:
    """Garbage in packets, truncated units, and noise between the packets of the TCP stream."""
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url, transport="tcp") as watch:
        await watch.live()
        for fault in ("corrupt", "truncate", "junk"):
            setattr(camera.faults, fault, 0.1)
            await asyncio.sleep(0.5)
            setattr(camera.faults, fault, 0.0)
            await watch.live(3)


@pytest.mark.slow
async def test_packets_without_pictures_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamwatch.ingest.decode._PATIENCE", 0.7)
    async with Camera([clip(gop=1000)]) as camera:
        await asyncio.sleep(0.2)  # past the only key picture of the clip
        async with Watch(camera.url) as watch:
            status = await watch.failed(R.DECODE_ERRORS)
            assert "no picture" in status.detail
            monkeypatch.undo()
            await watch.live(1)


@pytest.mark.slow
async def test_a_group_of_pictures_without_its_key_picture_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """VP9's decoder complains of its pictures: where it is joined in the middle, and where a key picture is lost. All
    in a small part of the time that the groups of real cameras take."""
    monkeypatch.setattr("streamwatch.ingest.decode._PATIENCE_WITH_ERRORS", 0.1)
    losing = False
    async with Camera([clip("libvpx-vp9", seconds=1.0)]) as camera:
        pack = camera._packetizer.pack

        def lossy(unit: Any) -> list[bytes]:
            return pack(unit)[1 if losing and unit.key else 0 :]

        camera._packetizer.pack = lossy  # type: ignore[method-assign]
        async with Watch(camera.url) as first:
            await first.live()
            await asyncio.sleep(0.2)
            async with Watch(camera.url, ingest_settings(read_timeout=5.0)) as watch:
                await watch.live(6)
                losing = True
                await until(lambda: watch.sink.drops[DropReason.DECODE_ERROR] > 0, "the loss")
                losing = False
                await watch.live(8)
                assert watch.reasons() == []


@pytest.mark.slow
async def test_a_few_errors_are_no_other_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one picture a second is decoded, damage to three of them is a silence of some seconds, and passes."""
    monkeypatch.setattr("streamwatch.ingest.decode._PATIENCE_WITH_ERRORS", 0.5)
    chance, damaging = random.Random(1), False
    async with Camera([clip("libvpx", seconds=1.0)]) as camera:
        pack = camera._packetizer.pack

        def damaged(unit: Any) -> list[bytes]:
            packets = pack(unit)
            return [p[:16] + chance.randbytes(len(p) - 16) for p in packets] if damaging and unit.key else packets

        camera._packetizer.pack = damaged  # type: ignore[method-assign]
        async with Watch(camera.url, ingest_settings(sample_fps=1.0, read_timeout=8.0)) as watch:
            await watch.live(6)
            damaging = True
            await until(lambda: watch.sink.drops[DropReason.DECODE_ERROR] == 3, "damage")
            damaging = False
            await watch.live()
            assert watch.reasons() == []


async def test_what_is_too_old_is_dropped_and_counted() -> None:
    async with Camera([clip(gop=12)]) as camera:
        camera.clock_offset = -1.5
        async with Watch(camera.url, ingest_settings(max_frame_age=1.0)) as watch:
            await until(lambda: watch.sink.drops[DropReason.STALE] >= 5, "old pictures")
            offered = watch.sink.offered
            await asyncio.sleep(1.0)
            assert watch.sink.offered == offered
