"""The PyAV source: one thread that demuxes, decodes as little as needed, and converts sampled pictures only."""

from __future__ import annotations

import errno
import logging
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from streamwatch.domain import ClockSource, DropReason, FailureReason, Image, Instant, Sink, StreamInfo
from streamwatch.errors import DecodeFailed, SourceUnavailable, StreamEnded
from streamwatch.ingest.clock import CaptureClock
from streamwatch.ingest.failures import classify, unavailable
from streamwatch.ingest.hardware import accelerator
from streamwatch.ingest.plans import OpenPlan, ways
from streamwatch.ingest.reaper import Reaper
from streamwatch.ingest.sampling import Sampler, SkipPolicy

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

# How long one read of an interruptible source waits before the stop flag is looked at.
_POLL = 0.5
_PRFT = struct.Struct("=q")
# So many packets in a row that give no picture, though the decoder was asked for one, are not a picture any more.
_MAX_ERRORS = 100


@dataclass(frozen=True, slots=True)
class AvLimits:
    """Seconds."""

    open_timeout: float = 10.0
    read_timeout: float = 5.0
    max_frame_age: float = 10.0


class AvSource:
    """A Source for everything that FFmpeg opens. `set_rate` may be called at any time, from any thread.

    `run` returns when a recording came to its end; raises StreamEnded when a live stream ended or stalled,
    SourceUnavailable when it cannot be opened, DecodeFailed when too much of it cannot be decoded.
    """

    def __init__(self, plan: OpenPlan, reaper: Reaper, fps: float, limits: AvLimits, decoder: str = "auto") -> None:
        self._plan = plan
        self._reaper = reaper
        self._limits = limits
        self._decoder = decoder
        self._sampler = Sampler(fps)
        self.clock = CaptureClock()

    def set_rate(self, fps: float) -> None:
        self._sampler.fps = fps

    async def run(self, sink: Sink) -> None:
        await self._reaper.run(lambda stop: self._work(stop, sink), name=f"source {self._plan.display}")

    # --- everything below runs in the thread --------------------------------------------------------------------------

    def _work(self, stop: threading.Event, sink: Sink) -> None:
        base = 0.0
        while not stop.is_set():
            container, chosen = self._open()
            with container:
                if stop.is_set():
                    return  # cancelled while the open hung: the sink is no longer ours
                run = _Run(self, chosen, container, base, stop, sink)
                run.read()
            if not chosen.loop or run.duration == 0.0:
                return
            base += run.duration

    def _open(self) -> tuple[InputContainer, OpenPlan]:
        """Tries the transports in turn; only a refused transport leads to the next."""
        options = ways(self._plan)
        for index, chosen in enumerate(options):
            try:
                return self._open_one(chosen), chosen
            except av.error.FFmpegError as error:
                if index + 1 < len(options) and _transport_refused(error):
                    log.info(
                        "%s: no %s there, trying %s", chosen.display, chosen.transport, options[index + 1].transport
                    )
                    continue
                raise unavailable(error, self._plan.display) from error
            except (ValueError, OSError, RuntimeError) as error:
                raise unavailable(error, self._plan.display) from error
        raise AssertionError("a plan has at least one way")

    def _open_one(self, chosen: OpenPlan) -> InputContainer:
        read = _POLL if chosen.interruptible else self._limits.read_timeout
        return av.open(
            chosen.target,
            "r",
            format=chosen.format,
            options=chosen.options,
            timeout=(self._limits.open_timeout, read),
        )


