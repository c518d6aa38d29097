"""Pictures: encoded only for those who look, fairly, and from wherever the pixels lie."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from streamwatch.domain import FrameScores, StreamState, StreamStatus
from streamwatch.server import pictures
from streamwatch.server.hub import Hub
from streamwatch.server.pictures import PicturePump, heat_picture, heat_png, jpeg, worst_face
from streamwatch.server.sessions import Subscription
from tests.fakes.control import frame_scores, instant, stream_score


def test_the_pixels_may_lie_in_a_tensor() -> None:
    frame = frame_scores("lobby", 3).frame
    tensor = replace(frame, image=torch.from_numpy(frame.image.copy()))  # type: ignore[arg-type]
    assert jpeg(tensor, None).data == jpeg(frame, None).data


@pytest.mark.parametrize(("width", "expected"), [(None, (320, 240)), (100, (100, 75)), (9999, (320, 240))])
def test_pictures_keep_their_shape_and_are_never_blown_up(width: int | None, expected: tuple[int, int]) -> None:
    assert jpeg(frame_scores("lobby", 1).frame, width).size == expected


def test_the_heat_map_is_of_the_worst_face_and_shows_only_what_was_found() -> None:
    scores = frame_scores("lobby", 1, value=1.0)
    worse = replace(scores.faces[0], logit=3.0, heat=np.zeros((4, 4), np.float32))
    without = replace(scores.faces[0], logit=9.0, heat=None)
    both = replace(scores, faces=(scores.faces[0], worse, without))
    assert worst_face(both) is worse
    assert heat_picture(replace(scores, faces=(without,))) is None
    values = np.array([[0.0, 0.25], [1.0, np.nan]], np.float32)
    image = cv2.imdecode(np.frombuffer(heat_png(values), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image[..., 3].tolist() == [[0, 0], [200, 0]]


async def test_the_pump_shows_each_stream_its_newest_picture_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    pump = PicturePump(hub)
    shown: list[tuple[str, int]] = []
    encode = pictures._encode

    def noting(epoch: str, scores: FrameScores, kinds: set[str]) -> list[tuple[str, bytes]]:
        shown.append((scores.frame.stream, scores.frame.seq))
        return encode(epoch, scores, kinds)

    monkeypatch.setattr(pictures, "_encode", noting)
    client = hub.connect(Subscription(thumbnails="small"))
    for stream in ("a", "b"):
        hub.status(StreamStatus(stream, StreamState.LIVE, instant()), None)
    for seq in (1, 2, 3):
        for stream in ("a", "b"):
            hub.score(stream_score(stream, seq), frame_scores(stream, seq))
    task = asyncio.create_task(pump.run())
    received: list[bytes] = []
    async with asyncio.timeout(10):
        while len(received) < 2:
            received += [item for item in await client.take() if isinstance(item, bytes)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert shown == [("a", 3), ("b", 3)]
