"""`/api/v1/alerts`, with the evidence of each."""

from __future__ import annotations

import asyncio
import mimetypes
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from streamwatch.errors import NotFound
from streamwatch.server.deps import AlertId, BundleId, Operator, Reader, The, decode_cursor, encode_cursor
from streamwatch.server.messages import alert_record
from streamwatch.server.ports import AlertQuery
from streamwatch.server.problems import responses
from streamwatch.server.resources import (
    AlertFilter,
    DeliveriesRecord,
    EvidenceFile,
    EvidenceRecord,
    Page,
    ReviewBody,
    delivery_record,
)
from streamwatch.server.wire import AlertRecord

router = APIRouter(prefix="/alerts", tags=["alerts"], responses=responses(401, 403, 422))
FileName = Annotated[
    str, PathParameter(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", description="a file of the list")
]


@router.get("", summary="List alerts, newest first")
async def list_alerts(services: The, _: Reader, wish: Annotated[AlertFilter, Query()]) -> Page[AlertRecord]:
    query = AlertQuery(
        stream=wish.stream,
        active=wish.active,
        kind=wish.kind,
        review=wish.review,
        since=wish.since.timestamp() if wish.since else None,
        until=wish.until.timestamp() if wish.until else None,
        before=decode_cursor(wish.cursor) if wish.cursor else None,
        limit=wish.limit + 1,
    )
    found = list(await services.control.alerts(query))
    page = found[: wish.limit]
    following = encode_cursor(page[-1].opened_at.wall, page[-1].id) if len(found) > wish.limit else None
    return Page(items=[alert_record(alert) for alert in page], next=following)


@router.get("/{alert}", summary="One alert", responses=responses(404))
async def get_alert(services: The, _: Reader, alert: AlertId) -> AlertRecord:
    return alert_record(await services.control.alert(alert))


@router.patch("/{alert}", summary="Review an alert", responses=responses(400, 404, 413, 415))
async def review_alert(services: The, principal: Operator, alert: AlertId, body: ReviewBody) -> AlertRecord:
    by = principal.name or "local"
    return alert_record(await services.control.review_alert(alert, body.review, body.note, by))


@router.get("/{alert}/deliveries", summary="Who was told of it, and who was not", responses=responses(404))
async def deliveries(services: The, _: Reader, alert: AlertId) -> DeliveriesRecord:
    """By sink and sequence; `dead` was given up, and `error` says why."""
    await services.control.alert(alert)
    return {"items": [delivery_record(delivery) for delivery in await services.control.deliveries(alert)]}


@router.get("/{alert}/evidence", summary="Files of the alert's evidence", responses=responses(404))
async def evidence(services: The, _: Reader, alert: BundleId) -> EvidenceRecord:
    """`joined` names the bundles of faces that joined the alert later."""
    own, *joined = await services.control.evidence(alert)
    files = await asyncio.to_thread(_files, own)
    base = f"/api/v1/alerts/{quote(alert)}/evidence"
    listed: list[EvidenceFile] = [
        {"name": path.name, "size": size, "media_type": _media_type(path), "href": f"{base}/{quote(path.name)}"}
        for path, size in files
    ]
    return {"alert": alert, "files": listed, "zip": f"{base}.zip", "joined": [path.name for path in joined]}


@router.get("/{alert}/evidence/{name}", summary="One file of it", response_class=FileResponse, responses=responses(404))
async def evidence_file(services: The, _: Reader, alert: BundleId, name: FileName) -> Response:
    """Ranges are served, so that a player can seek."""
    own, *_joined = await services.control.evidence(alert)
    for path, _size in await asyncio.to_thread(_files, own):
        if path.name == name:
            return FileResponse(path, media_type=_media_type(path))
    raise NotFound(f"the evidence of {alert} has no file {name}")


@router.get(
    "/{alert}/evidence.zip", summary="All of it, as a ZIP file", response_class=FileResponse, responses=responses(404)
)
async def evidence_zip(services: The, _: Reader, alert: BundleId) -> Response:
    """A directory for each bundle: the alert's own, and those of faces that joined."""
    path = await asyncio.to_thread(_zipped, alert, await services.control.evidence(alert))
    done = BackgroundTask(path.unlink, missing_ok=True)
    return FileResponse(path, media_type="application/zip", filename=f"evidence-{alert}.zip", background=done)


def _files(directory: Path) -> list[tuple[Path, int]]:
    """Plain files that lie in the directory itself, with their sizes."""
    return [
        (path, path.stat().st_size)
        for path in sorted(directory.iterdir())
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    ]


def _zipped(alert: str, directories: Sequence[Path]) -> Path:
    """A temporary file; the media in it are compressed already, so they are only stored."""
    own, *joined = directories
    with tempfile.NamedTemporaryFile(prefix="streamwatch-", suffix=".zip", delete=False) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, directory in [(alert, own), *((path.name, path) for path in joined)]:
                for path, _ in _files(directory):
                    archive.write(path, f"{name}/{path.name}")
        return Path(file.name)


def _media_type(path: Path) -> str:
    known = {".md": "text/markdown", ".sig": "application/octet-stream", ".pem": "application/x-pem-file"}
    return known.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
