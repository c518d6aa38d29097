from __future__ import annotations

import av
import pytest

from streamwatch.ingest.hardware import accelerator
from tests.fakes.patterns import clip


def test_a_device_that_is_not_there_is_named_once_for_each_source(caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(clip())) as container:
        stream = container.streams.video[0]
        for display in ("rtsp://a/x", "rtsp://b/x", "rtsp://a/x", "rtsp://a/x"):
            assert accelerator(stream, "nonsense", display) == (stream.codec_context, "cpu")
        accelerator(stream, "rubbish", "rtsp://a/x")
    assert [message.partition(" is not")[0] for message in caplog.messages] == [
        "rtsp://a/x: the decoder nonsense",
        "rtsp://b/x: the decoder nonsense",
        "rtsp://a/x: the decoder rubbish",
    ]
