"""Hardware decoding, with a clean way back to the processor."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)


def accelerator(stream: VideoStream, wanted: str, display: str = "") -> tuple[VideoCodecContext, str]:
    """(the decoder to use, its name): the asked-for device's, else the stream's own and "cpu".

    `auto` is the processor: decoding few pictures a second there costs less than moving them. Where an asked-for
    device is not to be had, a log line says so, once for each source (`display`), decoder and reason: it is asked for
    again at each attempt, and in each loop of a file.
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
        _say(display, wanted, str(error))
        return own, "cpu"
    return context, wanted


@lru_cache(maxsize=1024)
def _say(display: str, wanted: str, why: str) -> None:
    """Once in a process: the cache is the memory of what was said."""
    source = f"{display}: " if display else ""
    log.warning("%sthe decoder %s is not available (%s): decoding on the processor", source, wanted, why)
