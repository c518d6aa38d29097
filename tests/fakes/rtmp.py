"""As much of an RTMP server as a player needs: handshake, connect, createStream, play, and a clip's FLV tags."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import av

_SET_CHUNK_SIZE, _COMMAND, _VIDEO = 1, 20, 9
_CHUNK = 1 << 20


class RtmpServer:
    """Plays the clip once, in real time, to each client."""

    def __init__(self, clip: Path) -> None:
        self._tags = list(_flv_tags(clip))
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"rtmp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/live/cam"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            hello = await reader.readexactly(1537)
            writer.write(b"\x03" + bytes(1536) + hello[1:])
            await reader.readexactly(1536)
            writer.write(_message(2, _SET_CHUNK_SIZE, struct.pack("!I", _CHUNK)))
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command, transaction in _commands(reader):
            if command == "connect":
                info = _object({"level": "status", "code": "NetConnection.Connect.Success"})
                writer.write(_message(3, _COMMAND, _string("_result") + _number(transaction) + _object({}) + info))
            elif command == "createStream":
                writer.write(_message(3, _COMMAND, _string("_result") + _number(transaction) + b"\x05" + _number(1)))
            elif command == "play":
                info = _object({"level": "status", "code": "NetStream.Play.Start"})
                writer.write(_message(3, _COMMAND, _string("onStatus") + _number(0) + b"\x05" + info, stream=1))
                await self._play(writer)
                return

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        began = asyncio.get_running_loop().time()
        for time, data in self._tags:
            await asyncio.sleep(began + time / 1000 - asyncio.get_running_loop().time())
            writer.write(_message(6, _VIDEO, data, time, stream=1))
            await writer.drain()


async def _commands(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, float]]:
    """(name, transaction) of each command message; the rest is read and passed over."""
    size, kinds, lengths, bodies = 128, dict[int, int](), dict[int, int](), dict[int, bytes]()
    while True:
        first = (await reader.readexactly(1))[0]
        form, channel = first >> 6, first & 63
        header = await reader.readexactly((11, 7, 3, 0)[form])
        if form < 2:
            lengths[channel], kinds[channel] = int.from_bytes(header[3:6], "big"), header[6]
        body = bodies.get(channel, b"")
        body += await reader.readexactly(min(size, lengths[channel] - len(body)))
        bodies[channel] = body
        if len(body) < lengths[channel]:
            continue
        bodies[channel] = b""
        if kinds[channel] == _SET_CHUNK_SIZE:
            size = int.from_bytes(body, "big")
        elif kinds[channel] == _COMMAND:
            length = int.from_bytes(body[1:3], "big")
            yield body[3 : 3 + length].decode(), struct.unpack("!d", body[4 + length : 12 + length])[0]


def _message(channel: int, kind: int, body: bytes, time: int = 0, stream: int = 0) -> bytes:
    head = bytes((channel,)) + time.to_bytes(3, "big") + len(body).to_bytes(3, "big")
    return head + bytes((kind,)) + stream.to_bytes(4, "little") + body


def _string(text: str) -> bytes:
    return b"\x02" + len(text).to_bytes(2, "big") + text.encode()


def _number(value: float) -> bytes:
    return b"\x00" + struct.pack("!d", value)


def _object(fields: dict[str, str]) -> bytes:
    pairs = b"".join(len(key).to_bytes(2, "big") + key.encode() + _string(value) for key, value in fields.items())
    return b"\x03" + pairs + b"\x00\x00\x09"


def _flv_tags(clip: Path) -> Iterator[tuple[int, bytes]]:
    """(milliseconds, body) of each video tag."""
    buffer = io.BytesIO()
    with av.open(str(clip)) as source, av.open(buffer, "w", format="flv") as output:
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template, opaque=True)
        for packet in source.demux(template):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    data, at = buffer.getvalue(), 13
    while at + 11 <= len(data):
        kind, size = data[at], int.from_bytes(data[at + 1 : at + 4], "big")
        time = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        if kind == _VIDEO:
            yield time, data[at + 11 : at + 11 + size]
        at += 11 + size + 4
