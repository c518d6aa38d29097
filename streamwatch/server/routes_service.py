"""Health, metrics, configuration, the system page, sessions, and the schemas."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Request, Response
from starlette.responses import JSONResponse, PlainTextResponse

from streamwatch import config as configuration
from streamwatch.server import schema
from streamwatch.server.auth import COOKIE
from streamwatch.server.deps import Admin, Reader, Scraper, The
from streamwatch.server.guard import caller_of
from streamwatch.server.problems import responses
from streamwatch.server.resources import LoginBody, Readiness, ReloadRecord, SessionRecord, etag, reload_record
from streamwatch.server.tokens import Principal

root = APIRouter(tags=["health"])
router = APIRouter(tags=["service"])


@root.get("/livez", response_class=PlainTextResponse, summary="The event loop runs")
async def livez() -> str:
    return "ok\n"


@root.get("/readyz", summary="Weights loaded, device warm, not draining", responses={503: {"model": Readiness}})
async def readyz(services: The, response: Response) -> Readiness:
    reasons = list(services.control.not_ready())
    response.status_code = 503 if reasons else 200
    return {"ready": not reasons, "reasons": reasons}


@root.get("/metrics", response_class=Response, summary="Prometheus exposition", responses=responses(401, 403))
async def metrics(services: The, _: Scraper, accept: Annotated[str, Header()] = "") -> Response:
    body, media_type = await asyncio.to_thread(services.metrics, accept)
    return Response(body, headers={"Content-Type": media_type})


@router.get("/system", summary="Device, queues, latency, weights", responses=responses(401, 403))
async def system(services: The, _: Reader) -> dict[str, Any]:
    """The keys are in docs/protocol.md."""
    reasons = list(services.control.not_ready())
    return {
        **services.control.describe(),
        "epoch": services.hub.epoch,
        "ready": not reasons,
        "not_ready": reasons,
        "websocket_clients": services.hub.statistics().clients,
    }


@router.get(
    "/config",
    summary="What holds now, without secrets",
    responses=responses(401, 403, also={304: {"description": "as it was"}}),
)
async def get_config(services: The, _: Admin, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    shown = services.control.config().model_dump(mode="json", by_alias=True)
    tag = etag(shown, services.etag_key)
    if if_none_match is not None and tag in {part.strip() for part in if_none_match.split(",")}:
        return Response(status_code=304, headers={"ETag": tag})
    return JSONResponse(shown, headers={"ETag": tag})


@router.post("/config/reload", summary="Read the file again", responses=responses(401, 403, 413, 415, 422))
async def reload(services: The, _: Admin) -> ReloadRecord:
    """By difference: streams that did not change are not touched. A bad file changes nothing, and 422 says why."""
    return reload_record(await services.control.reload())


@router.get("/session", summary="Who am I?")
async def who(services: The, request: Request) -> SessionRecord:
    return _session(await services.access.principal(caller_of(request.scope)))


@router.post("/session", summary="Log in with a token", responses=responses(400, 401, 413, 415, 422, 429))
async def login(services: The, request: Request, body: LoginBody, response: Response) -> SessionRecord:
    peer, now = request.client.host if request.client else "", time.monotonic()
    if not services.access.logins.allow(peer, now):
        wait = services.access.logins.retry_after(peer, now)
        raise HTTPException(429, "too many attempts", {"Retry-After": str(int(wait) + 1)})
    cookie = services.access.session(body.token)
    if cookie is None:
        raise HTTPException(401, "this is no valid token", {"WWW-Authenticate": 'Bearer realm="streamwatch"'})
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(services.settings.auth.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return _session(await services.access.of_token(body.token))


@router.delete("/session", status_code=204, summary="Log out")
async def logout(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


@router.get("/schema/messages.json", summary="JSON Schema of the websocket's messages")
async def message_schema() -> dict[str, Any]:
    return schema.messages()


@router.get("/schema/asyncapi.json", summary="AsyncAPI of the websocket")
async def asyncapi() -> dict[str, Any]:
    return schema.asyncapi()


@router.get("/schema/config.json", summary="JSON Schema of the configuration file")
async def config_schema() -> dict[str, Any]:
    return configuration.json_schema()


def _session(principal: Principal | None) -> SessionRecord:
    return {
        "authenticated": principal is not None,
        "scopes": sorted(scope.value for scope in principal.scopes) if principal else [],
        "anonymous": principal.anonymous if principal else False,
        "name": principal.name if principal else "",
    }
