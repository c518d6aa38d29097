"""The video again, with boxes, scores and counts drawn into it, at the source's own frame rate and with its sound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamwatch.domain import Image
from streamwatch.errors import MediaError
from streamwatch.scan.records import FaceRecord, FrameRecord
from streamwatch.scan.video import VideoInfo, VideoReader, upright

RED, GREEN, GREY, WHITE = (235, 64, 52), (46, 174, 96), (150, 150, 150), (255, 255, 255)
COPIED_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
"""What an mp4 may hold as it is; other sound is encoded anew as AAC."""


def annotate(reader: VideoReader, details: Path, target: Path, threshold: float) -> None:
    """Writes the reader's video as `target`: H.264 with sound for .mp4, Motion JPEG without for .avi.

    `details` has a FrameRecord a line; a frame that was not analysed shows what was last seen. Raises MediaError.
    """
    source = reader.path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}")
    try:
        with av.open(str(source)) as container, av.open(str(partial), "w", format=target.suffix[1:]) as output:
            _copy(container, output, _Overlay(details, threshold), reader.info)
        partial.replace(target)
    except (FFmpegError, OSError) as error:
        raise MediaError(f"{source}: cannot be annotated: {getattr(error, 'strerror', None) or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _copy(container: InputContainer, output: OutputContainer, overlay: _Overlay, info: VideoInfo) -> None:
    video = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    # Both streams are declared before anything is written: the file's header names them.
    writer = _Pictures(output, video, info.upright_size)
    sound = output.format.name == "mp4" and container.streams.audio
    audio = _Sound(output, container.streams.audio[0]) if sound else None
    for packet in container.demux(video, *([audio.source] if audio is not None else [])):
        if audio is not None and packet.stream is audio.source:
            audio.put(packet)
            continue
        try:
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    writer.put(frame, overlay)
        except FFmpegError:
            continue  # a damaged picture; the scan's row tells of it
    writer.close()
    if audio is not None:
        audio.close()


class _Pictures:
    """Encodes pictures at the times they had."""

    def __init__(self, output: OutputContainer, source: VideoStream, size: tuple[int, int]) -> None:
        self._output = output
        self._source = source
        self._rate = source.average_rate or Fraction(25)
        self._motion_jpeg = output.format.name == "avi"
        self._stream = self._open(*size)
        self._count = 0

    def put(self, frame: VideoFrame, overlay: _Overlay) -> None:
        image = overlay.draw(upright(frame), self._count)
        height, width = self._stream.height, self._stream.width
        if image.shape[:2] != (height, width):  # odd sizes, or a picture size that changes in mid-video
            image = np.ascontiguousarray(cv2.resize(image, (width, height)))
        made = VideoFrame.from_ndarray(image, format="rgb24")
        timed = frame.pts is not None and self._source.time_base is not None and not self._motion_jpeg
        made.pts = frame.pts if timed else self._count
        made.time_base = self._source.time_base if timed and self._source.time_base else 1 / self._rate
        self._count += 1
        self._output.mux(self._stream.encode(made))

    def close(self) -> None:
        self._output.mux(self._stream.encode(None))

    def _open(self, width: int, height: int) -> VideoStream:
        stream = self._output.add_stream("mjpeg" if self._motion_jpeg else "libx264", rate=self._rate)
        stream.width, stream.height = max(2, width & ~1), max(2, height & ~1)
        stream.pix_fmt = "yuvj420p" if self._motion_jpeg else "yuv420p"
        if self._motion_jpeg:
            stream.codec_context.qmin = stream.codec_context.qmax = 3
            stream.codec_context.time_base = 1 / self._rate
        else:
            stream.options = {"crf": "20", "preset": "veryfast"}
            stream.codec_context.time_base = self._source.time_base or 1 / self._rate
        return stream


class _Sound:
    """Copies the sound where the container can hold it, else encodes it."""

    def __init__(self, output: OutputContainer, source: AudioStream) -> None:
        self.source = source
        self._output = output
        self._copied = source.codec_context.name in COPIED_AUDIO
        self._stream: AudioStream
        if self._copied:
            self._stream = output.add_stream_from_template(source)
        else:
            self._stream = output.add_stream("aac", rate=source.codec_context.sample_rate)
            self._stream.codec_context.layout = source.codec_context.layout

    def put(self, packet: Packet[Any]) -> None:
        if self._copied:
            if packet.dts is not None:
                packet.stream = self._stream
                self._output.mux(packet)
            return
        try:
            for frame in packet.decode():
                self._output.mux(self._stream.encode(frame))  # type: ignore[arg-type]  # an audio stream's frames
        except FFmpegError:
            return  # a damaged piece of sound

    def close(self) -> None:
        if not self._copied:
            self._output.mux(self._stream.encode(None))


class _Overlay:
    """Draws what was found; reads the findings line by line beside the video."""

    def __init__(self, details: Path, threshold: float) -> None:
        self._records = _records(details)
        self._next = next(self._records, None)
        self._shown: FrameRecord | None = None
        self._threshold = threshold
        self._fake = self._real = 0

    def draw(self, image: Image, index: int) -> Image:
        while self._next is not None and self._next.index <= index:
            self._shown, self._next = self._next, next(self._records, None)
            if self._shown.faces:
                fake = any(self._is_fake(face) for face in self._shown.faces)
                self._fake, self._real = self._fake + fake, self._real + (not fake)
        canvas = np.ascontiguousarray(image)
        for face in self._shown.faces if self._shown is not None else ():
            self._face(canvas, face)
        scale = max(0.4, canvas.shape[0] / 1080)
        _text(canvas, f"frames: {self._fake} fake, {self._real} real", (12, round(34 * scale)), scale, WHITE)
        return canvas

    def _is_fake(self, face: FaceRecord) -> bool:
        return face.gate is None and face.score >= self._threshold

    def _face(self, canvas: Image, face: FaceRecord) -> None:
        x0, y0, x1, y1 = (round(value) for value in face.box)
        colour = GREY if face.gate is not None else RED if self._is_fake(face) else GREEN
        scale = max(0.35, canvas.shape[0] / 1400)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, max(1, round(3 * scale)))
        lines = [f"ensemble {face.score:.3f}", *(f"{name} {score:.3f}" for name, score in face.members.items())]
        if face.gate is not None:
            lines[0] = f"not judged: {face.gate}"
        for row, line in enumerate(lines):
            _text(canvas, line, (x0, y1 + round((row + 1) * 32 * scale)), scale, colour if row == 0 else WHITE)


def _records(details: Path) -> Iterator[FrameRecord]:
    with details.open(encoding="utf-8") as file:
        for line in file:
            yield FrameRecord.from_json(json.loads(line))


def _text(canvas: Image, text: str, place: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> None:
    """On a dark ground, to be read on any picture."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x, y = place
    cv2.rectangle(canvas, (x - 3, y - height - 3), (x + width + 3, y + below), (20, 20, 20), cv2.FILLED)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
