"""Real H.264: a face in a short moving shot, or a whole video, goes through x264 and comes out as viewers see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from streamwatch.domain import Image

if TYPE_CHECKING:
    from streamwatch.training.streamlook import Shot

RATE = 25
GROUP = 50


def through_h264(image: Image, shot: Shot) -> Image:
    """The picture after `shot`: same size, uint8 RGB. The last frame is at rest, so that nothing is displaced."""
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    encoder, decoder = _codecs(even.shape[1], even.shape[0], {"crf": str(shot.crf), "preset": shot.preset})
    shown: av.VideoFrame | None = None
    for index in range(shot.frames):
        away = shot.frames - 1 - index
        shift = np.array([(1, 0, away * shot.motion[0]), (0, 1, away * shot.motion[1])])
        moved = (
            even
            if away == 0
            else cv2.warpAffine(even, shift, (even.shape[1], even.shape[0]), borderMode=cv2.BORDER_REPLICATE)
        )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24")
        frame.pts = index
        for packet in encoder.encode(frame):
            shown = next(iter(decoder.decode(packet)[-1:]), shown)
    for packet in encoder.encode(None):
        shown = next(iter(decoder.decode(packet)[-1:]), shown)
    shown = next(iter(decoder.decode(None)[-1:]), shown)
    if shown is None:
        raise RuntimeError(f"x264 gave back no picture for {shot}")
    return np.asarray(shown.to_ndarray(format="rgb24"), np.uint8)[:height, :width]


def recoded(frames: Iterable[tuple[float, av.VideoFrame]], crf: int) -> Iterator[tuple[float, av.VideoFrame]]:
    """A video's times and frames as a live camera would send them: x264 at the constant rate factor `crf` without

    pictures that wait for later ones, a key picture every 50. All are scaled to the first one's size, made even."""
    times: list[float] = []
    codecs: tuple[av.VideoCodecContext, av.VideoCodecContext] | None = None
    for time, frame in frames:
        if codecs is None:
            options = {"crf": str(crf), "preset": "veryfast", "g": str(GROUP)}
            codecs = _codecs(frame.width // 2 * 2, frame.height // 2 * 2, options)
        encoder, decoder = codecs
        even = frame.reformat(encoder.width, encoder.height, format="yuv420p")
        even.pts, even.time_base = len(times), encoder.time_base
        times.append(time)
        for packet in encoder.encode(even):
            yield from _timed(decoder.decode(packet), times)
    if codecs is None:
        return
    encoder, decoder = codecs
    for packet in encoder.encode(None):
        yield from _timed(decoder.decode(packet), times)
    yield from _timed(decoder.decode(None), times)


def _timed(shown: list[av.VideoFrame], times: list[float]) -> Iterator[tuple[float, av.VideoFrame]]:
    for frame in shown:
        if frame.pts is not None:
            yield times[frame.pts], frame


def _codecs(width: int, height: int, options: dict[str, str]) -> tuple[av.VideoCodecContext, av.VideoCodecContext]:
    encoder, decoder = av.CodecContext.create("libx264", "w"), av.CodecContext.create("h264", "r")
    if not isinstance(encoder, av.VideoCodecContext) or not isinstance(decoder, av.VideoCodecContext):
        raise RuntimeError("there is no encoder libx264 or no decoder h264 here")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, RATE)
    encoder.options = {**options, "tune": "zerolatency"}
    encoder.thread_count = decoder.thread_count = 1
    return encoder, decoder
