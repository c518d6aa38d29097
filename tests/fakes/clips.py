"""Small recordings made on the spot: each frame's brightness tells its number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamwatch.domain import Image

LEVEL = 4
"""Grey levels between two frames: more than any codec here rounds away."""


def numbered(count: int, size: tuple[int, int] = (64, 48)) -> list[Image]:
    """Frames whose left half has the level 10 + 4 x number and whose right half is dark."""
    frames = []
    for index in range(count):
        image = np.zeros((size[1], size[0], 3), np.uint8)
        image[:, : size[0] // 2] = 10 + LEVEL * index
        frames.append(image)
    return frames


def number_of(image: Image) -> int:
    """Which of the numbered frames a decoded picture is."""
    height, width = image.shape[:2]
    return round((float(image[height // 4 : -height // 4, width // 8 : width * 3 // 8].mean()) - 10) / LEVEL)


def write_clip(
    path: Path,
    frames: Iterable[Image],
    *,
    codec: str = "libx264",
    fps: int = 25,
    times: Sequence[int] | None = None,
    sound: str | None = None,
) -> Path:
    """`times` in units of 1/1000 s makes a variable frame rate; `sound` is the codec of a second of tone."""
    with av.open(str(path), "w") as container:
        images = list(frames)
        stream = cast(VideoStream, container.add_stream(codec, rate=fps))
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "12", "bf": "2"}
        else:
            stream.bit_rate = 4_000_000
        tone = cast(AudioStream, container.add_stream(sound, rate=48_000)) if sound is not None else None
        for index, image in enumerate(images):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = times[index] if times is not None else index
            frame.time_base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            _write_tone(container, tone)
    return path


def write_sound(path: Path) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        _write_tone(container, container.add_stream("aac", rate=48_000))
    return path


def turn_upright(path: Path) -> None:
    """Marks an mp4 as recorded sideways: its display matrix turns it a quarter clockwise, as phones write it."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and id, reserved, layer to volume
    values = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(bytes(data))


def _write_tone(container: OutputContainer, stream: AudioStream) -> None:
    samples = 1024
    for block in range(48):
        wave = [math.sin(2 * math.pi * 440 * (block * samples + i) / 48_000) * 0.2 for i in range(samples)]
        frame = AudioFrame.from_ndarray(np.array([wave], np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, block * samples
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
