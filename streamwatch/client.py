"""A client of the websocket protocol (docs/protocol.md) in a few lines:

    async for message in follow("ws://127.0.0.1:8460", token="sw_...", streams=["lobby"]):
        if message["type"] == "score":
            print(message["stream"], message["score"])

It connects again with growing delays, resumes by sequence number, and takes a service that says nothing for gone.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from streamwatch.errors import ConfigError, ServerError

Message = dict[str, Any]
FIRST_DELAY, LONGEST_DELAY = 0.5, 15.0
_FINAL = frozenset({400, 401, 403, 404})


@dataclass(slots=True)
class _Position:
    """What has been seen: enough to resume."""

    epoch: str | None = None
    seq: dict[str, int] = field(default_factory=dict)
    heartbeat: float = 15.0

    def note(self, message: Message) -> None:
        if message["type"] == "snapshot":
            if message["epoch"] != self.epoch:
                self.seq.clear()
            self.epoch, self.heartbeat = message["epoch"], float(message["heartbeat_s"])
            self.seq.update({entry["stream"]: entry["seq"] for entry in message["streams"]})
        elif "seq" in message:
            self.seq[message["stream"]] = message["seq"]


def socket_url(url: str, streams: Sequence[str] | None = None) -> str:
    """The websocket's address for the address of a service (ws, wss, http or https). Raises ConfigError."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ConfigError(f"{url}: must be ws://, wss://, http:// or https:// and a host")
    path = parts.path if parts.path.endswith("/ws") else "/api/v1/ws"
    query = "resume=1" + (f"&streams={','.join(map(quote, streams))}" if streams is not None else "")
    return f"{scheme}://{parts.netloc.rpartition('@')[2]}{path}?{query}"


async def follow(
    url: str,
    *,
    token: str | None = None,
    streams: Sequence[str] | None = None,
    reconnect: bool = True,
    lost: Callable[[str, float], None] | None = None,
) -> AsyncIterator[Message]:
    """The service's messages, for ever. `lost(why, delay)` is told of each break; without `reconnect` a break raises
    ServerError. Raises ConfigError where trying again cannot help: a bad address, no access."""
    address = socket_url(url, streams)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    position, delay = _Position(), FIRST_DELAY
    while True:
        try:
            async with connect(address, additional_headers=headers, max_size=64 << 20, compression=None) as socket:
                async for message in _messages(socket, position):
                    delay = FIRST_DELAY
                    yield message
        except (OSError, ConnectionClosed, InvalidHandshake, InvalidURI, TimeoutError) as error:
            why = _why(error)
            if isinstance(error, InvalidURI) or (
                isinstance(error, InvalidStatus) and error.response.status_code in _FINAL
            ):
                raise ConfigError(f"{url}: {why}") from error
            if not reconnect:
                raise ServerError(f"{url}: {why}") from error
            pause = delay * random.uniform(0.5, 1.0)
            if lost is not None:
                lost(why, pause)
            await asyncio.sleep(pause)
            delay = min(LONGEST_DELAY, delay * 2)


async def _messages(socket: ClientConnection, position: _Position) -> AsyncIterator[Message]:
    await socket.send(json.dumps({"type": "resume", "epoch": position.epoch or "", "seq": position.seq}))
    while True:
        async with asyncio.timeout(2.5 * position.heartbeat):
            text = await socket.recv()
        if isinstance(text, str):
            message: Message = json.loads(text)
            position.note(message)
            yield message


def _why(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        detail = {401: "a valid token is needed", 403: "refused: scope, Host or Origin", 503: "too many clients"}
        status = error.response.status_code
        return detail.get(status, f"answered with status {status}")
    if isinstance(error, ConnectionClosed):
        return (error.rcvd.reason if error.rcvd else "") or "the connection broke"
    if isinstance(error, TimeoutError):
        return "nothing was heard for too long"
    return str(error) or type(error).__name__
