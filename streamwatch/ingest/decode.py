"""From an open container to sampled pictures: demux, decode as little as needed, convert only what is sampled."""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.stream import Discard
from av.video.reformatter import Interpolation, VideoReformatter

from streamwatch.domain import ClockSource, DropReason, FailureReason, Image, Instant, StreamInfo
from streamwatch.errors import DecodeFailed, SourceUnavailable, StreamEnded
from streamwatch.ingest.clock import CaptureClock
from streamwatch.ingest.failures import classify
from streamwatch.ingest.hardware import accelerator
from streamwatch.ingest.plans import OpenPlan
from streamwatch.ingest.quantiser import ask_quantiser, quantiser
from streamwatch.ingest.sampling import Backlog, Sampler, SkipPolicy
from streamwatch.ingest.sizes import fitted
from streamwatch.protocols import Sink

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_PRFT = struct.Struct("=q")
_B_PICTURE = 3
_REPORT_EVERY = 8
# Seconds: a read that took so long had to wait, and for so long at most a server catches up at the start.
_WAITED, _OPENING = 0.008, 2.0
# Seconds by which a timestamp leaps where a new time line begins.
_JUMP_BACK, _JUMP_AHEAD = 0.5, 10.0
_DAMAGED = (av.error.InvalidDataError, av.error.ArgumentError, av.error.UnknownError, av.error.PatchWelcomeError)
_QUIET = (av.error.ExitError, av.error.TimeoutError, av.error.BlockingIOError)
# Packets flow but give no picture: so long is waited for a first key picture. After pictures, so long at least (and a
# group of pictures and a half) where the decoder complains so many times and gives nothing, not even a damaged one: a
# multiplex may have gone over to another codec. A key picture that is lost silences one group.
_PATIENCE = 30.0
_PATIENCE_WITH_ERRORS, _ERRORS = 4.0, 5


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, unless said otherwise."""

    open_timeout: float = 10.0
    read_timeout: float = 5.0
    max_frame_age: float = 10.0
    max_side: int = 3840
    """Pixels: the longer side of what is handed on."""


class DecodeRun:
    """One container from its opening to its end; all in one thread. `prepare`, then `read`."""

    def __init__(
        self, plan: OpenPlan, container: InputContainer, sink: Sink, stop: threading.Event, limits: Limits
    ) -> None:  # fmt: skip
        # Of motion JPEG over HTTP FFmpeg invents the times, 25 a second whatever comes: only the arrivals tell.
        self._untimed = plan.clock is ClockSource.ARRIVAL and container.format.name in ("mpjpeg", "mjpeg")
        if self._untimed:
            plan = replace(plan, paced=False, live=True)
        self._plan, self._container, self._sink, self._stop, self._limits = plan, container, sink, stop, limits
        self._stream = _video(container, plan)
        # As numbers: to ask for the fraction each time costs more than all that is done with it.
        self._time_base = _seconds(self._stream.time_base)
        self._frame_base: float | None = None
        self._vp9 = self._stream.codec_context.codec.canonical_name == "vp9"
        self._reformatter = VideoReformatter()
        self._policy = SkipPolicy()
        self._backlog = Backlog()
        self._shedding = False
        self._info: StreamInfo | None = None
        self._origin: float | None = None
        self._anchor = _now()
        self._packet_time = 0.0
        self._packet_at = time.monotonic()
        self._resumed_at = float("-inf")
        # Of a live source, until a read has to wait: what was waiting for us is of the past.
        self._opening = plan.live is True and not plan.paced and plan.format is None and not self._untimed
        self._opened_at: float | None = None
        self._arrivals = self._errors = 0
        self._pictured_at = self._decoded_at = time.monotonic()
        self.duration = 0.0
        """Seconds of stream time covered so far."""

    def prepare(self, sampler: Sampler, clock: CaptureClock, decoder: str, base: float = 0.0) -> None:
        """`base`: seconds of stream time before this run, where a file is played in a loop."""
        self._sampler, self._clock, self._base, self._packet_time = sampler, clock, base, base
        self._context, self._decoder_name = accelerator(self._stream, decoder, self._plan.display)

    def read(self) -> None:
        """To the end of the container, or until `stop` is set."""
        for packet in self._packets():
            if self._stop.is_set():
                return
            self._packet(packet)
        if self._stop.is_set():
            return
        if self._plan.live or (self._plan.live is None and self._container.duration is None):
            raise StreamEnded(f"{self._plan.display}: the peer ended the stream")
        if self._info is None:
            raise DecodeFailed(f"{self._plan.display}: not one picture could be decoded")

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Demuxes to the end. A read that timed out is taken up again where that loses nothing.

        All streams are read, although only one is wanted: PyAV would skip the others inside of one call, which never
        returns while there is sound and no picture.
        """
        asked = time.monotonic()
        while True:
            try:
                for packet in self._container.demux():
                    now = time.monotonic()
                    if packet.stream is not self._stream:
                        if self._stop.is_set() or now - asked >= self._limits.read_timeout:
                            raise av.error.ExitError(errno.EINTR, "no picture")
                        continue
                    if self._opening:
                        self._arrived_in_opening(now - asked, now)
                    if self._plan.clock is not ClockSource.FILE and not self._plan.paced:
                        self._backlog.read(now - asked, now)
                    yield cast("Packet[VideoStream]", packet)
                    asked = time.monotonic()
                return
            except _QUIET as error:
                quiet = time.monotonic() - asked
                if self._stop.is_set():
                    return
                if not self._plan.interruptible or quiet >= self._limits.read_timeout:
                    what = f"nothing arrived for {max(quiet, self._limits.read_timeout):.0f} s"
                    raise StreamEnded(f"{self._plan.display}: {what}", FailureReason.STALLED) from error
            except av.error.FFmpegError as error:
                reason, sentence = classify(error)
                if error.errno == errno.EIO:
                    sentence = "the connection was lost"
                raise StreamEnded(f"{self._plan.display}: {sentence}", reason) from error

    def _arrived_in_opening(self, waited: float, now: float) -> None:
        """The first read always waits, for the server to begin; the opening is over with the next that does."""
        if self._opened_at is None:
            self._opened_at = now
        elif waited >= _WAITED or now - self._opened_at > _OPENING:
            self._opening = False

    def _packet(self, packet: Packet[VideoStream]) -> None:
        now = self._arrived(packet) if packet.size else _now()
        if self._vp9 and packet.size and self._policy.mode == "NONKEY" and not packet.is_keyframe:
            return  # FFmpeg's decoder of VP9 knows no `skip_frame`
        try:
            frames = self._context.decode(packet)
        except _DAMAGED:
            self._errors += 1
            if self._info is not None:  # before the first picture errors are the rule: we joined in mid-stream
                self._sink.dropped(DropReason.DECODE_ERROR)
            return
        except av.error.FFmpegError as error:
            raise DecodeFailed(f"{self._plan.display}: {classify(error)[1]}") from error
        for frame in frames:
            self._frame(frame, now)

    def _arrived(self, packet: Packet[VideoStream]) -> Instant:
        t = self._time(packet.pts if packet.pts is not None else packet.dts, self._time_base)
        jumped = not -_JUMP_BACK < t - self._packet_time < _JUMP_AHEAD
        if jumped:  # a new time line: what was skipped on the old one says nothing about it
            self._resumed_at = float("-inf")
        self._pace(t, jumped)
        now = _now()
        self._packet_time, self._packet_at = t, now.mono
        if self._vp9 and not packet.is_keyframe:
            packet.is_keyframe = _is_vp9_key(packet)
        # A report holds for many packets, and to ask each of them costs as much as all else that is done with it.
        self._arrivals += 1
        asked = packet.is_keyframe or self._arrivals % _REPORT_EVERY == 0
        self._clock.arrived(t, now, _reported(packet) if asked else None)
        self._sink.packet(packet, self._stream)
        self._choose_skip(t, packet.is_keyframe)
        self._check_pictures(now)
        return now

    def _choose_skip(self, t: float, key: bool) -> None:
        before = self._policy.mode
        behind = self._backlog.behind
        mode = self._policy.before(t, key, self._sampler, behind=behind)
        # Who falls behind skips to the end of the group of pictures, whenever it has caught up.
        self._shedding = behind or (self._shedding and not key)
        if self._shedding and not key and self._sampler.miss(t):
            self._sink.dropped(DropReason.BUDGET)
        if mode == before:
            return
        self._context.skip_frame = mode
        if before == "NONKEY":
            # Pictures that precede this key picture in display order refer to what was skipped.
            self._resumed_at = t

    def _check_pictures(self, now: Instant) -> None:
        """Raises DecodeFailed where packets come and pictures do not."""
        waited = now.mono - self._pictured_at
        patience = max(_PATIENCE, 3 * (self._policy.keyframe_interval or 0.0))
        short = min(patience, max(_PATIENCE_WITH_ERRORS, 1.5 * self._policy.longest_group))
        lost = self._info is not None and self._errors >= _ERRORS and now.mono - self._decoded_at > short
        if lost or waited > patience:
            damaged = "only damaged ones" if self._decoded_at > self._pictured_at else "not one key picture"
            what = f"{self._errors} decoding errors" if self._errors else damaged
            raise DecodeFailed(f"{self._plan.display}: packets arrive, but no picture for {waited:.0f} s ({what})")

    def _frame(self, frame: VideoFrame, now: Instant) -> None:
        self._sink.decoded()
        timed = frame.pts is not None and not self._untimed
        if self._frame_base is None:
            self._frame_base = _seconds(frame.time_base)
        t = self._time(frame.pts, self._frame_base) if timed else self._packet_time
        self._policy.decoded(frame.pict_type == _B_PICTURE)
        self._errors, self._decoded_at = 0, now.mono
        if frame.is_corrupt:
            self._sink.dropped(DropReason.DECODE_ERROR)
            return
        self._pictured_at = now.mono
        self._describe(frame)
        if self._opening and self._arrivals == 1:
            return  # not known yet whether it is live: the next one is soon here
        if t < self._resumed_at or not self._sampler.take(t):
            return
        if self._opening:
            self._sink.dropped(DropReason.STALE)
            return
        captured, clock = self._captured(t, now)
        if now.mono - captured.mono > self._limits.max_frame_age:
            self._sink.dropped(DropReason.STALE)
            return
        self._sink.offer(self._convert(frame), captured, t, clock, quantiser(frame))

    def _captured(self, t: float, now: Instant) -> tuple[Instant, ClockSource]:
        if self._plan.clock is not ClockSource.FILE:
            return self._clock.stamp(t, now)
        if not self._plan.paced:
            return now, ClockSource.FILE
        due = self._anchor.shifted(t - self._base)
        # Where the time jumped back, the decoder still held pictures of the old time line.
        return (due if due.mono < now.mono else now), ClockSource.FILE

    def _convert(self, frame: VideoFrame) -> Image:
        """uint8 (height, width, 3) RGB, upright, no side longer than the limit."""
        smaller = fitted(frame.width, frame.height, self._limits.max_side)
        size = smaller or (frame.width, frame.height)
        how = Interpolation.AREA if smaller else None  # each pixel of what is scaled down counts
        # A reformatter of our own keeps its tables from frame to frame; one thread, as for the decoder.
        converted = self._reformatter.reformat(frame, *size, format="rgb24", interpolation=how, threads=1)
        image = cast(Image, converted.to_ndarray())
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

    def _describe(self, frame: VideoFrame) -> None:
        """Tells the sink what the stream is: at the first picture, and whenever that changes."""
        info, shape = self._info, (frame.width, frame.height, int(frame.rotation), self._policy.fps)
        if info is not None and (info.width, info.height, info.rotation, info.fps) == shape:
            return
        codec = self._stream.codec_context.codec.canonical_name
        width, height, rotation, fps = shape
        self._info = StreamInfo(codec, width, height, fps, self._plan.transport, self._decoder_name, rotation)
        self._sink.connected(self._info)

    def _time(self, ticks: int | None, time_base: float | None) -> float:
        """Seconds from the first timestamp seen, continued over the loops of a file; a missing one is made up for."""
        if ticks is None or time_base is None or self._untimed:
            t = self._guess()
        else:
            if self._origin is None:
                # The first packet of a live stream often has no time: the line goes on from what was made up for it.
                self._origin, self._anchor = ticks * time_base - self._guess(), _now()
            t = ticks * time_base - self._origin
        self.duration = max(self.duration, t + 1 / (self._policy.fps or 25.0))
        return self._base + t

    def _guess(self) -> float:
        """Of a packet that has no time, as `_time` without base: what has passed, or one picture on in a recording."""
        before = self._packet_time - self._base
        if not self._arrivals:
            return before
        if self._plan.clock is ClockSource.FILE:
            rate = self._stream.average_rate or self._stream.guessed_rate or 25
            return before + 1 / float(rate)
        return before + time.monotonic() - self._packet_at

    def _pace(self, t: float, jumped: bool) -> None:
        if not self._plan.paced:
            return
        if jumped:  # a discontinuity of a playlist, recordings that were joined: no pause, and no rush either
            self._anchor = _now().shifted(self._base - t)
        else:
            self._stop.wait(max(0.0, self._anchor.mono + (t - self._base) - time.monotonic()))