class _Run:
    """From one open to its end."""

    def __init__(
        self,
        source: AvSource,
        plan: OpenPlan,
        container: InputContainer,
        base: float,
        stop: threading.Event,
        sink: Sink,
    ) -> None:
        self._plan, self._container, self._stop, self._sink, self._base = plan, container, stop, sink, base
        self._sampler, self._clock, self._limits = source._sampler, source.clock, source._limits
        self._policy = SkipPolicy()
        self._stream = _video(container, plan)
        self._decoder, self._decoder_name = accelerator(self._stream, source._decoder)
        self._reformatter = VideoReformatter()
        self._info: StreamInfo | None = None
        self._origin: float | None = None
        self._anchor = Instant(0.0, 0.0)
        self._resumed_at: float | None = None
        self._errors = 0
        self.duration = 0.0
        """Seconds of stream time covered so far."""

    def read(self) -> None:
        for packet in self._packets():
            if self._stop.is_set():
                return
            self._packet(packet)
        finite = self._plan.live is False or (self._plan.live is None and self._container.duration is not None)
        if self._stop.is_set():
            return
        if not finite:
            raise StreamEnded(f"{self._plan.display}: the peer ended the stream")
        if self._info is None:
            raise DecodeFailed(f"{self._plan.display}: not one picture could be decoded")

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Demuxes to the end. A read that timed out is taken up again where that loses nothing."""
        quiet_since = time.monotonic()
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    quiet_since = time.monotonic()
                    yield packet
                return
            except (av.error.ExitError, av.error.TimeoutError, av.error.BlockingIOError) as error:
                quiet = time.monotonic() - quiet_since
                if self._stop.is_set():
                    return
                if not self._plan.interruptible or quiet >= self._limits.read_timeout:
                    message = f"{self._plan.display}: nothing arrived for {max(quiet, self._limits.read_timeout):.0f} s"
                    raise StreamEnded(message, FailureReason.STALLED) from error
            except av.error.FFmpegError as error:
                reason, sentence = classify(error, self._plan.display.partition(":")[0])
                raise StreamEnded(f"{self._plan.display}: {sentence}", reason) from error

    def _packet(self, packet: Packet[VideoStream]) -> None:
        t = self._time(packet.pts if packet.pts is not None else packet.dts, packet)
        if t is not None:
            self._pace(t)
        now = _now()
        if packet.size:
            self._clock.arrived(t, now, _reported(packet))
            self._sink.packet(packet, self._stream)
            self._choose_skip(t, packet.is_keyframe)
        try:
            frames = packet.decode() if self._decoder is None else self._decoder.decode(packet)
        except (
            av.error.InvalidDataError,
            av.error.ArgumentError,
            av.error.UnknownError,
            av.error.PatchWelcomeError,
        ) as error:
            self._failed(error)
            return
        except av.error.FFmpegError as error:
            raise DecodeFailed(f"{self._plan.display}: {classify(error)[1]}") from error
        for frame in frames:
            self._frame(frame)

    def _choose_skip(self, t: float | None, key: bool) -> None:
        context = self._decoder or self._stream.codec_context
        before = self._policy.mode
        mode = self._policy.before(t, key, self._sampler)
        if mode != before:
            context.skip_frame = mode
            if before == "NONKEY":
                # Pictures that precede this key picture in display order refer to what was skipped.
                self._resumed_at = t

    def _failed(self, error: Exception) -> None:
        self._sink.dropped(DropReason.DECODE_ERROR)
        self._errors += 1
        if self._errors >= _MAX_ERRORS:
            raise DecodeFailed(
                f"{self._plan.display}: {self._errors} pictures in a row could not be decoded"
            ) from error

    def _frame(self, frame: VideoFrame) -> None:
        self._sink.decoded()
        t = self._time(frame.pts, frame)
        self._policy.decoded(frame.pict_type == 3)
        if frame.is_corrupt:
            self._sink.dropped(DropReason.DECODE_ERROR)
            return
        self._errors = 0
        self._describe(frame)
        now = _now()
        if self._resumed_at is not None and t is not None and t < self._resumed_at - 1e-3:
            return
        if not self._sampler.take(t if t is not None else now.mono):
            return
        captured, clock = self._captured(t, now)
        if now.mono - captured.mono > self._limits.max_frame_age:
            self._sink.dropped(DropReason.STALE)
            return
        self._sink.offer(self._convert(frame), captured, t, clock)

    def _captured(self, t: float | None, now: Instant) -> tuple[Instant, ClockSource]:
        if self._plan.clock is not ClockSource.FILE:
            return self._clock.stamp(t, now)
        if not self._plan.paced or t is None:
            return now, ClockSource.FILE
        return self._anchor.shifted(t - self._base), ClockSource.FILE

    def _convert(self, frame: VideoFrame) -> Image:
        """uint8 (height, width, 3) RGB, upright."""
        image = cast(Image, self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

    def _describe(self, frame: VideoFrame) -> None:
        """Tells the sink what the stream is, at the first picture and whenever its shape changes."""
        known = self._info
        if known is not None and (known.width, known.height, known.rotation) == (
            frame.width,
            frame.height,
            frame.rotation,
        ):
            return
        rate = self._stream.average_rate or self._stream.guessed_rate
        fps = float(rate) if rate and 0 < rate <= 240 else None
        self._policy.rate(fps)
        name = self._stream.codec_context.codec.canonical_name
        self._info = StreamInfo(
            name, frame.width, frame.height, fps, self._plan.transport, self._decoder_name, int(frame.rotation)
        )  # fmt: skip
        self._sink.connected(self._info)

    def _time(self, ticks: int | None, of: Packet[VideoStream] | VideoFrame) -> float | None:
        """Seconds from the first timestamp seen, continued over the loops of a file."""
        if ticks is None or of.time_base is None:
            return None
        t = float(ticks * of.time_base)
        if self._origin is None:
            self._origin = t
            self._anchor = _now()
        t -= self._origin
        step = 1 / (self._info.fps or 25.0) if self._info else 0.04
        self.duration = max(self.duration, t + step)
        return self._base + t

    def _pace(self, t: float) -> None:
        if self._plan.paced and self._plan.clock is ClockSource.FILE:
            self._stop.wait(max(0.0, self._anchor.mono + (t - self._base) - time.monotonic()))


def _video(container: InputContainer, plan: OpenPlan) -> VideoStream:
    streams = container.streams.video
    if not streams:
        kinds = sorted({stream.type for stream in container.streams if stream.type})
        what = f"it holds only {' and '.join(kinds)}" if kinds else "it holds no stream at all"
        raise SourceUnavailable(f"{plan.display}: no video: {what}", FailureReason.NO_VIDEO)
    stream = streams[0]
    if stream.codec_context is None:
        raise SourceUnavailable(f"{plan.display}: no decoder for its video codec", FailureReason.CODEC_UNSUPPORTED)
    # One thread per stream: more would hold pictures back, and many streams share the cores anyway.
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = ThreadType.NONE
    return stream


def _transport_refused(error: BaseException) -> bool:
    """461, which FFmpeg reports as EPROTONOSUPPORT or as a client error of no number of its own."""
    return getattr(error, "errno", None) == errno.EPROTONOSUPPORT or isinstance(error, av.error.HTTPOtherClientError)


def _reported(packet: Packet[VideoStream]) -> float | None:
    """Unix time of capture, by the camera's sender reports."""
    if not packet.has_sidedata("prft"):
        return None
    return float(_PRFT.unpack_from(bytes(packet.get_sidedata("prft")))[0]) / 1e6


def _now() -> Instant:
    return Instant(time.monotonic(), time.time())
