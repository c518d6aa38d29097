"""A real HTTP server for the tests: files, growing HLS playlists, MJPEG, and the ways in which servers fail."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Self

from tests.fakes.patterns import jpegs

_BYTES = "application/octet-stream"
_ERRORS = {"/401": "401 Unauthorized", "/403": "403 Forbidden", "/404": "404 Not Found", "/500": "500 Server Error"}


class WebServer:
    """Serves a directory under /, and what never ends or never works:

    `/live.m3u8` shows a window of `index.m3u8` that grows by one segment a second until it is frozen;
    `/mjpeg` (25 a second) and `/mjpeg-FPS` never end; `/paced-SECONDS/FILE` broadcasts a file, spread evenly over so
    long, again and again: who comes later joins in; `/401`, `/403`, `/404`, `/500` answer that; `/hang` accepts and
    says nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._began = time.monotonic()
        self._frozen: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[str] = []
        self.hosts: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """The playlist stops growing."""
        self._frozen = time.monotonic()

    def thaw(self) -> None:
        """It goes on where it stopped."""
        assert self._frozen is not None
        self._began += time.monotonic() - self._frozen
        self._frozen = None

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode().partition("?")[0]
            self.requests.append(path)
            self.hosts |= {found.decode() for found in re.findall(rb"\r\nHost: (.*?)\r", head, re.IGNORECASE)}
            wanted = re.search(rb"\r\nRange: bytes=(\d+)-", head, re.IGNORECASE)
            await self._respond(path, int(wanted[1]) if wanted else None, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _respond(self, path: str, start: int | None, writer: asyncio.StreamWriter) -> None:
        if path in _ERRORS:
            _answer(writer, _ERRORS[path], b"")
        elif path == "/elsewhere":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /clip.mp4\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif path == "/hang":
            await asyncio.sleep(3600)
        elif motion := re.fullmatch(r"/mjpeg(?:-(\d+))?", path):
            await self._mjpeg(writer, float(motion[1] or 25))
        elif paced := re.fullmatch(r"/paced-(\d+)/(.+)", path):
            await self._paced(writer, self._directory / paced[2], float(paced[1]))
        elif path == "/live.m3u8":
            _answer(writer, "200 OK", self._window().encode(), "application/vnd.apple.mpegurl")
        elif (self._directory / path[1:]).is_file():
            _file(writer, (self._directory / path[1:]).read_bytes(), start)
        else:
            _answer(writer, "404 Not Found", b"")

    async def _paced(self, writer: asyncio.StreamWriter, path: Path, seconds: float) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n")
        data = path.read_bytes()
        at = int((time.monotonic() - self._began) / seconds % 1 * len(data))
        while True:
            now = int((time.monotonic() - self._began) / seconds % 1 * len(data))
            writer.write(data[at:now] if at <= now else data[at:] + data[:now])
            await writer.drain()
            at = now
            await asyncio.sleep(0.02)

    async def _mjpeg(self, writer: asyncio.StreamWriter, fps: float) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        due = time.monotonic()
        while True:
            for picture in jpegs():
                writer.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture))
                writer.write(picture + b"\r\n")
                await writer.drain()
                due += 1 / fps
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _window(self) -> str:
        """Three segments, the newest by the time that has passed; the recording is repeated for ever."""
        lines = (self._directory / "index.m3u8").read_text().splitlines()
        segments = [line for line in lines if line and not line.startswith("#")]
        newest = int((self._frozen or time.monotonic()) - self._began) + 3
        head = [
            line
            for line in lines
            if line.startswith(("#EXTM3U", "#EXT-X-VERSION", "#EXT-X-TARGETDURATION", "#EXT-X-MAP"))
        ]
        body = [f"#EXT-X-MEDIA-SEQUENCE:{newest - 3}"]
        for number in range(newest - 3, newest):
            if number and number % len(segments) == 0:
                body.append("#EXT-X-DISCONTINUITY")
            body += ["#EXTINF:1.0,", segments[number % len(segments)]]
        return "\n".join([*head, *body, ""])


def _file(writer: asyncio.StreamWriter, data: bytes, start: int | None) -> None:
    """With ranges, without which a player cannot read an MP4 whose index stands at its end."""
    if start is None:
        _answer(writer, "200 OK", data, more="Accept-Ranges: bytes\r\n")
    else:
        ranged = f"Accept-Ranges: bytes\r\nContent-Range: bytes {start}-{len(data) - 1}/{len(data)}\r\n"
        _answer(writer, "206 Partial Content", data[start:], more=ranged)


def _answer(
    writer: asyncio.StreamWriter, status: str, body: bytes, kind: str = "application/octet-stream", more: str = ""
) -> None:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    )
    writer.write(head.encode() + body)
