"""Pulling a stream from a WHEP endpoint (draft-ietf-wish-whep): `whep+https://host/path`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx
from aiortc import RTCSessionDescription

from streamwatch.domain import FailureReason
from streamwatch.errors import HostUnknown, SourceUnavailable
from streamwatch.ingest.allow import Address, resolve
from streamwatch.ingest.decode import Limits
from streamwatch.ingest.reaper import Reaper
from streamwatch.ingest.sampling import Sampler
from streamwatch.ingest.track import TrackReader, close, peer
from streamwatch.protocols import Sink
from streamwatch.redact import display_url

# Its line for each request shows the whole address, and with that what a query hides.
logging.getLogger("httpx").setLevel(logging.WARNING)

R = FailureReason
_GOODBYE = 1.5
_STATUS = {401: R.AUTH_FAILED, 403: R.AUTH_FAILED, 404: R.NOT_FOUND, 405: R.NOT_FOUND, 406: R.CODEC_UNSUPPORTED}


class WhepSource:
    """One session with a WHEP server. A user alone in the URL is sent as a Bearer token, with a password as Basic."""

    waits = False
    skew = None

    def __init__(self, url: str, reaper: Reaper, fps: float, limits: Limits, authorities: str | None = None) -> None:
        """`authorities`: PEM file of those whose certificates are accepted; None: the certificate is not checked."""
        parts = urlsplit(url.removeprefix("whep+"))
        self._host = parts.hostname or ""
        self._addresses: Sequence[Address] = ()
        self._reaper = reaper
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._display = display_url(url)
        self._auth = httpx.BasicAuth(user, password) if password else None
        self._headers = {"Authorization": f"Bearer {user}"} if user and not password else {}
        self._verify = authorities
        self._sampler = Sampler(fps)
        self._limits = limits

    def set_rate(self, fps: float) -> None:
        self._sampler.fps = fps

    def pin(self, addresses: Sequence[Address]) -> None:
        """Connect to these addresses of the host, which were checked, and to no other. Before `run`."""
        self._addresses = addresses

    def _trusted(self) -> ssl.SSLContext | bool:
        try:
            return ssl.create_default_context(cafile=self._verify) if self._verify else False
        except OSError as error:
            why = f"{self._display}: {self._verify}: no certificates can be read there"
            raise SourceUnavailable(why, FailureReason.TLS) from error

    async def run(self, sink: Sink) -> None:
        """Raises SourceUnavailable, StreamEnded."""
        transport = _ByAddress(self._addresses or await self._resolved(), self._trusted())
        connection = peer()
        track: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        connection.on("track", lambda found: None if track.done() else track.set_result(found))
        draining: asyncio.Task[None] | None = None
        async with httpx.AsyncClient(
            auth=self._auth,
            headers=self._headers,
            timeout=self._limits.open_timeout,
            transport=transport,
        ) as client:
            session = None
            try:
                connection.addTransceiver("video", direction="recvonly")
                await connection.setLocalDescription(await connection.createOffer())
                session, answer = await self._ask(client, connection.localDescription.sdp)
                await self._accept(connection, answer)
                reader = TrackReader(await track, self._display)
                draining = asyncio.create_task(reader.drain())
                await self._connected(connection)
                await reader.read(sink, self._sampler, self._limits)
            finally:
                if draining is not None:
                    draining.cancel()
                    await asyncio.wait([draining])
                # Both together in bounded time: a server that we cannot reach forgets us by itself in the end.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GOODBYE):
                        goodbyes = close(connection), self._leave(client, session)
                        await asyncio.gather(
                            *goodbyes, return_exceptions=True
                        )  # one that fails must not orphan the other

    async def _resolved(self) -> list[Address]:
        try:
            return await resolve(self._host, self._reaper)
        except HostUnknown as error:
            raise self._failure("the host's name cannot be resolved", R.CONNECTION_FAILED) from error

    async def _leave(self, client: httpx.AsyncClient, session: str | None) -> None:
        if session is not None:
            await client.delete(session)

    async def _ask(self, client: httpx.AsyncClient, offer: str) -> tuple[str | None, str]:
        """(address of the session, answer)"""
        try:
            response = await client.post(self._url, content=offer, headers={"Content-Type": "application/sdp"})
        except httpx.TimeoutException as error:
            raise self._failure("it did not answer in time", R.TIMEOUT) from error
        except httpx.HTTPError as error:
            reason = R.TLS if _is_tls(error) else R.CONNECTION_FAILED
            raise self._failure("the TLS connection failed" if reason is R.TLS else "no connection", reason) from error
        if response.status_code != 201:
            reason = _STATUS.get(response.status_code, R.CONNECTION_FAILED)
            raise self._failure(f"the server answers {response.status_code}", reason)
        location = response.headers.get("location")
        session = urljoin(self._url, location) if location else None
        # The session is ended with our token: not at an address of somebody else's.
        return session if session and _origin(session) == _origin(self._url) else None, response.text

    async def _accept(self, connection: Any, answer: str) -> None:
        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
        except Exception as error:  # aiortc meets nonsense in an SDP with errors of every kind
            raise self._failure("its answer is not usable", R.CODEC_UNSUPPORTED) from error
        if not any(transceiver.receiver.track for transceiver in connection.getTransceivers()):
            raise self._failure("it offers no video", R.NO_VIDEO)

    async def _connected(self, connection: Any) -> None:
        changed = asyncio.Event()
        connection.on("connectionstatechange", changed.set)
        try:
            async with asyncio.timeout(self._limits.open_timeout):
                while connection.connectionState not in ("connected", "failed", "closed"):
                    await changed.wait()
                    changed.clear()
        except TimeoutError as error:
            raise self._failure("the media connection did not come about in time", R.TIMEOUT) from error
        if connection.connectionState != "connected":
            raise self._failure("the media connection failed (ICE or DTLS)", R.CONNECTION_FAILED)

    def _failure(self, what: str, reason: FailureReason) -> SourceUnavailable:
        return SourceUnavailable(f"{self._display}: {what}", reason)


class _ByAddress(httpx.AsyncBaseTransport):
    """Connects to one of the addresses given, and leaves the name to the Host header and the certificate.

    httpx would look the name up itself: where the name server is silent, in a thread of the pool that everybody needs
    and that nothing can end; and perhaps with another answer than the one that was checked. There is no proxy either:
    the pictures would not come through it.
    """

    def __init__(self, addresses: Sequence[Address], verify: ssl.SSLContext | bool) -> None:
        # In any order: a dead address that does not refuse takes all the time there is, and another attempt begins
        # with another one.
        self._addresses = random.sample(addresses, len(addresses))
        self._inner = httpx.AsyncHTTPTransport(verify=verify)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        extensions = {**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")}
        failed: Exception | None = None
        for address in self._addresses:
            url, stream = request.url.copy_with(host=str(address)), request.stream
            there = httpx.Request(request.method, url, headers=request.headers, stream=stream, extensions=extensions)
            try:
                return await self._inner.handle_async_request(there)
            except httpx.ConnectError as error:  # a host often has addresses of a kind that we cannot reach
                failed = error
        raise failed or httpx.ConnectError("the host has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
