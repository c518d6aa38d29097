"""A real WebRTC publisher (aiortc) and a small WHEP server for the tests."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any, Self

import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from av.video.frame import VideoFrame


class Pattern(VideoStreamTrack):  # type: ignore[misc]
    """A bar that moves; its size may change while it runs."""

    def __init__(self, size: tuple[int, int] = (320, 240)) -> None:
        super().__init__()
        self.size = size

    async def recv(self) -> VideoFrame:
        pts, time_base = await self.next_timestamp()
        width, height = self.size
        image = np.full((height, width, 3), 64, np.uint8)
        x = (pts // 3000 * 8) % width
        image[:, x : x + 16] = 220
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Publisher:
    """`async with Publisher() as p: await p.answered((await gateway.publish(name, p.offer))[1])`"""

    def __init__(self, codec: str | None = None, *, audio: bool = False) -> None:
        self.track = Pattern()
        self.connection: Any = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        sender = self.connection.addTrack(self.track)
        if audio:
            from aiortc.mediastreams import AudioStreamTrack

            self.connection.addTrack(AudioStreamTrack())
        if codec is not None:
            transceiver = next(t for t in self.connection.getTransceivers() if t.sender is sender)
            codecs = type(sender).getCapabilities("video").codecs
            transceiver.setCodecPreferences([c for c in codecs if c.name == codec])

    @property
    def offer(self) -> str:
        return str(self.connection.localDescription.sdp)

    async def __aenter__(self) -> Self:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def answered(self, sdp: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="answer"))

    async def vanish(self) -> None:
        """Stops sending without a word, as when the network goes: no DELETE, no goodbye."""
        for transport in {t.sender.transport.transport for t in self.connection.getTransceivers()}:
            for protocol in transport._connection._protocols:
                protocol.transport.abort()


def without_candidates(sdp: str) -> tuple[str, list[str]]:
    """(the SDP without its candidates, the candidate lines), to trickle them."""
    lines = sdp.splitlines()
    found = [line for line in lines if line.startswith("a=candidate")]
    left = [line for line in lines if not line.startswith(("a=candidate", "a=end-of-candidates"))]
    return "\r\n".join([*left, ""]), found


class WhepServer:
    """Answers one POST with a session that sends the pattern; a status other than 201 refuses."""

    def __init__(
        self,
        status: int = 201,
        location: str = "/live/1",
        tls: ssl.SSLContext | None = None,
        *,
        deaf_to_goodbyes: bool = False,
    ) -> None:
        self._deaf = deaf_to_goodbyes
        self.status = status
        self._tls = tls
        self._location = location
        self.authorization: str | None = None
        self.hosts: set[str] = set()
        self.deleted = False
        self._publishers: list[Publisher] = []

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"whep+{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/live"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._deaf = False
        self._server.close()
        await self.drop()

    async def drop(self) -> None:
        for publisher in self._publishers:
            await publisher.connection.close()
        self._publishers.clear()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = (await reader.readexactly(int(length[1]))).decode() if length else ""
        sent = re.search(r"authorization: (.+)\r", head, re.IGNORECASE)
        self.authorization = sent[1] if sent else None
        self.hosts |= set(re.findall(r"\r\nhost: (.*?)\r", head, re.IGNORECASE))
        answer = ""
        if head.startswith("DELETE"):
            self.deleted = True
            while self._deaf:
                await asyncio.sleep(0.1)
        elif self.status == 201:
            answer = await self._answer(body)
        lines = [
            f"HTTP/1.1 {self.status} Status",
            f"Location: {self._location}",
            f"Content-Length: {len(answer)}",
            "Connection: close",
        ]
        writer.write("\r\n".join([*lines, "", answer]).encode())
        await writer.drain()

    async def _answer(self, offer: str) -> str:
        publisher = Publisher()
        self._publishers.append(publisher)
        connection = publisher.connection
        await connection.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        return str(connection.localDescription.sdp)
