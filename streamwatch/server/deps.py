"""What the routes share: the services behind them, who asks, cursors."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from streamwatch.config import SLUG, ServerSettings
from streamwatch.errors import ConfigError
from streamwatch.server.auth import Access
from streamwatch.server.guard import caller_of
from streamwatch.server.hub import Hub
from streamwatch.server.ports import Control
from streamwatch.server.tokens import Principal, Scope


@dataclass(frozen=True, slots=True)
class Services:
    """All that the routes reach. `metrics` gives the exposition and its content type for an Accept header."""

    control: Control
    hub: Hub
    settings: ServerSettings
    access: Access
    metrics: Callable[[str], tuple[bytes, str]]
    etag_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


The = Annotated[Services, Depends(services_of)]
_bearer = HTTPBearer(auto_error=False, description="A token of `streamwatch token create`; or the session cookie.")


def needs(scope: Scope) -> Callable[..., Coroutine[Any, Any, Principal]]:
    """A dependency: the caller, who holds the scope; else 401 or 403."""

    async def check(
        request: Request, services: The, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Principal:
        principal = await services.access.principal(caller_of(request.scope))
        if principal is None:
            raise HTTPException(401, "a valid token is needed", {"WWW-Authenticate": 'Bearer realm="streamwatch"'})
        if scope not in principal.scopes:
            raise HTTPException(403, f"the token has no scope {scope.value!r}")
        return principal

    return check


Reader = Annotated[Principal, Depends(needs(Scope.READ))]
Operator = Annotated[Principal, Depends(needs(Scope.OPERATE))]
Admin = Annotated[Principal, Depends(needs(Scope.ADMIN))]
Scraper = Annotated[Principal, Depends(needs(Scope.METRICS))]


async def check_content_type(request: Request) -> None:
    """JSON alone changes state: a form of another site cannot send it. WHIP's types are as safe."""
    path, method = request.url.path, request.method
    if method not in {"POST", "PATCH"}:
        return
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if path.startswith("/api/v1/whip/"):
        expected = {"application/sdp"} if method == "POST" else {"application/trickle-ice-sdpfrag"}
    elif method == "PATCH":
        expected = {"application/json", "application/merge-patch+json"}
    else:
        expected = {"application/json"}
    if given not in expected and not (not given and path.endswith("/config/reload")):
        raise HTTPException(415, f"the content type must be {' or '.join(sorted(expected))}")


StreamId = Annotated[str, Path(pattern=SLUG.pattern, description="the stream's id", examples=["lobby"])]
AlertId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="the alert's id")]
BundleId = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9._-]{1,128}(\+[0-9]{1,9}(-[0-9]{1,9})?)?$",
        description="the alert's id, ALERT+TRACK, or ALERT+TRACK-RUN",
    ),
]
Limit = Annotated[int, Query(ge=1, le=500, description="size of the page")]
Cursor = Annotated[str | None, Query(max_length=512, description="`next` of the page before")]


def encode_cursor(at: float, key: str) -> str:
    return base64.urlsafe_b64encode(f"{at!r} {key}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[float, str]:
    """Raises ConfigError."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, key = text.partition(" ")
        return float(at), key
    except (ValueError, binascii.Error):
        raise ConfigError("cursor: is not one that this service gave out") from None
