"""Hardware decoding, with a clean way back to the processor."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)


def accelerator(stream: VideoStream, wanted: str) -> tuple[VideoCodecContext | None, str]:
    """(a decoder on the device, its name), or (None, "cpu") for the stream's own decoder.

    Where an asked-for device is not to be had, one log line says so.
    """
    if wanted in ("cpu", "auto"):
        return None, "cpu"
    try:
        if wanted not in hwdevices_available():
            raise NotImplementedError(f"this build of FFmpeg knows only {', '.join(hwdevices_available()) or 'none'}")
        device = HWAccel(wanted, allow_software_fallback=True)
        context = av.CodecContext.create(stream.codec_context.name, "r", hwaccel=device)
        context.extradata = stream.codec_context.extradata
    except (av.error.FFmpegError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        log.warning("decoder %s is not available (%s): decoding on the processor", wanted, error)
        return None, "cpu"
    return context, wanted  # type: ignore[return-value]
