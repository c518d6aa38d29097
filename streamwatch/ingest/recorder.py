"""The rings of what was last received, and clips cut from them without encoding anything again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from streamwatch.domain import Frame, Image
from streamwatch.errors import StorageError
from streamwatch.ingest.ring import Kept, PacketRing, Segment, decode_times, distinct
from streamwatch.protocols import ClipInfo, ClipKind

log = logging.getLogger(__name__)

_RATE = 90_000
_TIME_BASE = Fraction(1, _RATE)
# Everything else that we receive plays from MP4.
_FORMATS = {"vp8": ("webm", ".webm"), "vp9": ("webm", ".webm")}
_DEFAULT_FORMAT = ("mp4", ".mp4")
# Frames are encoded only for streams that have not sent a packet for so long (WebRTC hands out decoded pictures only).
_PACKETS_STOPPED = 5.0
_ENCODER = "libx264"
_ENCODER_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "26", "threads": "1"}


@dataclass(frozen=True, slots=True)
class RecorderStatistics:
    streams: int
    pictures: int
    size: int
    """bytes"""
    evicted: int


class Recorder:
    """A protocols.ClipSource. `packet` and `frame` are called from the sources' threads and never block on a disk.

    One ring per stream, each of at most `seconds` and `megabytes`. `forget` drops a stream's ring.
    """

    def __init__(self, seconds: float = 30.0, megabytes: float = 32.0) -> None:
        self._seconds = seconds
        self._limit = int(megabytes * (1 << 20))
        self._lock = threading.Lock()
        self._tracks: dict[str, _Track] = {}

    def packet(self, stream: str, packet: Any, template: Any) -> None:
        """A demuxed `av.Packet` of the `av.VideoStream` `template`."""
        self._track(stream).packet(packet, template)

    def frame(self, stream: str, frame: Frame) -> None:
        """A sampled picture; kept (encoded once) only where the stream sends no packets."""
        self._track(stream).frame(frame)

    def forget(self, stream: str) -> None:
        with self._lock:
            self._tracks.pop(stream, None)

    def statistics(self) -> RecorderStatistics:
        with self._lock:
            rings = [track.ring for track in self._tracks.values()]
        return RecorderStatistics(
            streams=len(rings),
            pictures=sum(map(len, rings)),
            size=sum(ring.size for ring in rings),
            evicted=sum(ring.evicted for ring in rings),
        )

    def select(self, stream: str, start: float, end: float) -> _Clip | None:
        with self._lock:
            track = self._tracks.get(stream)
        segment = track.ring.select(start, end) if track is not None else None
        return None if segment is None else _Clip(segment)

    def _track(self, stream: str) -> _Track:
        with self._lock:
            if stream not in self._tracks:
                self._tracks[stream] = _Track(PacketRing(self._seconds, self._limit))
            return self._tracks[stream]


@dataclass(frozen=True, slots=True)
class _Clip:
    """A protocols.Clip."""

    segment: Segment

    async def write(self, path: Path) -> ClipInfo:
        return await asyncio.to_thread(_write, self.segment, path)


class _Track:
    """One stream's ring, and what stands for its codec parameters."""

    def __init__(self, ring: PacketRing) -> None:
        self.ring = ring
        self._template: Any = None
        self._unfit: Any = None
        self._origin: _Origin | None = None
        self._encoder: _Encoder | None = None
        self._last_packet = float("-inf")

    def packet(self, packet: Any, template: Any) -> None:
        if template is self._unfit:
            return
        try:
            self._add(packet, template)
        except (av.error.FFmpegError, ValueError) as error:
            # Raw pictures (a test pattern, some webcams) fit no container: their frames are encoded instead.
            log.info("packets of %s are not recorded: %s", template.codec_context.name, error)
            self._unfit = template

    def _add(self, packet: Any, template: Any) -> None:
        ticks = packet.pts if packet.pts is not None else packet.dts
        now = time.time()
        if self._origin is None or self._template is not template:
            self._template, self._origin = template, _Origin(template, ClipKind.REMUXED)
        # The size is known only once the first picture was decoded, which happens in this thread, after this call.
        if not self._origin.fits(template):
            self._origin = _Origin(template, ClipKind.REMUXED)
        seconds = ticks * self._origin.time_base if ticks is not None else now
        self.ring.add(Kept(bytes(packet), seconds, packet.is_keyframe, now), self._origin)
        self._last_packet = time.monotonic()

    def frame(self, frame: Frame) -> None:
        if time.monotonic() - self._last_packet < _PACKETS_STOPPED:
            return
        if self._encoder is None or self._encoder.size != frame.size:
            self._encoder = _Encoder(frame.size)
        for kept in self._encoder.encode(frame):
            self.ring.add(kept, self._encoder.origin)


