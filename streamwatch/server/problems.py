"""Errors as problem documents (RFC 9457). What a client sent never comes back in one: it may be a secret."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from streamwatch.errors import (
    ConfigError,
    Conflict,
    NotFound,
    Overloaded,
    StorageError,
    StreamWatchError,
    UrlNotAllowed,
)
from streamwatch.redact import redact

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)
_STATUS: tuple[tuple[type[StreamWatchError], int], ...] = (
    (NotFound, 404),
    (Conflict, 409),
    (UrlNotAllowed, 403),
    (ConfigError, 422),
    (Overloaded, 503),
    (StorageError, 503),
)


class Fault(BaseModel):
    """One field that is wrong."""

    path: str
    message: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    errors: list[Fault] = []


def document(status: int, detail: str, instance: str, faults: list[Fault] | None = None) -> dict[str, Any]:
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=redact(detail), instance=instance)
    body = problem.model_dump(exclude={"errors"})
    return {**body, "errors": [fault.model_dump() for fault in faults]} if faults else body


def response(request: Request, status: int, detail: str, **more: Any) -> JSONResponse:
    """`more`: `faults`, `headers`."""
    headers = more.pop("headers", None)
    body = document(status, detail, redact(request.url.path), **more)
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)


def responses(*statuses: int, also: dict[int | str, dict[str, Any]] | None = None) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI description: problems, and what else it may answer."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses
    }
    return {**(also or {}), **described}


def faults_of(error: ValidationError | RequestValidationError) -> list[Fault]:
    faults = []
    for item in error.errors():
        where = [str(part) for part in item["loc"]]
        path = ".".join(where[1:] if where and where[0] in {"body", "query", "path"} else where)
        message = "unknown key" if item["type"] == "extra_forbidden" else str(item["msg"]).removeprefix("Value error, ")
        faults.append(Fault(path=path, message=message))
    return faults


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Adds to an OpenAPI document what `responses` refers to, and takes away the framework's own error model."""
    schemas = document["components"]["schemas"]
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas |= problem.pop("$defs") | {"Problem": problem}
    for operations in document["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                operation["responses"]["422"] = responses(422)[422]
    return document


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem document, and describes it so."""
    made = app.openapi
    app.openapi = lambda: app.openapi_schema or describe(made())  # type: ignore[method-assign]

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return response(request, error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        malformed = any(item["type"] == "json_invalid" for item in error.errors())
        faults = faults_of(error)
        detail = "the body is not JSON" if malformed else "; ".join(f"{f.path}: {f.message}" for f in faults)
        return response(request, 400 if malformed else 422, detail, faults=None if malformed else faults)

    @app.exception_handler(StreamWatchError)
    async def ours(request: Request, error: StreamWatchError) -> Response:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return response(request, status, str(error))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed: %s", request.method, request.url.path, redact(repr(error)))
        return response(request, 500, "an unexpected error; the service's log says more")
