"""Reading recorded videos: exact frames by index, upright, at constant memory, whatever is wrong with the file."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamwatch.domain import Image
from streamwatch.errors import MediaError
from streamwatch.ingest.quantiser import ask_quantiser, quantiser

MAX_ERRORS = 200
"""So many packets in a row without a picture end the file."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """`frames` is counted from the packets, `fps` the average rate, `rotation` the degrees that pictures are turned."""

    codec: str
    width: int
    height: int
    fps: float | None
    duration: float | None
    frames: int
    rotation: int = 0

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) as it is looked at."""
        return (self.height, self.width) if self.rotation % 180 else (self.width, self.height)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded frame: its index in presentation order, seconds from the first frame, uint8 RGB (H, W, 3) upright, and
    its mean quantiser where that is known (H.264)."""

    index: int
    time: float
    image: Image
    quantiser: float | None = None


@dataclass(frozen=True, slots=True)
class _Packets:
    """Presentation times, sorted, and those of the keyframes; `timed` False where some packet has no time."""

    times: list[int]
    keys: list[int]
    count: int
    timed: bool


class VideoReader:
    """Opens a video and counts its frames. Belongs to one thread at a time. Raises MediaError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._packets = self._scan()
        self._container, self._stream = self._open()
        self.warning: str | None = None
        """set when pictures were missing at the end of `pictures`"""
        self.info = self._describe()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._container.close()

    def pictures(self, indices: Sequence[int] | None = None) -> Iterator[Picture]:
        """The frames of those indices (ascending; None: all), in order. Seeks over long gaps.

        Frames that cannot be decoded are left out and told in `warning`; MediaError where there is none at all.
        """
        given = 0
        source = self._sampled(indices) if indices is not None and self._packets.timed else self._sequential(indices)
        for index, frame in source:
            given += 1
            yield Picture(index, self._seconds(frame, index), upright(frame), quantiser(frame))
        wanted = len(indices) if indices is not None else self.info.frames
        if not given:
            raise MediaError(f"{self.path}: no picture of it could be decoded")
        if given < wanted:
            self.warning = f"{wanted - given} of {wanted} frames could not be decoded; the file is damaged or cut off"

    def _sequential(self, indices: Sequence[int] | None) -> Iterator[tuple[int, VideoFrame]]:
        wanted = set(indices) if indices is not None else None
        last = max(wanted) if wanted else None
        for index, frame in enumerate(self._decoded()):
            if wanted is None or index in wanted:
                yield index, frame
            if last is not None and index >= last:
                return

    def _sampled(self, indices: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        times, keys = self._packets.times, self._packets.keys
        frames = self._decoded()
        position = times[0] - 1
        newest = -1
        for index in indices:
            if index <= newest:
                continue  # a damaged stretch gave a later frame in its place
            target = times[index]
            key = keys[max(0, bisect_right(keys, target) - 1)] if keys else position
            if key > position and self._seek(key):
                frames = self._decoded()
            for frame in frames:
                if frame.pts is None:
                    continue
                position = frame.pts
                if position >= target:
                    newest = max(index, bisect_left(times, position))
                    yield newest, frame
                    break

    def _seek(self, time: int) -> bool:
        try:
            self._container.seek(time, stream=self._stream)
        except FFmpegError:
            return False  # not a seekable format: read on
        return True

    def _decoded(self) -> Iterator[VideoFrame]:
        errors = 0
        packets = self._container.demux(self._stream)
        while errors < MAX_ERRORS:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                for frame in packet.decode():
                    errors = 0
                    yield frame
            except FFmpegError as error:
                if isinstance(error, EOFError):
                    return
                errors += 1

    def _seconds(self, frame: VideoFrame, index: int) -> float:
        if frame.pts is not None and frame.time_base is not None and self._packets.timed:
            return float((frame.pts - self._packets.times[0]) * Fraction(frame.time_base))
        return index / (self.info.fps or 25.0)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        try:
            if self.path.stat().st_size == 0:
                raise MediaError(f"{self.path}: is empty")
            container = av.open(str(self.path), metadata_errors="replace")
        except (FFmpegError, OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise MediaError(f"{self.path}: cannot be opened as a video (damaged, or not one): {what}") from error
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            container.close()
            raise MediaError(f"{self.path}: has no video in it")
        stream = streams[0]
        if getattr(stream, "codec_context", None) is None:  # the types promise one, FFmpeg may lack the decoder
            container.close()
            raise MediaError(f"{self.path}: there is no decoder for its video")
        stream.thread_type = ThreadType.AUTO
        ask_quantiser(stream.codec_context)
        return container, stream

    def _scan(self) -> _Packets:
        """Reads all packets once, without decoding: a few microseconds each."""
        container, stream = self._open()
        times, keys, count, timed = [], [], 0, True
        with container:
            try:
                for packet in container.demux(stream):
                    if packet.size == 0 or packet.is_discard:
                        continue
                    count += 1
                    time = packet.pts if packet.pts is not None else None
                    timed = timed and time is not None
                    if time is not None:
                        times.append(time)
                        if packet.is_keyframe:
                            keys.append(time)
            except FFmpegError:
                pass  # cut off here; what came before counts
        if not count:
            raise MediaError(f"{self.path}: holds no pictures")
        return _Packets(sorted(times), sorted(keys), count, timed)

    def _describe(self) -> VideoInfo:
        stream, packets = self._stream, self._packets
        rate = stream.average_rate or stream.guessed_rate
        duration = None
        if packets.timed and stream.time_base is not None:
            duration = float((packets.times[-1] - packets.times[0]) * stream.time_base) + (
                1 / float(rate) if rate else 0
            )
        return VideoInfo(
            codec=stream.codec_context.name,
            width=stream.width,
            height=stream.height,
            fps=float(rate) if rate else None,
            duration=duration,
            frames=packets.count,
            rotation=self._rotation(),
        )

    def _rotation(self) -> int:
        """Told by the frames, so one is looked at; the file is opened anew to begin at its beginning."""
        frame = next(self._decoded(), None)
        self._container.close()
        self._container, self._stream = self._open()
        return frame.rotation if frame is not None else 0


def upright(frame: VideoFrame) -> Image:
    """The frame as RGB, turned as its display matrix says (phones record sideways and say so)."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy counts
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
