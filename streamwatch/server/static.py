"""The dashboard's files: read once, served with validators. They hold nothing secret, and need no token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

DASHBOARD = Path(__file__).parent / "dashboard"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class Asset:
    data: bytes
    media_type: str
    etag: str


def load(directory: Path = DASHBOARD) -> dict[str, Asset]:
    """Path below the root -> asset. Only known kinds of files: nothing else that lies there is ever served."""
    assets = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix in MEDIA_TYPES:
            data = path.read_bytes()
            digest = hashlib.blake2b(data, digest_size=12).hexdigest()
            assets[path.relative_to(directory).as_posix()] = Asset(data, MEDIA_TYPES[path.suffix], f'"{digest}"')
    return assets


def router(assets: dict[str, Asset]) -> APIRouter:
    """A route for each file, and / for the page."""
    routes = APIRouter(include_in_schema=False)
    for path, asset in assets.items():
        routes.add_api_route(f"/{path}", _endpoint(asset), methods=["GET", "HEAD"])
    if "index.html" in assets:
        routes.add_api_route("/", _endpoint(assets["index.html"]), methods=["GET", "HEAD"])
    return routes


def _endpoint(asset: Asset) -> Callable[[Request], Coroutine[None, None, Response]]:
    async def serve(request: Request) -> Response:
        return _serve(asset, request)

    return serve


def _serve(asset: Asset, request: Request) -> Response:
    # no-cache: keep it, but ask each time; file names carry no version, and an old page with a new service must not be
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    given = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if asset.etag in given:
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.media_type, headers=headers)
