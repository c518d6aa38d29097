"""One suite for every Source: what run() promises, whatever it reads."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamwatch.camera import Camera, Credentials
from streamwatch.errors import SourceError, StreamEnded
from streamwatch.ingest.source import SourceContext
from streamwatch.ingest.webrtc import WebRtcGateway
from streamwatch.protocols import Source
from tests.fakes.certificates import self_signed
from tests.fakes.ingest import Collector, ingest_settings, source_for, source_threads, until
from tests.fakes.patterns import clip, playlist
from tests.fakes.publisher import Publisher, WhepServer
from tests.fakes.rtmp import RtmpServer
from tests.fakes.web import WebServer

Opened = AbstractAsyncContextManager[str]
CONTEXT: ContextVar[SourceContext] = ContextVar("what the sources of one test share")


@asynccontextmanager
async def _camera(codec: str = "libx264", credentials: Credentials | None = None) -> AsyncIterator[str]:
    async with Camera([clip(codec, gop=12)], credentials=credentials) as camera:
        yield camera.url


@asynccontextmanager
async def _web(path: str) -> AsyncIterator[str]:
    directory = playlist().parent
    shutil.copy(clip(), directory / "clip.mp4")
    async with WebServer(directory) as server:
        yield server.url + path


@asynccontextmanager
async def _file(codec: str) -> AsyncIterator[str]:
    yield f"file:{clip(codec)}"


@asynccontextmanager
async def _web_file(codec: str) -> AsyncIterator[str]:
    path = clip(codec)
    async with WebServer(path.parent) as server:
        yield f"{server.url}/{path.name}"


@asynccontextmanager
async def _rtmp() -> AsyncIterator[str]:
    async with RtmpServer(clip(gop=12, seconds=6.0)) as server:
        yield server.url


@asynccontextmanager
async def _rtsps() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*self_signed(Path(directory)))
    async with Camera([clip(gop=12)], tls=tls) as camera:
        yield camera.url


@asynccontextmanager
async def _whip(codec: str) -> AsyncIterator[str]:
    gateway = CONTEXT.get().gateway
    assert gateway is not None

    async def publish() -> None:
        await until(lambda: "cam" in gateway._expected, "the stream waits for a publisher")
        await publisher.answered((await gateway.publish("cam", publisher.offer))[1])

    async with Publisher(codec) as publisher:
        publishing = asyncio.create_task(publish())
        try:
            yield "whip:"
        finally:
            await publishing
            await gateway.close_all()


@asynccontextmanager
async def _whep() -> AsyncIterator[str]:
    async with WhepServer() as server:
        yield server.url


@asynccontextmanager
async def _plain(url: str) -> AsyncIterator[str]:
    yield url


# name -> (its address while its server runs, fields of the stream's settings, whether it ends by itself)
KINDS: dict[str, tuple[Callable[[], Opened], dict[str, Any], bool]] = {
    "rtsp-tcp": (_camera, {"transport": "tcp"}, False),
    "rtsp-udp": (_camera, {"transport": "udp"}, False),
    "rtsps": (_rtsps, {}, False),
    "rtsp-basic": (lambda: _camera(credentials=Credentials("me", "p@ss/w:rd", "basic")), {}, False),
    "rtsp-digest": (lambda: _camera(credentials=Credentials("me", "p@ss/w:rd", "digest")), {}, False),
    "rtsp-h265": (lambda: _camera("libx265"), {}, False),
    "rtsp-vp8": (lambda: _camera("libvpx"), {}, False),
    "rtsp-vp9": (lambda: _camera("libvpx-vp9"), {}, False),
    "rtsp-av1": (lambda: _camera("libsvtav1"), {}, False),
    "rtsp-mjpeg": (lambda: _camera("mjpeg"), {}, False),
    "rtsp-b-pictures": (lambda: _camera("libx264-b"), {}, False),
    "file": (lambda: _plain(f"file:{clip()}"), {}, True),
    "file-loop": (lambda: _plain(f"file:{clip()}"), {"loop": True}, False),
    "lavfi": (lambda: _plain("lavfi:testsrc2=size=320x240:rate=25"), {}, False),
    "http-file": (lambda: _web("/clip.mp4"), {}, True),
    "hls-recorded": (lambda: _web("/index.m3u8"), {}, True),
    "hls-live": (lambda: _web("/live.m3u8"), {}, False),
    "rtmp": (_rtmp, {}, False),
    "mjpeg": (lambda: _web("/mjpeg"), {}, False),
    "whip-vp8": (partial(_whip, "VP8"), {}, False),
    "whip-h264": (partial(_whip, "H264"), {}, False),
    "whep": (_whep, {}, False),
}

CODECS = {"h265": "libx265", "vp8": "libvpx", "vp9": "libvpx-vp9", "av1": "libsvtav1", "mjpeg": "mjpeg"}
"""Besides H.264, which the others carry. From a file and from a web server, as above by RTSP."""
for _name, _codec in CODECS.items():
    KINDS[f"file-{_name}"] = (partial(_file, _codec), {}, True)
    KINDS[f"http-{_name}"] = (partial(_web_file, _codec), {}, True)

# The default run takes one of each kind, `make check` all.
_SLOW = {"rtsp-basic", "rtsp-vp9", "rtsp-b-pictures", "file-loop", "hls-recorded"}
_SLOW |= {f"{place}-{name}" for place in ("file", "http") for name in CODECS}


def _marked(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in names]


@pytest.mark.parametrize("kind", _marked(KINDS))
async def test_a_source_keeps_its_promises(kind: str) -> None:
    opened, fields, _ = KINDS[kind]
    sink, context = Collector(), SourceContext(gateway=WebRtcGateway())
    CONTEXT.set(context)
    async with opened() as url:
        source = source_for(url, context, ingest_settings(sample_fps=10.0), **fields)
        assert isinstance(source, Source)
        task = asyncio.create_task(source.run(sink))
        await until(lambda: sink.offered >= 5 or task.done(), "five pictures")
        if task.done():
            task.result()
        began = time.monotonic()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, SourceError):
            await task
        stopped_in = time.monotonic() - began

    assert stopped_in < 2.0, "run() stops promptly"
    assert await context.reaper.close(10.0) == 0, "no thread is left"
    assert source_threads() == []

    pictures, info = sink.pictures, sink.infos[0]
    assert (info.width, info.height) == (320, 240)
    for picture in pictures:
        assert picture.image.shape == (240, 320, 3)
        assert picture.image.dtype == "uint8"
        assert picture.image.flags["C_CONTIGUOUS"]
        assert picture.captured_at.mono <= picture.taken_at + 1e-6, "nothing is captured in the future"
        assert picture.taken_at - picture.captured_at.mono < 10.0
    assert all(a.captured_at.mono < b.captured_at.mono for a, b in pairwise(pictures))
    assert all(a.pts < b.pts for a, b in pairwise(pictures) if a.pts is not None and b.pts is not None)
    assert sink.decoded_count >= sink.offered, "sampled after decoding, before conversion"
    gaps = sorted(b.pts - a.pts for a, b in pairwise(pictures) if a.pts is not None and b.pts is not None)
    if gaps:
        assert 0.05 <= gaps[len(gaps) // 2] <= 0.25, f"ten a second were asked for: {gaps}"


@pytest.mark.parametrize("kind", _marked(name for name, (_, _, ends) in KINDS.items() if ends))
async def test_a_recording_ends_cleanly(kind: str) -> None:
    opened, fields, _ = KINDS[kind]
    sink, context = Collector(), SourceContext()
    async with opened() as url:
        async with asyncio.timeout(30):
            await source_for(url, context, realtime=False, **fields).run(sink)
    assert 10 <= sink.offered <= 31, "five a second of three or six seconds"
    assert source_threads() == []


async def test_a_live_stream_that_ends_says_so() -> None:
    sink, context = Collector(), SourceContext()
    async with Camera([clip()]) as camera:
        task = asyncio.create_task(source_for(camera.url, context).run(sink))
        await until(lambda: sink.offered >= 1, "a picture")
        camera.drop()
        with pytest.raises(StreamEnded, match="the peer ended the stream"):
            async with asyncio.timeout(10):
                await task
    assert source_threads() == []
