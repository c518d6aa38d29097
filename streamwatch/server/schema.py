"""The websocket's messages as JSON Schema and AsyncAPI, made from the types in wire.py."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from streamwatch.server import wire

FROM_SERVICE: dict[str, Any] = {
    "snapshot": wire.SnapshotMessage,
    "score": wire.ScoreMessage,
    "stream": wire.StreamMessage,
    "removed": wire.RemovedMessage,
    "alert": wire.AlertMessage,
    "heartbeat": wire.HeartbeatMessage,
    "error": wire.ErrorMessage,
    "picture": wire.PictureHeader,
}
FROM_CLIENT: dict[str, Any] = {
    "subscribe": wire.SubscribeMessage,
    "ping": wire.PingMessage,
    "resume": wire.ResumeMessage,
}


@cache
def messages() -> dict[str, Any]:
    """JSON Schema 2020-12: `$defs` has one schema for each type of message; the whole is any text message of the
    service."""
    definitions: dict[str, Any] = {}
    for name, kind in {**FROM_SERVICE, **FROM_CLIENT}.items():
        schema = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}", mode="serialization")
        definitions.update(schema.pop("$defs", {}))
        definitions[name] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "StreamWatch websocket protocol v1",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in FROM_SERVICE if name != "picture"],
        "$defs": definitions,
    }


@cache
def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3.0."""
    schemas = _moved(messages()["$defs"])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "StreamWatch websocket",
            "version": "1",
            "description": "A snapshot first, then changes; see docs/protocol.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "live": {
                "address": "/api/v1/ws",
                "bindings": {"ws": {"query": {"type": "object", "properties": _QUERY}}},
                "messages": {name: _reference("messages", name) for name in {**FROM_SERVICE, **FROM_CLIENT}},
            }
        },
        "operations": {
            "publish": {"action": "send", "channel": {"$ref": "#/channels/live"}, "messages": _of(FROM_SERVICE)},
            "obey": {"action": "receive", "channel": {"$ref": "#/channels/live"}, "messages": _of(FROM_CLIENT)},
        },
        "components": {
            "messages": {
                name: {"name": name, "payload": _reference("schemas", name), **_media(name)}
                for name in {**FROM_SERVICE, **FROM_CLIENT}
            },
            "schemas": schemas,
        },
    }


_QUERY = {
    "streams": {"type": "string", "description": "ids with commas between; absent: all"},
    "resume": {"type": "string", "enum": ["1"], "description": "the client's first message will be `resume`"},
}


def _media(name: str) -> dict[str, str]:
    """A picture is a binary message: this schema describes the header that it begins with."""
    return {"contentType": "application/octet-stream"} if name == "picture" else {}


def _of(names: dict[str, Any]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/live/messages/{name}"} for name in names]


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _moved(value: Any) -> Any:
    """The same schemas with their references pointing to where AsyncAPI keeps them."""
    if isinstance(value, dict):
        return {
            key: item.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(item)
            for key, item in value.items()
        }
    return [_moved(item) for item in value] if isinstance(value, list) else value
