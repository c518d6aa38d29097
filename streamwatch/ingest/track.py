"""A WebRTC track as a source of frames. aiortc decodes; here is sampled, stamped and converted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError
from av.video.reformatter import Interpolation, VideoReformatter

from streamwatch.domain import ClockSource, DropReason, FailureReason, Image, Instant, StreamInfo
from streamwatch.errors import StreamEnded
from streamwatch.ingest.clock import CaptureClock
from streamwatch.ingest.decode import Limits
from streamwatch.ingest.sampling import FrameRate, Sampler
from streamwatch.ingest.sizes import fitted
from streamwatch.protocols import Sink

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_CLOSE = 3.0


def peer() -> Any:
    """A connection that asks no STUN server: aiortc's default would."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def close(connection: Any) -> None:
    """Closes in bounded time, whatever the peer does."""
    try:
        async with asyncio.timeout(_CLOSE):
            await connection.close()
    except TimeoutError:  # its sockets are closed by then; only a goodbye was not answered
        pass


class TrackReader:
    """Reads one track to its end, whether anyone listens or not: what is not read piles up in aiortc's queues."""

    def __init__(self, track: Any, display: str) -> None:
        self._track = track
        self._display = display
        self._sink: Sink | None = None
        self._sampler = Sampler(1.0)
        self._limits = Limits()
        self._clock = CaptureClock()
        self._rate = FrameRate()
        self._reformatter = VideoReformatter()
        self._info: StreamInfo | None = None
        self._moved_at = time.monotonic()
        self._ended = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def drain(self) -> None:
        """The owner's task: runs until the track ends."""
        try:
            while True:
                frame = await self._track.recv()
                self._moved_at = time.monotonic()
                if self._sink is not None:
                    await self._take(frame, self._sink)
        except MediaStreamError:
            pass
        finally:
            self._ended.set()

    async def read(self, sink: Sink, sampler: Sampler, limits: Limits) -> None:
        """Hands the track's frames to the sink until it ends or stalls. Raises StreamEnded."""
        self._sink, self._sampler, self._limits = sink, sampler, limits
        self._info, self._moved_at = None, time.monotonic()
        try:
            while not self._ended.is_set():
                left = self._moved_at + limits.read_timeout - time.monotonic()
                if left <= 0:
                    what = f"nothing arrived for {limits.read_timeout:.0f} s"
                    raise StreamEnded(f"{self._display}: {what}", FailureReason.STALLED)
                try:
                    async with asyncio.timeout(left):
                        await self._ended.wait()
                except TimeoutError:
                    continue
        finally:
            self._sink = None
        raise StreamEnded(f"{self._display}: the publisher is gone")

    async def _take(self, frame: VideoFrame, sink: Sink) -> None:
        sink.decoded()
        now = Instant(time.monotonic(), time.time())
        t = float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base is not None else None
        if t is not None:
            self._rate.add(t)
        self._clock.arrived(t, now)
        self._describe(frame, sink)
        if not self._sampler.take(t if t is not None else now.mono):
            return
        captured, clock = self._clock.stamp(t, now)
        if now.mono - captured.mono > self._limits.max_frame_age:
            sink.dropped(DropReason.STALE)
            return
        # In the thread too: a sink may keep the picture for evidence, which is encoding.
        await asyncio.to_thread(self._hand_on, frame, sink, captured, t, clock)

    def _hand_on(
        self, frame: VideoFrame, sink: Sink, captured: Instant, t: float | None, clock: ClockSource
    ) -> None:  # fmt: skip
        image = self._convert(frame)
        if self._sink is sink:
            sink.offer(image, captured, t, clock)

    def _convert(self, frame: VideoFrame) -> Image:
        """uint8 (height, width, 3) RGB, no side longer than the limit."""
        size = fitted(frame.width, frame.height, self._limits.max_side)
        how = Interpolation.AREA if size else None  # each pixel of what is scaled down counts
        width, height = size or (None, None)
        converted = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=how, threads=1)
        return cast(Image, converted.to_ndarray())

    def _describe(self, frame: VideoFrame, sink: Sink) -> None:
        info, shape = self._info, (frame.width, frame.height, self._rate.value)
        if info is None or (info.width, info.height, info.fps) != shape:
            self._info = StreamInfo(_codec(self._track), *shape, transport="webrtc")
            sink.connected(self._info)


def _codec(track: Any) -> str:
    """Only known once both sides agreed; the owner of the track writes it there."""
    return str(getattr(track, "codec_name", "")) or "webrtc"
