"""The RTSP side (RFC 2326): methods, authentication, sessions, and the clock that paces the clip."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import random
import re
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit

from streamwatch.camera.media import (
    SOUND_SECONDS,
    Clip,
    Packetizer,
    Unit,
    looped,
    read_clip,
    sdp,
    sender_report,
    shifted,
    silence,
)
from streamwatch.camera.session import Faults, Session

_REALM = "camera"
_NONCE = "5f3759df"
_REPORT_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str
    password: str
    scheme: Literal["basic", "digest"] = "digest"


@dataclass(slots=True)
class _Request:
    method: str
    uri: str
    headers: dict[str, str] = field(default_factory=dict)


class Camera:
    """Serves `clips` (one codec; sizes may differ) as `rtsp://host:port/path`.

    `port` 0 takes a free one, which a restart keeps. With `sound` there is a second track, silent and never stalled.

    May be changed while it runs: `path`, `credentials`, `faults`, `silent` (accepts and answers nothing), `transports`,
    `clock_offset` (seconds by which its wall clock is wrong), `reports` (whether it sends RTCP), `burst` (seconds of
    the past that each new client gets at once, as some servers do to show a picture sooner).
    """

    def __init__(
        self,
        clips: Sequence[Path],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str = "/cam",
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        sound: bool = False,
    ) -> None:
        self.host, self.port, self.path, self.credentials = host, port, path, credentials
        self.transports: set[str] = {"tcp", "udp"}
        self.faults = Faults()
        self.silent = False
        self.reports = True
        self.clock_offset = 0.0
        self.burst = 0.0
        self._past: deque[tuple[float, list[bytes]]] = deque(maxlen=1000)
        self.connections = 0
        self._tls = tls
        self._sound = sound
        self._jump = 0.0
        self._stall_in_frame = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._sessions: dict[asyncio.StreamWriter, Session] = {}
        self._chance = random.Random(1)
        self._server: asyncio.Server | None = None
        self._feeding: list[asyncio.Task[None]] = []
        self._udp: tuple[asyncio.DatagramTransport, asyncio.DatagramTransport] | None = None
        self._load(clips)

    @property
    def url(self) -> str:
        """With the credentials in it."""
        who = self.credentials
        user = f"{quote(who.user, safe='')}:{quote(who.password, safe='')}@" if who else ""
        return f"rtsp{'s' if self._tls else ''}://{user}{self.host}:{self.port}{self.path}"

    @property
    def heard(self) -> int:
        """Clients that play its sound."""
        return sum(session.playing and session.sound is not None for session in self._sessions.values())

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._client, self.host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        rtp, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(self.host, 0))
        rtcp, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(self.host, 0))
        self._udp = (rtp, rtcp)
        self._feeding = [asyncio.create_task(self._feed(), name="camera feed")]
        if self._sound:
            self._feeding.append(asyncio.create_task(self._hum(), name="camera sound"))

    async def stop(self) -> None:
        """As if the power went; `start` brings it back on the same port."""
        if self._server is not None:
            self._server.close()
        self.drop()
        for task in self._feeding:
            task.cancel()
        ended = await asyncio.gather(*self._feeding, return_exceptions=True)
        for endpoint in self._udp or ():
            endpoint.close()
        self._feeding = []
        self._server = self._udp = None
        for fault in ended:
            if isinstance(fault, Exception):  # not the cancellation
                raise fault

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._packetizer.close()

    def stall(self, *, in_frame: bool = False) -> None:
        """Sends nothing more, connections stay open; with `in_frame` it stops between two packets of one picture."""
        self._stall_in_frame = in_frame
        self._flowing.clear()

    def resume(self) -> None:
        """Goes on where it stalled."""
        self._flowing.set()

    def drop(self) -> None:
        """Closes all connections."""
        for writer in list(self._sessions):
            writer.close()

    def jump(self, seconds: float) -> None:
        """Shifts all following timestamps (not the wall clock of the reports)."""
        self._jump += seconds

    def switch(self, clips: Sequence[Path]) -> None:
        """Serves other clips from now on; as a camera that was set to another codec does, it drops its clients."""
        self._packetizer.close()
        self._load(clips)
        self.drop()

    def _load(self, clips: Sequence[Path]) -> None:
        self._clips: list[Clip] = [read_clip(path) for path in clips]
        if len({clip.codec for clip in self._clips}) != 1:
            raise ValueError("the clips of a camera must share one codec")
        self._packetizer = Packetizer(clips[0], self._clips[0].codec)
        self._position = looped(self._clips)
        self._restart = True

    # --- the feed ---------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        start, reported, sent, octets = loop.time(), float("-inf"), 0, 0
        self._restart = True
        while True:
            unit = next(self._position)
            if self._restart:
                start, self._restart = loop.time() - unit.dts, False
            await asyncio.sleep(start + unit.dts - loop.time())
            if self._restart:
                continue  # other clips were loaded while this one's unit waited
            stalled = loop.time()
            if not self._stall_in_frame:
                await self._flowing.wait()
            packets = [shifted(packet, self._jump) for packet in self._packetizer.pack(unit)]
            if self.reports and packets and loop.time() - reported >= _REPORT_EVERY:
                reported = loop.time()
                self._report(packets[0], start, unit, (sent, octets))
            await self._send(packets)
            start += loop.time() - stalled if loop.time() - stalled > 0.1 else 0.0
            sent, octets = sent + len(packets), octets + sum(map(len, packets))

    async def _hum(self) -> None:
        for number in itertools.count():
            for session in self._sessions.values():
                if session.playing:
                    session.hear(silence(number))
            await asyncio.sleep(SOUND_SECONDS)

    def _greet(self, now: float) -> None:
        """Gives who has just begun to play what he missed."""
        for session in self._sessions.values():
            if session.playing and not session.greeted:
                session.greeted = True
                for packet in [p for at, packets in self._past if now - at <= self.burst for p in packets]:
                    session.send(packet)

    async def _send(self, packets: list[bytes]) -> None:
        now = asyncio.get_running_loop().time()
        if self.burst:
            self._greet(now)
            self._past.append((now, packets))
        for index, packet in enumerate(packets):
            if index >= len(packets) // 2 and self._stall_in_frame:
                await self._flowing.wait()
            for session in self._sessions.values():
                if session.playing:
                    session.send(packet)

    def _report(self, packet: bytes, start: float, unit: Unit, counts: tuple[int, int]) -> None:
        """The picture was captured when it was due, which is a little before it is sent."""
        late = asyncio.get_running_loop().time() - (start + unit.dts)
        wall = time.time() - late + self.clock_offset
        report = sender_report(int.from_bytes(packet[4:8], "big"), wall, *counts)
        for session in self._sessions.values():
            if session.playing:
                session.report(report)

    # --- RTSP -------------------------------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._sessions[writer] = Session(writer, self.faults, self._chance)
        try:
            while (request := await _read_request(reader)) is not None:
                if not self.silent:
                    writer.write(self._answer(request, self._sessions[writer]))
                    await writer.drain()
                if request.method == "TEARDOWN":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, ssl.SSLError):
            pass  # the client went, or spoke nonsense: either way it is gone
        finally:
            self._sessions.pop(writer, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, request: _Request, session: Session) -> bytes:
        cseq = request.headers.get("cseq", "0")
        if request.method == "OPTIONS":
            return _response(cseq, "200 OK", {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"})
        if self.credentials is not None and not _authorized(request, self.credentials):
            return _response(cseq, "401 Unauthorized", {"WWW-Authenticate": _challenge(self.credentials)})
        path = urlsplit(request.uri).path.rstrip("/")
        sound = self._sound and path.endswith("/track1")
        if path.removesuffix("/track1" if sound else "/track0") != self.path.rstrip("/"):
            return _response(cseq, "404 Not Found")
        if request.method == "DESCRIBE":
            base = {"Content-Base": request.uri.rstrip("/") + "/", "Content-Type": "application/sdp"}
            described = sdp(self._clips[0], self._packetizer.payload_type, sound=self._sound)
            return _response(cseq, "200 OK", base, described)
        if request.method == "SETUP":
            return self._setup(cseq, request.headers.get("transport", ""), session, sound=sound)
        if request.method == "PLAY":
            session.playing = True
            return _response(cseq, "200 OK", {"Session": "1;timeout=60", "Range": "npt=now-"})
        if request.method in ("GET_PARAMETER", "TEARDOWN"):
            session.playing = session.playing and request.method != "TEARDOWN"
            return _response(cseq, "200 OK", {"Session": "1"})
        return _response(cseq, "501 Not Implemented")

    def _setup(self, cseq: str, transport: str, session: Session, *, sound: bool) -> bytes:
        kind = "tcp" if "RTP/AVP/TCP" in transport else "udp"
        ports = re.search(r"(?:interleaved|client_port)=(\d+)-(\d+)", transport)
        if kind not in self.transports or ports is None or self._udp is None:
            return _response(cseq, "461 Unsupported Transport")
        if sound:
            session.sound = int(ports[1])
        else:
            session.rtp, session.rtcp = int(ports[1]), int(ports[2])
        session.udp = self._udp if kind == "udp" else None
        chosen = transport.split(",", maxsplit=1)[0]
        if kind == "udp":
            mine = [endpoint.get_extra_info("sockname")[1] for endpoint in self._udp]
            chosen += f";server_port={mine[0]}-{mine[1]}"
        return _response(cseq, "200 OK", {"Session": "1;timeout=60", "Transport": chosen})


async def _read_request(reader: asyncio.StreamReader) -> _Request | None:
    """The next request; RTCP that the client sends in between is passed over. None at the end."""
    while True:
        first = await reader.read(1)
        if not first:
            return None
        if first == b"$":
            head = await reader.readexactly(3)
            await reader.readexactly(int.from_bytes(head[1:], "big"))
            continue
        text = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = text.strip().split("\r\n")
        method, uri, _ = start.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        await reader.readexactly(int(headers.get("content-length", "0")))
        return _Request(method, uri, headers)


def _response(cseq: str, status: str, headers: dict[str, str] | None = None, body: str = "") -> bytes:
    fields = {"CSeq": cseq, **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    return "\r\n".join([f"RTSP/1.0 {status}", *(f"{k}: {v}" for k, v in fields.items()), "", body]).encode()


def _challenge(who: Credentials) -> str:
    return f'Basic realm="{_REALM}"' if who.scheme == "basic" else f'Digest realm="{_REALM}", nonce="{_NONCE}"'


def _authorized(request: _Request, who: Credentials) -> bool:
    """Basic (RFC 7617), or digest without qop (RFC 2069), which is what cameras speak."""
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    if who.scheme == "basic":
        return scheme == "Basic" and rest == base64.b64encode(f"{who.user}:{who.password}".encode()).decode()
    given = dict(re.findall(r'(\w+)="?([^",]*)"?', rest))
    ours = _md5(f"{who.user}:{_REALM}:{who.password}")
    theirs = _md5(f"{request.method}:{given.get('uri', '')}")
    return scheme == "Digest" and given.get("response") == _md5(f"{ours}:{_NONCE}:{theirs}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
