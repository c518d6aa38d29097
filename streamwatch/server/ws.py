"""`/api/v1/ws`: one websocket client, as a plain ASGI application: a message passes through no framework layer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from streamwatch.errors import Overloaded
from streamwatch.server import messages
from streamwatch.server.hub import Hub, dumps
from streamwatch.server.limits import RateLimit
from streamwatch.server.pictures import SIZES
from streamwatch.server.sessions import POLICY, ClientSession, Subscription

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_MESSAGES, PER_SECONDS = 20, 10.0
MAX_STREAMS = 10_000
RESUME_WAIT = 5.0
_log = logging.getLogger(__name__)


class BadMessage(Exception):
    """What a client sent is not one of the protocol's messages; the text goes back to it."""


class WebSocketEndpoint:
    """Who may connect has been decided before: by the guard (Host, Origin) and by `allowed` (scope read), which is
    asked again with each heartbeat, so that a revoked token's connections end."""

    def __init__(self, hub: Hub, allowed: Callable[[Scope], Awaitable[int]]) -> None:
        self._hub = hub
        self._allowed = allowed
        """0, or the HTTP status to refuse with."""
        self._connects = RateLimit(hub.options.max_connects, PER_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        status = await self._allowed(scope)
        if status:
            await refuse(send, status, "a token with scope read is needed")
            return
        peer = scope["client"][0] if scope.get("client") else ""
        if not self._connects.allow(peer, asyncio.get_running_loop().time()):
            await refuse(send, 429, "too many connections in too short a time")
            return
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        try:
            client = self._hub.connect(Subscription(_streams_of(query)))
        except Overloaded as error:
            await refuse(send, 503, str(error))
            return
        try:
            await send({"type": "websocket.accept"})
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(client, scope))
                await self._serve(client, receive, send, resume=query.get("resume") == ["1"])
                watch.cancel()
        except* OSError:
            pass  # the peer went away while we were sending
        finally:
            self._hub.disconnect(client)

    async def _watch(self, client: ClientSession, scope: Scope) -> None:
        while not await self._allowed(scope):  # noqa: ASYNC110 - tokens change in a file; no event tells
            await asyncio.sleep(self._hub.options.heartbeat)
        client.end(POLICY, "access was withdrawn")

    async def _serve(self, client: ClientSession, receive: Receive, send: Send, *, resume: bool) -> None:
        inbox = _Inbox(receive)
        async with asyncio.TaskGroup() as group:
            talk = group.create_task(self._talk(client, inbox, send, resume=resume))
            code, reason = await client.ended()
            talk.cancel()
        if code:
            _log.info("websocket client ended: %s", reason)
            await send({"type": "websocket.close", "code": code, "reason": reason})

    async def _talk(self, client: ClientSession, inbox: _Inbox, send: Send, *, resume: bool) -> None:
        try:
            first = await self._first(client, inbox) if resume else {}
            opening = self._hub.opening(client, first.get("epoch"), first.get("seq"))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(client, send, opening))
                group.create_task(self._read(client, inbox))
        except* OSError:
            client.end(0, "the peer is gone")

    async def _first(self, client: ClientSession, inbox: _Inbox) -> dict[str, Any]:
        """The `resume` message; anything else, or nothing, resumes nothing."""
        try:
            async with asyncio.timeout(RESUME_WAIT):
                message = await inbox.next()
            if message is None:
                client.end(0, "the peer is gone")
                return {}
            return _resume_of(message)
        except (TimeoutError, BadMessage):
            return {}

    async def _write(self, client: ClientSession, send: Send, opening: list[str]) -> None:
        clock = asyncio.get_running_loop().time
        batch: list[str] | list[str | bytes] = opening
        while True:
            client.busy_since = clock()
            for payload in batch:
                if isinstance(payload, str):
                    await send({"type": "websocket.send", "text": payload})
                else:
                    await send({"type": "websocket.send", "bytes": payload})
            client.busy_since = None
            batch = await client.take()

    async def _read(self, client: ClientSession, inbox: _Inbox) -> None:
        while True:
            try:
                message = await inbox.next()
                if message is None:
                    client.end(0, "the peer is gone")
                    return
                if inbox.too_many():
                    client.end(POLICY, f"more than {MAX_MESSAGES} messages in {PER_SECONDS:g} s")
                    return
                self._obey(client, message)
            except BadMessage as error:
                client.put("", "error", dumps(messages.error_message(self._hub.epoch, "bad_message", str(error))))

    def _obey(self, client: ClientSession, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "ping":
            client.put("", "heartbeat", dumps(messages.heartbeat_message(self._hub.epoch, self._hub.options.clock())))
        elif kind == "subscribe":
            self._hub.subscribe(client, subscription_of(message, client.subscription))
        else:
            raise BadMessage("type must be subscribe or ping (resume only first, with ?resume=1)")


class _Inbox:
    """What the client sends, as JSON objects; counts them."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._times: deque[float] = deque(maxlen=MAX_MESSAGES + 1)

    async def next(self) -> dict[str, Any] | None:
        """None when the peer is gone. Raises BadMessage."""
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            return None
        self._times.append(asyncio.get_running_loop().time())
        try:
            message = json.loads(event.get("text") or "")
        except (ValueError, RecursionError):
            raise BadMessage("not JSON") from None
        if not isinstance(message, dict):
            raise BadMessage("not a JSON object")
        return message

    def too_many(self) -> bool:
        return len(self._times) > MAX_MESSAGES and self._times[-1] - self._times[0] < PER_SECONDS


def subscription_of(message: dict[str, Any], before: Subscription) -> Subscription:
    """What a `subscribe` message changes of the subscription. Raises BadMessage."""
    after = before
    if "streams" in message:
        after = replace(after, streams=_stream_set(message["streams"]))
    if "thumbnails" in message:
        wish = message["thumbnails"]
        size = {True: "small", False: None}.get(wish, wish) if isinstance(wish, bool) else wish
        if size is not None and (not isinstance(size, str) or size not in SIZES):
            raise BadMessage(f"thumbnails must be true, false or one of {', '.join(SIZES)}")
        after = replace(after, thumbnails=size)
    if "heat" in message:
        if not isinstance(message["heat"], bool):
            raise BadMessage("heat must be true or false")
        after = replace(after, heat=message["heat"])
    return after


def _stream_set(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) <= MAX_STREAMS and all(isinstance(name, str) and name for name in value):
        return frozenset(value)
    raise BadMessage(f"streams must be null or a list of at most {MAX_STREAMS} stream ids")


def _resume_of(message: dict[str, Any]) -> dict[str, Any]:
    epoch, seen = message.get("epoch"), message.get("seq")
    if message.get("type") != "resume" or not isinstance(epoch, str) or not isinstance(seen, dict):
        raise BadMessage("the first message must be resume, with epoch and seq")
    return {"epoch": epoch, "seq": {name: seq for name, seq in seen.items() if isinstance(seq, int)}}


def _streams_of(query: dict[str, list[str]]) -> frozenset[str] | None:
    if "streams" not in query:
        return None
    return frozenset(name for part in query["streams"] for name in part.split(",") if name)


async def refuse(send: Send, status: int, detail: str) -> None:
    """Answers a handshake with an HTTP error."""
    body = json.dumps({"type": "about:blank", "title": "Refused", "status": status, "detail": detail}).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
