"""Pictures for people: JPEG of analysed frames, coloured heat maps. Made only when someone asks, in a thread."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from streamwatch.domain import FaceScore, Floats, Frame, FrameScores, Image
from streamwatch.server.hub import Hub
from streamwatch.server.messages import iso
from streamwatch.server.wire import VERSION, PictureHeader

SIZES = {"small": 320, "large": 960}
"""name -> width of a thumbnail"""
SHARE = 0.25
_QUALITY = 75


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image and what it shows. `size` is its own (width, height)."""

    data: bytes
    size: tuple[int, int]
    face: FaceScore | None = None


def jpeg(frame: Frame, width: int | None = None) -> Picture:
    """The frame as JPEG, made narrower when it is wider than `width`."""
    image = host_image(frame.image)
    height, full_width = image.shape[:2]
    if width is not None and width < full_width:
        size = (width, max(1, round(height * width / full_width)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not ok:
        raise ValueError("the frame cannot be written as JPEG")
    return Picture(data.tobytes(), (int(image.shape[1]), int(image.shape[0])))


def host_image(image: Any) -> Image:
    """A frame's pixels in host memory, wherever they lie."""
    return np.asarray(image if isinstance(image, np.ndarray) else np.from_dlpack(image, device="cpu"), dtype=np.uint8)


def worst_face(scores: FrameScores) -> FaceScore | None:
    """The face with the greatest logit of those that have a heat map."""
    return max((face for face in scores.faces if face.heat is not None), key=lambda face: face.logit, default=None)


def heat_png(heat: Floats) -> bytes:
    """An RGBA PNG of the map's own size: yellow to red, opacity rising with the value, nothing below a quarter."""
    value = np.clip(np.nan_to_num(np.asarray(heat, dtype=np.float32)), 0.0, 1.0)
    alpha = np.clip((value - 0.25) / 0.75, 0.0, 1.0) * 200
    red = np.full_like(value, 255)
    green = 225 * (1.0 - value)
    blue = np.full_like(value, 30)
    ok, data = cv2.imencode(".png", np.stack([blue, green, red, alpha], axis=-1).astype(np.uint8))
    if not ok:
        raise ValueError("the heat map cannot be written as PNG")
    return bytes(data.tobytes())


def heat_picture(scores: FrameScores) -> Picture | None:
    face = worst_face(scores)
    if face is None or face.heat is None:
        return None
    return Picture(heat_png(face.heat), (int(face.heat.shape[1]), int(face.heat.shape[0])), face)


def binary_message(epoch: str, kind: str, frame: Frame, picture: Picture) -> bytes:
    """The websocket's binary form: length of the header, the header, the image."""
    face = picture.face
    header: PictureHeader = {
        "v": VERSION,
        "epoch": epoch,
        "type": "heat" if kind == "heat" else "thumbnail",
        "stream": frame.stream,
        "captured_at": iso(frame.captured_at.wall),
        "frame": list(frame.size),
        "size": list(picture.size),
        "box": [round(float(side), 1) for side in face.face.box] if face else None,
        "track": face.face.track if face else None,
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack(">I", len(head)) + head + picture.data


class PicturePump:
    """Encodes the newest pictures of the streams that clients look at, one after the other; a stream that gets a new
    picture while it waits keeps its turn and shows the new one. It takes at most SHARE of one core from the detection:
    with many streams, pictures come less often."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        hub.on_picture = self.due

    def due(self, stream: str) -> None:
        self._due[stream] = None
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while self._due:
                stream = next(iter(self._due))
                del self._due[stream]
                begun = time.perf_counter()
                await self._show(stream)
                await asyncio.sleep((time.perf_counter() - begun) * (1 / SHARE - 1))
            self._wake.clear()
            await self._wake.wait()

    async def _show(self, stream: str) -> None:
        scores = self._hub.picture(stream)
        kinds = self._hub.picture_kinds(stream)
        if scores is None or not kinds:
            return
        for kind, payload in await asyncio.to_thread(_encode, self._hub.epoch, scores, kinds):
            self._hub.deliver_picture(stream, kind, payload)


def _encode(epoch: str, scores: FrameScores, kinds: set[str]) -> list[tuple[str, bytes]]:
    made = []
    for kind in sorted(kinds):
        picture = heat_picture(scores) if kind == "heat" else jpeg(scores.frame, SIZES[kind])
        if picture is not None:
            made.append((kind, binary_message(epoch, kind, scores.frame, picture)))
    return made
