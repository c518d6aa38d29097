"""WebRTC ingest (WHIP, RFC 9725): publishers connect here, `whip:` streams wait here for them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiortc import RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from streamwatch.errors import ConfigError, NotFound, Overloaded
from streamwatch.ingest.decode import Limits
from streamwatch.ingest.sampling import Sampler
from streamwatch.ingest.track import TrackReader, close, peer
from streamwatch.protocols import Sink

log = logging.getLogger(__name__)

# A publisher that has not connected by then has no way to us (or has gone).
_CONNECT = 20.0
_DEAD = frozenset({"failed", "closed"})


@dataclass(slots=True, eq=False)
class _Session:
    id: str
    connection: Any
    readers: list[TrackReader] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the connection's state changes, and when a video track has ended."""

    @property
    def over(self) -> bool:
        return self.connection.connectionState in _DEAD or self.readers[0].ended


class WebRtcGateway:
    """A protocols.WhipGateway. At most one publisher per stream: a new one replaces the old.

    A stream may be published to once `expect` has named it (making its source does that) until `forget`. UDP ports are
    open only while a publisher is there. `close_all` ends every session.
    """

    def __init__(self, max_sessions: int = 64) -> None:
        self._max_sessions = max_sessions
        self._sessions: dict[str, _Session] = {}
        self._expected: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._arrival = asyncio.Condition()

    def expect(self, stream: str) -> None:
        self._expected.add(stream)

    async def forget(self, stream: str) -> None:
        self.withdraw(stream)
        await asyncio.gather(*self._ending)

    def withdraw(self, stream: str) -> None:
        """From now on nobody may publish to the stream, until it is expected again; who does is sent away."""
        self._expected.discard(stream)
        if (session := self._sessions.get(stream)) is not None:
            task = asyncio.create_task(self._end(stream, session))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def publish(self, stream: str, offer: str) -> tuple[str, str]:
        """(session id, answer). Raises NotFound, ConfigError for an unusable offer, Overloaded at the limit."""
        if stream not in self._expected:
            raise NotFound(f"there is no stream {stream!r} that takes a publisher")
        if stream not in self._sessions and len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} publishers are connected already")
        session = _Session(secrets.token_urlsafe(12), peer())
        try:
            answer = await self._negotiate(stream, session, offer)
            if stream not in self._expected:  # withdrawn while we negotiated
                raise NotFound(f"there is no stream {stream!r} that takes a publisher")
        except BaseException:
            await self._end(stream, session)
            raise
        # Taken first and only then ended: another publisher may come while the old one is on its way out.
        replaced, self._sessions[stream] = self._sessions.get(stream), session
        self._own(session, self._guard(stream, session))
        if replaced is not None:
            log.info("stream %s: a new publisher replaces the old", stream)
            await self._end(stream, replaced)
        async with self._arrival:
            self._arrival.notify_all()
        return session.id, answer

    async def trickle(self, stream: str, session: str, fragment: str) -> None:
        """Adds the candidates of a trickle-ice-sdpfrag (RFC 8840). Raises NotFound, ConfigError."""
        connection = self._session(stream, session).connection
        try:
            for mid, line in _candidates(fragment):
                candidate = candidate_from_sdp(line)
                candidate.sdpMid = mid
                await connection.addIceCandidate(candidate)
        except (ValueError, AssertionError, IndexError, KeyError) as error:
            raise ConfigError("body: is not a valid trickle-ice-sdpfrag") from error

    async def close(self, stream: str, session: str) -> None:
        """Raises NotFound."""
        await self._end(stream, self._session(stream, session))

    async def close_all(self) -> None:
        await asyncio.gather(*(self._end(stream, session) for stream, session in list(self._sessions.items())))
        await asyncio.gather(*self._ending)

    async def reader(self, stream: str) -> TrackReader:
        """The video track of the stream's publisher; waits for one."""
        async with self._arrival:
            while True:
                session = self._sessions.get(stream)
                if session is not None and session.readers:
                    return session.readers[0]
                await self._arrival.wait()

    async def _negotiate(self, stream: str, session: _Session, offer: str) -> str:
        connection = session.connection

        @connection.on("track")  # type: ignore[untyped-decorator]
        def on_track(track: Any) -> None:
            reader = TrackReader(track, f"whip:{stream}")
            # Sound is read too, and thrown away: what is not read piles up in aiortc.
            draining = self._own(session, reader.drain())
            if track.kind == "video":
                session.readers.append(reader)
                draining.add_done_callback(lambda _: session.changed.set())

        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
            if not session.readers:
                raise ConfigError("body: the offer has no video that is sent")
            for transceiver in connection.getTransceivers():
                transceiver.direction = "recvonly" if transceiver.kind == "video" else "inactive"
            await connection.setLocalDescription(await connection.createAnswer())
        except ConfigError:
            raise
        except Exception as error:  # aiortc meets nonsense in an SDP with errors of every kind
            raise ConfigError("body: is not an SDP offer that can be answered") from error
        _name_codec(connection, session)
        return str(connection.localDescription.sdp)

    async def _guard(self, stream: str, session: _Session) -> None:
        """Ends the session when its connection or its track does, or when it never came to be.

        A publisher may end its track alone, and keep the connection: nothing more would come of it.
        """
        connection, changed = session.connection, session.changed
        connection.on("connectionstatechange", changed.set)
        try:
            async with asyncio.timeout(_CONNECT):
                while connection.connectionState != "connected" and not session.over:
                    await changed.wait()
                    changed.clear()
            while not session.over:
                await changed.wait()
                changed.clear()
        except TimeoutError:
            log.warning("stream %s: the publisher could not connect within %.0f s", stream, _CONNECT)
        await self._end(stream, session)

    def _own(self, session: _Session, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        session.tasks.add(task)
        task.add_done_callback(session.tasks.discard)
        return task

    async def _end(self, stream: str, session: _Session) -> None:
        """Whether it was taken or not."""
        if self._sessions.get(stream) is session:
            del self._sessions[stream]
        await close(session.connection)
        # aiortc ends no track whose receiver never started: who drains one would wait for ever.
        others = session.tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _session(self, stream: str, session: str) -> _Session:
        found = self._sessions.get(stream)
        if found is None or found.id != session:
            raise NotFound(f"stream {stream!r} has no such session")
        return found


class WhipSource:
    """Waits for a publisher of its stream, then reads it until it is gone or stalls (StreamEnded)."""

    waits = True
    skew = None

    def __init__(self, stream: str, gateway: WebRtcGateway, fps: float, limits: Limits) -> None:
        self._stream = stream
        self._gateway = gateway
        self._sampler = Sampler(fps)
        self._limits = limits
        gateway.expect(stream)

    def set_rate(self, fps: float) -> None:
        self._sampler.fps = fps

    async def run(self, sink: Sink) -> None:
        reader = await self._gateway.reader(self._stream)
        await reader.read(sink, self._sampler, self._limits)


def _candidates(fragment: str) -> list[tuple[str, str]]:
    """(mid, candidate) of each candidate line."""
    mid, found = "0", []
    for line in fragment.splitlines():
        name, _, value = line.strip().partition(":")
        if name == "a=mid":
            mid = value
        elif name == "a=candidate":
            found.append((mid, value))
    return found


def _name_codec(connection: Any, session: _Session) -> None:
    for transceiver in connection.getTransceivers():
        codecs = [codec.name.lower() for codec in transceiver._codecs if codec.name.lower() != "rtx"]
        track = transceiver.receiver.track
        if track is not None and codecs:
            track.codec_name = codecs[0]
