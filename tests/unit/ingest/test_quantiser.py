"""What FFmpeg's decoder tells of real H.264 that x264 made with a quantiser that is known."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from skimage import data

from streamwatch.ingest.quantiser import ask_quantiser, quantiser
from tests.fakes.patterns import clip

FLAT = "ipratio=1:pbratio=1:aq-mode=0"
"""The same quantiser for all kinds of pictures and all parts of each."""


def encoded(parameters: str, pixels: str = "yuv420p") -> io.BytesIO:
    """Twelve pictures of a portrait that moves."""
    target, portrait = io.BytesIO(), np.asarray(data.astronaut(), np.uint8)
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"x264-params": parameters})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 328, 248, pixels, Fraction(1, 25)
        for shift in range(12):
            picture = np.ascontiguousarray(portrait[shift : shift + 248, 2 * shift : 2 * shift + 328])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    target.seek(0)
    return target


def told(source: str | io.BytesIO) -> list[float | None]:
    with av.open(source, "r") as container:
        ask_quantiser(container.streams.video[0].codec_context)
        return [quantiser(frame) for frame in container.decode(video=0)]


@pytest.mark.parametrize("qp", [12, 23, 38])
def test_a_constant_quantiser_is_told_as_it_is(qp: int) -> None:
    assert told(encoded(f"qp={qp}:{FLAT}")) == [qp] * 12


def test_it_is_the_mean_over_the_blocks() -> None:
    """Adaptive quantisation gives each block its own."""
    source = encoded("crf=28:aq-mode=1")
    with av.open(source, "r") as container:
        ask_quantiser(container.streams.video[0].codec_context)
        for frame in container.decode(video=0):
            blocks = cast(Any, frame.side_data).get(Type.VIDEO_ENC_PARAMS).qp_map()
            assert len(np.unique(blocks)) > 1
            assert quantiser(frame) == pytest.approx(float(blocks.mean()))


def test_pictures_coded_in_fields_are_told_as_well() -> None:
    assert told(encoded(f"qp=30:interlaced=1:{FLAT}")) == [30] * 12


def test_ten_bits_a_sample_are_told_on_the_same_scale() -> None:
    assert told(encoded(f"qp=30:{FLAT}", "yuv420p10le")) == [30] * 12


def test_it_rises_with_the_rate_factor() -> None:
    means = [float(np.mean([q for q in told(encoded(f"crf={crf}")) if q is not None])) for crf in (18, 28, 38)]
    assert means[0] + 6 < means[1] < means[2] - 6


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "libvpx", "libsvtav1", "mjpeg"])
def test_of_other_codecs_nothing_is_known(codec: str) -> None:
    pictures = told(str(clip(codec)))
    assert pictures and set(pictures) == {None}


def test_a_decoder_that_was_not_asked_tells_nothing() -> None:
    with av.open(encoded("crf=28"), "r") as container:
        assert {quantiser(frame) for frame in container.decode(video=0)} == {None}
