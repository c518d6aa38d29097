"""What every request passes before anything else: Host allow-list, Origin, size of the body; and the security headers
that every answer carries."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from streamwatch.config import ServerSettings
from streamwatch.server.auth import Caller, host_of, is_loopback
from streamwatch.server.problems import MEDIA_TYPE, document

ASGIScope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
]


class Refused(HTTPException):
    """The request goes no further. Where the body turns out too large while the framework reads it, the framework
    makes the problem document; else this module does."""


def caller_of(scope: Mapping[str, Any]) -> Caller:
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
    return Caller(headers, scope["client"][0] if scope.get("client") else None)


class Guard:
    """ASGI middleware."""

    def __init__(self, app: Application, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._names = {settings.host.lower(), *(name.lower() for name in settings.allowed_hosts)}

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        sender = _with_headers(send) if scope["type"] == "http" else send
        try:
            caller = caller_of(scope)
            self._check_host(scope, caller)
            self._check_origin(scope, caller)
            if scope["type"] == "http":
                receive = self._bounded(caller, receive)
            await self._app(scope, receive, sender)
        except Refused as refusal:
            await _answer(scope, sender, refusal)

    def _check_host(self, scope: ASGIScope, caller: Caller) -> None:
        """A name that is not ours means that a page elsewhere had its own name point at us (DNS rebinding)."""
        host = host_of(caller.headers.get("host", ""))
        arrived_at = (scope.get("server") or ("",))[0]
        if not (is_loopback(host) or host in self._names or (host and host == arrived_at)):
            raise Refused(403, "this Host is not one of the service's names (server.allowed_hosts)")

    def _check_origin(self, scope: ASGIScope, caller: Caller) -> None:
        origin = caller.headers.get("origin")
        if origin is None or (scope["type"] == "http" and scope["method"] in SAFE):
            return
        try:
            theirs = urlsplit(origin).netloc.lower()
        except ValueError:
            theirs = ""
        if theirs != caller.headers.get("host", "").lower():
            raise Refused(403, "requests from pages of another origin are refused")

    def _bounded(self, caller: Caller, receive: Receive) -> Receive:
        limit = self._settings.max_body
        too_large = Refused(413, f"the body is larger than {limit} bytes")
        length = caller.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise too_large
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise too_large
            return message

        return bounded


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", [])}
            extra = [pair for pair in HEADERS if pair[0] not in present]
            if b"cache-control" not in present:
                extra.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sender


async def _answer(scope: ASGIScope, send: Send, refusal: Refused) -> None:
    body = json.dumps(document(refusal.status_code, refusal.detail, scope["path"])).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    kind = "websocket.http" if scope["type"] == "websocket" else "http"
    await send({"type": f"{kind}.response.start", "status": refusal.status_code, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body, "more_body": False})
