"""One websocket client as the hub sees it: what it wants, what waits for it, and how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from streamwatch.server.outbox import Outbox, Payload

GOING_AWAY, POLICY, TOO_SLOW = 1001, 1008, 4008


@dataclass(frozen=True, slots=True)
class Subscription:
    """`streams` None: all, also those added later. `thumbnails`: a size of pictures.SIZES, or None."""

    streams: frozenset[str] | None = None
    thumbnails: str | None = None
    heat: bool = False

    def wants(self, stream: str) -> bool:
        """Messages of the service itself (stream "") go to everyone."""
        return self.streams is None or not stream or stream in self.streams


class Close(NamedTuple):
    """How a session ends: the websocket's close code and reason. Code 0: the peer is gone already."""

    code: int
    reason: str


class ClientSession:
    """Belongs to one event loop. `put` never blocks; `take` waits. A client that is too slow is ended with a reason."""

    def __init__(self, subscription: Subscription, limit: int = 256) -> None:
        self.subscription = subscription
        self.busy_since: float | None = None
        """When the send now in progress was begun, by the loop's clock."""
        self._outbox = Outbox(limit)
        self._wake = asyncio.Event()
        self._ended: asyncio.Future[Close] = asyncio.get_running_loop().create_future()

    def put(self, stream: str, key: str | None, payload: Payload) -> None:
        if self._outbox.put(stream, key, payload):
            self._wake.set()
        else:
            self.end(TOO_SLOW, "too slow: alerts no longer fit into the outbox")

    async def take(self) -> list[Payload]:
        """All that waits for the stream whose turn it is."""
        while True:
            batch = self._outbox.take()
            if batch:
                return batch
            self._wake.clear()
            await self._wake.wait()

    def forget(self, streams: set[str]) -> None:
        self._outbox.forget(streams)

    def end(self, code: int, reason: str) -> None:
        """The first call counts."""
        if not self._ended.done():
            self._ended.set_result(Close(code, reason))

    async def ended(self) -> Close:
        return await asyncio.shield(self._ended)

    @property
    def waiting(self) -> int:
        return len(self._outbox)