class _Origin:
    """A stream's codec parameters, copied: the source's own go with its container."""

    def __init__(self, template: VideoStream, kind: ClipKind) -> None:
        self.kind = kind
        self.codec = template.codec_context.codec.canonical_name
        self._holder = av.open(io.BytesIO(), "w", format="matroska")
        self.stream = self._holder.add_stream_from_template(template, opaque=True)
        self.size = (template.codec_context.width, template.codec_context.height)
        # As a number: to multiply by the fraction costs ten times what copying the packet does.
        self.time_base = float(template.time_base or _TIME_BASE)

    def fits(self, template: VideoStream) -> bool:
        """Whether the stream still has the size it had; takes over the size when it becomes known."""
        size = (template.codec_context.width, template.codec_context.height)
        if self.size == (0, 0):
            self.size = size
        return self.size == size


class _Encoder:
    """Encodes sampled pictures once, as they come."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._container = av.open(io.BytesIO(), "w", format="mp4")
        self._stream = cast(VideoStream, self._container.add_stream(_ENCODER, rate=25, options=_ENCODER_OPTIONS))
        # The chroma of the format is half as wide and half as high: both must be even.
        self._stream.width, self._stream.height = size[0] & ~1, size[1] & ~1
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, 1000)
        self._stream.gop_size = 5
        # Opens the encoder, so that its parameter sets are in the stream's description.
        self._container.start_encoding()
        self.origin = _Origin(self._stream, ClipKind.ENCODED)

    def encode(self, frame: Frame) -> list[Kept]:
        image: Image = frame.image
        picture = VideoFrame.from_ndarray(image, format="rgb24")
        picture = picture.reformat(self._stream.width, self._stream.height, "yuv420p", threads=1)
        picture.pts = round(frame.captured_at.mono * 1000)
        picture.time_base = Fraction(1, 1000)
        picture.pict_type = PictureType.NONE
        wall = frame.captured_at.wall
        packets = self._stream.encode(picture)
        return [Kept(bytes(p), float((p.pts or 0) * p.time_base), p.is_keyframe, wall) for p in packets]


def _write(segment: Segment, path: Path) -> ClipInfo:
    """Raises StorageError; a file of that name appears only whole."""
    origin: _Origin = segment.origin
    container, suffix = _FORMATS.get(origin.codec, _DEFAULT_FORMAT)
    target = path.with_suffix(suffix)
    partial = target.with_name(f".{target.name}.part")
    timed = distinct(list(segment.pictures), _RATE)
    times = decode_times([ticks for _, ticks in timed])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(partial), "w", format=container) as output:
            stream = output.add_stream_from_template(origin.stream, opaque=True)
            stream.width, stream.height = origin.size
            for (kept, ticks), dts in zip(timed, times, strict=True):
                output.mux(_packet(kept, ticks, dts, stream))
        partial.replace(target)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StorageError(f"{target}: the clip cannot be written: {error}") from error
    first, last = segment.pictures[0].wall, segment.pictures[-1].wall
    return ClipInfo(origin.kind, target, first, last, len(timed), origin.codec)


def _packet(kept: Kept, pts: int, dts: int, stream: Any) -> av.Packet[Any]:
    packet: av.Packet[Any] = av.Packet(kept.data)
    packet.time_base = _TIME_BASE
    packet.pts, packet.dts = pts, dts
    packet.is_keyframe = kept.key
    packet.stream = stream
    return packet
