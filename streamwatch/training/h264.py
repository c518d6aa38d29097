"""Real H.264: a face goes through x264 in a short moving shot, and comes out as a viewer would see it."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from streamwatch.domain import Image

if TYPE_CHECKING:
    from streamwatch.training.streamlook import Shot

RATE = 25


def through_h264(image: Image, shot: Shot) -> Image:
    """The picture after `shot`: same size, uint8 RGB. The last frame is at rest, so that nothing is displaced."""
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    encoder = av.CodecContext.create("libx264", "w")
    if not isinstance(encoder, av.VideoCodecContext):
        raise RuntimeError("libx264 is not a video encoder here")
    encoder.width, encoder.height = even.shape[1], even.shape[0]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, RATE)
    encoder.thread_count = 1
    encoder.options = {"crf": str(shot.crf), "preset": shot.preset, "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    if not isinstance(decoder, av.VideoCodecContext):
        raise RuntimeError("h264 is not a video decoder here")
    decoder.thread_count = 1
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
