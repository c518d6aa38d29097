"""How hard H.264 was compressed, as its decoder tells: the mean quantiser of a picture.

The quantiser (QP of ITU-T H.264, 7.4.3 and 8.5.9) is 0 to 51; the step of what is kept of the picture doubles every 6.
x264's constant rate factor gives about its own number. FFmpeg tells it of H.264 that it decodes on the processor; of
other codecs, of hardware decoders and of WebRTC, whose pictures aiortc decodes, nothing is known. Who compressed a
picture before, and harder, is not seen either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from av.sidedata.encparams import VideoEncParams, VideoEncParamsType
from av.sidedata.sidedata import Type

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

_DELTA = 4
"""FFmpeg's AVVideoBlockParams is int32 src_x, src_y, w, h, delta_qp, and what later versions add."""


def ask_quantiser(decoder: VideoCodecContext) -> None:
    """Before the decoder is opened: its pictures will bring their quantisers."""
    decoder.options = {**decoder.options, "export_side_data": "venc_params"}


def quantiser(frame: VideoFrame) -> float | None:
    """Mean over the macroblocks, 0 to 51; None where the decoder did not tell."""
    told = cast(Any, frame.side_data).get(Type.VIDEO_ENC_PARAMS)
    if not isinstance(told, VideoEncParams) or told.codec_type != VideoEncParamsType.H264:
        return None
    base = float(told.qp)
    if not told.nb_blocks:
        return base
    # Not `qp_map`: block by block it takes many times as long, and it refuses a picture coded in fields.
    words = told.block_size // 4
    blocks = np.frombuffer(cast(Any, told), np.int32, told.nb_blocks * words, told.blocks_offset)
    return base + float(blocks[_DELTA::words].mean())
