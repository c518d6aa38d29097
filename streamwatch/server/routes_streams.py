"""`/api/v1/streams`."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Response

from streamwatch.config import StreamSettings
from streamwatch.domain import FrameScores
from streamwatch.errors import ConfigError, Conflict, NotFound
from streamwatch.server import pictures
from streamwatch.server.deps import Cursor, Limit, Operator, Reader, Services, StreamId, The
from streamwatch.server.messages import iso
from streamwatch.server.ports import ScoreQuery, StreamView
from streamwatch.server.problems import responses
from streamwatch.server.resources import (
    NewStream,
    Page,
    PointRecord,
    StreamPatch,
    StreamRecord,
    Time,
    etag,
    patched,
    point_record,
    stream_record,
)

router = APIRouter(prefix="/streams", tags=["streams"], responses=responses(401, 403))
MAX_POINTS = 20_000
_IMAGE = {"headers": {"X-Captured-At": {"schema": {"type": "string", "format": "date-time"}}}}


def _record(services: Services, view: StreamView) -> StreamRecord:
    return stream_record(view, services.hub.latest_score(view.id))


def _etag(services: Services, view: StreamView) -> str:
    return etag(_plain(view.settings), services.etag_key)


def _plain(settings: StreamSettings) -> dict[str, Any]:
    return {**settings.model_dump(mode="json"), "url": settings.url.get_secret_value()}


@router.get("", summary="List streams")
async def list_streams(services: The, _: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[StreamRecord]:
    views = [view for view in services.control.streams() if cursor is None or view.id > cursor]
    page = views[:limit]
    return Page(items=[_record(services, v) for v in page], next=page[-1].id if len(views) > limit else None)


@router.post(
    "",
    status_code=201,
    summary="Add a stream",
    responses=responses(
        400,
        409,
        413,
        415,
        422,
        also={200: {"model": StreamRecord, "description": "it was there already"}},
    ),
)
async def add_stream(services: The, _: Operator, body: NewStream, response: Response) -> StreamRecord:
    """Starts it and touches no other. Asking again for the same is no error, so that a client may simply try again."""
    settings = StreamSettings.model_validate({name: getattr(body, name) for name in StreamSettings.model_fields})
    response.headers["Location"] = f"/api/v1/streams/{body.id}"
    try:
        view = await services.control.add_stream(body.id, settings)
    except Conflict:
        view = services.control.stream(body.id)
        if _plain(view.settings) != _plain(settings):
            raise
        response.status_code = 200
    response.headers["ETag"] = _etag(services, view)
    return _record(services, view)


@router.get("/{stream}", summary="One stream", responses=responses(404, 422))
async def get_stream(services: The, _: Reader, stream: StreamId, response: Response) -> StreamRecord:
    view = services.control.stream(stream)
    response.headers["ETag"] = _etag(services, view)
    return _record(services, view)


@router.patch(
    "/{stream}", summary="Change, pause or resume a stream", responses=responses(400, 404, 412, 413, 415, 422)
)
async def change_stream(
    services: The,
    _: Operator,
    stream: StreamId,
    body: StreamPatch,
    response: Response,
    if_match: Annotated[str | None, Header()] = None,
) -> StreamRecord:
    view = services.control.stream(stream)
    if if_match is not None and if_match.strip() not in {"*", _etag(services, view)}:
        raise HTTPException(412, "the stream's settings have changed since")
    changed = patched(view.settings, {name: getattr(body, name) for name in body.model_fields_set})
    view = await services.control.change_stream(stream, changed)
    response.headers["ETag"] = _etag(services, view)
    return _record(services, view)


@router.delete("/{stream}", status_code=204, summary="Remove a stream", responses=responses(404, 422))
async def remove_stream(services: The, _: Operator, stream: StreamId) -> None:
    await services.control.remove_stream(stream)


@router.get("/{stream}/scores", summary="A stream's past", responses=responses(404, 422))
async def scores(
    services: The,
    _: Reader,
    stream: StreamId,
    since: Annotated[Time | None, Query(description="default: ten minutes before `until`")] = None,
    until: Annotated[Time | None, Query(description="default: now")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_POINTS)] = 2000,
) -> Page[PointRecord]:
    services.control.stream(stream)
    end = until.timestamp() if until else time.time() + 1.0
    start = since.timestamp() if since else end - 600.0
    if start >= end:
        raise ConfigError("since: must lie before until")
    points = await services.control.scores(ScoreQuery(stream, start, end, limit))
    return Page(items=[point_record(point) for point in points])


@router.get(
    "/{stream}/snapshot.jpg",
    summary="The newest analysed frame",
    response_class=Response,
    responses=responses(404, 422, also={200: {"content": {"image/jpeg": {}}, "description": "JPEG", **_IMAGE}}),
)
async def snapshot(
    services: The, _: Reader, stream: StreamId, width: Annotated[int | None, Query(ge=16, le=8192)] = None
) -> Response:
    scores = _picture(services, stream)
    picture = await asyncio.to_thread(pictures.jpeg, scores.frame, width)
    return Response(picture.data, media_type="image/jpeg", headers=_about(scores))


@router.get(
    "/{stream}/heat.png",
    summary="Heat map of the worst face",
    response_class=Response,
    responses=responses(404, 422, also={200: {"content": {"image/png": {}}, "description": "RGBA PNG", **_IMAGE}}),
)
async def heat(services: The, _: Reader, stream: StreamId) -> Response:
    """To be stretched over the box in `X-Box` (pixels of the frame in `X-Frame`)."""
    scores = _picture(services, stream)
    picture = await asyncio.to_thread(pictures.heat_picture, scores)
    if picture is None or picture.face is None:
        raise NotFound(f"{stream}: no face with a heat map in the newest frame")
    box = ",".join(f"{side:.1f}" for side in picture.face.face.box)
    return Response(picture.data, media_type="image/png", headers={**_about(scores), "X-Box": box})


def _picture(services: Services, stream: str) -> FrameScores:
    services.control.stream(stream)
    scores = services.hub.picture(stream)
    if scores is None:
        raise NotFound(f"{stream}: there is no analysed frame now")
    return scores


def _about(scores: FrameScores) -> dict[str, str]:
    width, height = scores.frame.size
    return {"X-Captured-At": iso(scores.frame.captured_at.wall), "X-Frame": f"{width},{height}"}
