"""Runs the server inside the caller's event loop: started when `serving` yields, gone when it returns."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from streamwatch.config import ServerSettings
from streamwatch.errors import ServerError
from streamwatch.server.api import create_app
from streamwatch.server.deps import Services
from streamwatch.server.pictures import PicturePump

MAX_MESSAGE = 64 << 10
STOP_WITHIN = 1
"""Seconds granted at the end to requests that are under way: with all else, Ctrl-C is to end within five."""
CLOSE_WITHIN = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens; `port` is the real one where 0 was asked for."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/"


class _WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol for peers that do not read: their close frame does not wait for room in the transport's
    buffer, and the connection is torn down if they do not take it either."""

    _abort: asyncio.TimerHandle | None = None

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.close":
            self.writable.set()
        await super().send(message)

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                self._abort = self.loop.call_later(CLOSE_WITHIN, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort is not None:
            self._abort.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which belong to the application."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def serving(services: Services, address: socket.socket | None = None) -> AsyncIterator[Address]:
    """Serves until the body ends, at an `address` that was reserved before or at that of the settings. Raises
    ServerError where it is in use or the TLS files are unusable."""
    settings = services.settings
    config = _configured(services)
    listener = address or reserve(settings)
    try:
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _in_use(settings, error) from error
    server = _Server(config)
    pump = PicturePump(services.hub)
    tasks = [
        asyncio.create_task(services.hub.run(), name="hub"),
        asyncio.create_task(pump.run(), name="pictures"),
    ]
    http = asyncio.create_task(server.serve([listener]), name="http")
    try:
        await server.listening.wait()
        host, port = listener.getsockname()[:2]
        yield Address("https" if settings.tls_cert else "http", host, port)
    finally:
        services.hub.close()
        await asyncio.sleep(0.05)  # websockets say goodbye before the server closes their transports
        server.should_exit = True
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(http, *tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                _log.error("the server's task failed: %r", result)


def reserve(settings: ServerSettings) -> socket.socket:
    """A socket bound to the address, which takes no connection yet: who asks too early is refused, not kept waiting.
    Raises ServerError naming the address."""
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServerError(f"server.host: cannot listen on {where}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        listener.setblocking(False)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _in_use(settings, error) from error
    return listener


def _in_use(settings: ServerSettings, error: OSError) -> ServerError:
    where = f"{settings.host}:{settings.port}"
    return ServerError(f"server.port: cannot listen on {where}: {error.strerror or error}")


def _configured(services: Services) -> uvicorn.Config:
    settings = services.settings
    config = uvicorn.Config(
        create_app(services),
        lifespan="off",
        log_config=None,
        access_log=False,  # a query may hold what must not reach a log
        server_header=False,
        proxy_headers=False,
        ws=_WebSocket,
        ws_per_message_deflate=False,
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=services.hub.options.heartbeat,
        ws_ping_timeout=2 * services.hub.options.heartbeat,
        h11_max_incomplete_event_size=32 << 10,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=STOP_WITHIN,
    )
    config.load()
    if settings.tls_cert is not None and settings.tls_key is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise ServerError(f"server.tls_cert, server.tls_key: cannot be used: {error}") from error
        config.ssl = context
    return config