def _video(container: InputContainer, plan: OpenPlan) -> VideoStream:
    streams = container.streams.video
    if not streams:
        kinds = sorted({stream.type for stream in container.streams if stream.type})
        what = f"it holds only {' and '.join(kinds)}" if kinds else "it holds no stream at all"
        raise SourceUnavailable(f"{plan.display}: no video: {what}", FailureReason.NO_VIDEO)
    stream = streams[0]
    context: object = stream.codec_context
    if context is None:
        raise SourceUnavailable(f"{plan.display}: no decoder for its video codec", FailureReason.CODEC_UNSUPPORTED)
    # What is not wanted is not even loaded, where that can be (the other qualities of a playlist).
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    # One thread per stream: more would hold pictures back, and many streams share the cores anyway.
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = ThreadType.NONE
    ask_quantiser(stream.codec_context)
    return stream


def _seconds(time_base: Fraction | None) -> float | None:
    return None if time_base is None else float(time_base)


def _reported(packet: Packet[VideoStream]) -> float | None:
    """Unix time of capture, by the camera's sender reports."""
    if not packet.has_sidedata("prft"):
        return None
    return float(_PRFT.unpack_from(bytes(packet.get_sidedata("prft")))[0]) / 1e6


def _is_vp9_key(packet: Packet[VideoStream]) -> bool:
    """By the uncompressed header (VP9 bitstream specification, 6.2): FFmpeg's RTP side does not mark key pictures."""
    first = bytes(memoryview(packet)[:1])[0]
    marker, shown_again, inter = first >> 6, first & 0x08, first & 0x04
    return marker == 2 and not shown_again and not inter


def _now() -> Instant:
    return Instant(time.monotonic(), time.time())
