"""TLS, hardware decoders that are not there, and the list of what may be reached."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from streamwatch.camera import Camera, Credentials
from streamwatch.config import StreamSettings
from streamwatch.domain import DropReason, FailureReason, StreamState
from streamwatch.errors import SourceUnavailable, UrlNotAllowed
from streamwatch.ingest.allow import AllowList
from streamwatch.ingest.source import SourceContext, make_source
from tests.fakes.certificates import self_signed
from tests.fakes.ingest import Collector, Watch, ingest_settings, source_for, until
from tests.fakes.patterns import clip
from tests.fakes.publisher import WhepServer
from tests.fakes.web import WebServer


async def test_rtsps(tmp_path: Path) -> None:
    """Cameras sign their certificates themselves: the connection is encrypted, the certificate unchecked by default."""
    certificate, key = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with Camera([clip(gop=12)], tls=tls) as camera:
        assert camera.url.startswith("rtsps://")
        async with Watch(camera.url) as watch:
            await watch.live()


async def test_a_certificate_is_checked_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, key = self_signed(tmp_path)
    stranger, _ = self_signed(tmp_path / "other")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with Camera([clip(gop=12)], tls=tls) as camera:
        async with Watch(camera.url, tls_ca=certificate) as watch:
            await watch.live()
        for refused in ({"tls_ca": stranger}, {"tls_verify": True}):  # another's, none that the world knows
            async with Watch(camera.url, **refused) as watch:
                status = await watch.failed(FailureReason.TLS)
                assert "certificate" in status.detail
                assert watch.sink.offered == 0


async def test_a_whep_servers_certificate_is_checked(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with WhepServer(tls=tls) as server:
        assert server.url.startswith("whep+https://")
        async with Watch(server.url) as watch:
            await watch.failed(FailureReason.TLS)
        for accepted in ({"tls_ca": certificate}, {"tls_verify": False}):
            async with Watch(server.url, **accepted) as watch:
                await watch.live(1)


async def test_tls_where_there_is_none_is_named() -> None:
    quick = ingest_settings(open_timeout=1.0)
    async with Camera([clip(gop=12)]) as camera, Watch(camera.url.replace("rtsp:", "rtsps:"), quick) as watch:
        await watch.failed(FailureReason.TLS)


@pytest.mark.parametrize("decoder", ["cuda", "vaapi", "videotoolbox"])
async def test_a_decoder_that_is_not_there_is_replaced_with_one_line(
    decoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with Watch(f"file:{clip(seconds=1.0)}", realtime=False, decoder=decoder) as watch:
        await watch.state_is(StreamState.ENDED)
        assert watch.sink.offered >= 4
        used = watch.sink.infos[0].decoder
    lines = [record.getMessage() for record in caplog.records if decoder in record.getMessage()]
    assert (used, len(lines)) in [("cpu", 1), (decoder, 0)]


async def test_what_the_api_added_is_held_to_the_list_at_each_connection() -> None:
    context, settings = SourceContext(), ingest_settings()
    async with Camera([clip(gop=12)]) as camera:
        stream = StreamSettings.model_validate({"url": camera.url})
        elsewhere = AllowList(frozenset({"rtsp"}), ("10.0.0.0/8",))
        with pytest.raises(UrlNotAllowed, match=r"127\.0\.0\.1"):
            await make_source("cam", stream, settings, context, elsewhere).run(Collector())
        assert camera.connections == 0


async def test_a_name_server_that_is_away_for_a_while_refuses_nothing() -> None:
    """It is tried again, as a camera that does not answer is."""
    stream = StreamSettings.model_validate({"url": "rtsp://camera.no-such-host.invalid/x"})
    allowed = AllowList(frozenset({"rtsp"}), ("10.0.0.0/8",))
    with pytest.raises(SourceUnavailable, match="cannot be resolved") as caught:
        await make_source("cam", stream, ingest_settings(), SourceContext(), allowed).run(Collector())
    assert caught.value.reason is FailureReason.CONNECTION_FAILED


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
async def test_the_address_that_was_checked_is_the_one_that_is_reached(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is known to our look-up alone: FFmpeg gets there only where it is given the address."""
    known = socket.getaddrinfo

    def look_up(host: str, *rest: Any) -> Any:
        return known("127.0.0.1" if host == "camera.invalid" else host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    shutil.copy(clip(), tmp_path / "clip.mp4")
    allowed, sink = AllowList(frozenset({"rtsp", "http"}), ("127.0.0.0/8",)), Collector()
    camera = Camera([clip(gop=12)], credentials=Credentials("me", "secret", "digest"))
    async with camera, WebServer(tmp_path) as server:
        url = camera.url if scheme == "rtsp" else f"{server.url}/clip.mp4"
        stream = StreamSettings.model_validate({"url": url.replace("127.0.0.1", "camera.invalid")})
        source = make_source("cam", stream, ingest_settings(), SourceContext(), allowed)
        task = asyncio.create_task(source.run(sink))
        await until(lambda: sink.offered >= 1 or task.done(), "a picture")
        assert sink.offered, task.exception()
        task.cancel()
        await asyncio.wait([task], timeout=10)
        if scheme == "http":
            assert server.hosts == {f"camera.invalid:{urlsplit(server.url).port}"}


async def test_no_redirection_leads_past_the_list(tmp_path: Path) -> None:
    context, settings = SourceContext(), ingest_settings()
    shutil.copy(clip(), tmp_path / "clip.mp4")
    async with WebServer(tmp_path) as server:
        stream = StreamSettings.model_validate({"url": f"{server.url}/elsewhere", "realtime": False})
        followed = Collector()
        await make_source("cam", stream, settings, context).run(followed)
        assert followed.offered > 0, "the configuration file's sources may be redirected"
        server.requests.clear()
        here = AllowList(frozenset({"http"}), ("127.0.0.1",))
        with pytest.raises(SourceUnavailable):
            await make_source("cam", stream, settings, context, here).run(Collector())
        assert set(server.requests) == {"/elsewhere"}


class Slow(Collector):
    """Takes as long over each decoded picture as an overloaded machine would."""

    def decoded(self, count: int = 1) -> None:
        super().decoded(count)
        time.sleep(0.1)


@pytest.mark.slow
async def test_a_machine_that_is_too_slow_stays_near_the_present() -> None:
    """Twice as much comes as can be decoded: without shedding it would be seconds behind, and ever further."""
    sink = Slow()
    async with Camera([clip(gop=12, seconds=6.0)]) as camera:
        task = asyncio.create_task(source_for(camera.url, SourceContext()).run(sink))
        await until(lambda: sink.drops[DropReason.BUDGET] > 0, "load is shed")
        lost, offered, began = sink.drops[DropReason.BUDGET], sink.offered, time.monotonic()
        await asyncio.sleep(5.0)
        lost, offered, elapsed = sink.drops[DropReason.BUDGET] - lost, sink.offered - offered, time.monotonic() - began
        assert lost > 0
        assert lost + offered <= 5.0 * elapsed + 4, "only what would have been sampled is missed"
        offered = sink.offered
        await until(lambda: sink.offered > offered, "still watching")
        behind = max(picture.taken_at - picture.captured_at.mono for picture in sink.pictures[-3:])
        task.cancel()
        await asyncio.wait([task])
    assert behind < 3.0, "by the camera's own reports"


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
async def test_where_key_pictures_are_enough_no_others_are_decoded(codec: str) -> None:
    async with Camera([clip(codec)]) as camera, Watch(camera.url, ingest_settings(sample_fps=1.0)) as watch:
        await watch.live(6)  # by then it knows how long the groups of pictures are
        decoded, offered, began = watch.sink.decoded_count, watch.sink.offered, time.monotonic()
        await asyncio.sleep(5.0)
        elapsed = time.monotonic() - began
        assert watch.sink.decoded_count - decoded <= 2 * elapsed
        assert watch.sink.offered - offered == pytest.approx(elapsed, abs=1.5)


async def test_no_picture_is_offered_that_refers_to_what_was_skipped() -> None:
    """In an open group of pictures, those before its key picture in display order refer to the group before."""
    whole, sampled = Collector(keep=1000), Collector(keep=1000)
    for sink, fps in ((whole, 25.0), (sampled, 1.25)):
        source = source_for(
            f"file:{clip('libx264-open', seconds=12.0)}",
            SourceContext(),
            ingest_settings(sample_fps=fps),
            realtime=False,
        )
        await source.run(sink)
    assert sampled.decoded_count < 0.9 * whole.decoded_count, "something was skipped"
    assert sampled.offered == pytest.approx(15, abs=2)
    for picture in sampled.pictures:
        same = min(whole.pictures, key=lambda other: abs((other.pts or 0.0) - (picture.pts or 0.0)))
        assert np.array_equal(same.image, picture.image), f"the picture at {picture.pts} s"


@pytest.mark.parametrize("fps", [5.0, 40.0])
async def test_motion_jpeg_over_http_is_timed_by_its_arrivals(fps: float, tmp_path: Path) -> None:
    """FFmpeg stamps each picture 1/25 s after the last, whatever the camera does."""
    async with (
        WebServer(tmp_path) as server,
        Watch(f"{server.url}/mjpeg-{fps:g}", ingest_settings(sample_fps=2.0)) as watch,
    ):
        await watch.live(1)
        before, began = (watch.sink.offered, watch.sink.decoded_count), time.monotonic()
        await asyncio.sleep(5.0)
        elapsed = time.monotonic() - began
        assert watch.sink.offered - before[0] == pytest.approx(2.0 * elapsed, abs=2)
        assert watch.sink.decoded_count - before[1] == pytest.approx(fps * elapsed, rel=0.25)  # none piles up
        ages = [picture.taken_at - picture.captured_at.mono for picture in watch.sink.pictures[-5:]]
        assert max(ages) < 0.5
        assert watch.sink.infos[-1].fps == pytest.approx(fps, rel=0.25)


async def test_a_codec_that_nobody_knows_is_named(tmp_path: Path) -> None:
    """A real file whose video claims a codec that FFmpeg has no decoder for."""
    odd = tmp_path / "odd.webm"
    odd.write_bytes(clip("libvpx").read_bytes().replace(b"V_VP8", b"V_XQ8"))
    async with Watch(f"file:{odd}") as watch:
        status = await watch.failed(FailureReason.CODEC_UNSUPPORTED)
        assert status.detail == f"file:{odd}: no decoder for its video codec"
        assert watch.state is StreamState.RECONNECTING
