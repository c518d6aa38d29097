"""`/api/v1/whip`: WebRTC ingest (RFC 9725). The gateway knows WebRTC; here it is only carried."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from streamwatch.errors import ConfigError, NotFound
from streamwatch.protocols import WhipGateway
from streamwatch.server.deps import Operator, Services, StreamId, The
from streamwatch.server.problems import responses

router = APIRouter(prefix="/whip", tags=["whip"], responses=responses(401, 403, 404, 413, 415, 422, 503))
SessionId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


def _body(media_type: str, example: str) -> dict[str, Any]:
    content = {media_type: {"schema": {"type": "string"}, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/{stream}",
    status_code=201,
    summary="Publish",
    response_class=Response,
    responses=responses(409, also={201: {"content": {"application/sdp": {}}, "description": "the answer"}}),
    openapi_extra=_body("application/sdp", "v=0\r\n"),
)
async def publish(services: The, _: Operator, stream: StreamId, request: Request) -> Response:
    """Opens UDP ports for this one publisher."""
    session, answer = await _gateway(services).publish(stream, await _text(request))
    headers = {"Location": f"/api/v1/whip/{stream}/{session}", "Accept-Patch": "application/trickle-ice-sdpfrag"}
    return Response(answer, 201, headers, media_type="application/sdp")


@router.patch(
    "/{stream}/{session}",
    status_code=204,
    summary="Trickle candidates",
    openapi_extra=_body("application/trickle-ice-sdpfrag", "a=end-of-candidates\r\n"),
)
async def trickle(services: The, _: Operator, stream: StreamId, session: SessionId, request: Request) -> None:
    await _gateway(services).trickle(stream, session, await _text(request))


@router.delete("/{stream}/{session}", summary="Stop publishing", response_class=Response)
async def close(services: The, _: Operator, stream: StreamId, session: SessionId) -> Response:
    await _gateway(services).close(stream, session)
    return Response(status_code=200)


def _gateway(services: Services) -> WhipGateway:
    if services.control.whip is None:
        raise NotFound("WebRTC ingest is not available")
    return services.control.whip


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise ConfigError("body: is not UTF-8") from None
