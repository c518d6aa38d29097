"""Hardware decoding, with a clean way back to the processor."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)


def accelerator(stream: VideoStream, wanted: str) -> tuple[VideoCodecContext, str]:
    """(the decoder to use, its name): the asked-for device's, else the stream's own and "cpu".

    `auto` is the processor: decoding few pictures a second there costs less than moving them. Where an asked-for
    device is not to be had, one log line says so.
    """
    own = stream.codec_context
    if wanted in ("cpu", "auto"):
        return own, "cpu"
    try:
        if wanted not in hwdevices_available():
            raise ValueError(f"this build of FFmpeg knows {', '.join(hwdevices_available()) or 'none'}")
        # HWAccel raises where there is no such device, even when it is told that software will do.
        device = HWAccel(wanted, allow_software_fallback=True)
        context = cast("VideoCodecContext", av.CodecContext.create(own.codec.canonical_name, "r", hwaccel=device))
        context.extradata = own.extradata
        context.open()
    except (av.error.FFmpegError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        log.warning("the decoder %s is not available (%s): decoding on the processor", wanted, error)
        return own, "cpu"
    return context, wanted
