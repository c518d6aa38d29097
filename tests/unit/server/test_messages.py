"""Every message against the published schemas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from streamwatch.domain import (
    AlertEvent,
    AlertPhase,
    FailureReason,
    Instant,
    StreamInfo,
    StreamState,
    StreamStatus,
    UnknownReason,
    Verdict,
)
from streamwatch.server import messages, schema
from streamwatch.server.hub import Hub
from streamwatch.server.pictures import binary_message, heat_picture, jpeg
from tests.fakes.control import alert, frame_scores, stream_score

NOW = Instant(50.0, 1_700_000_000.25)
SCHEMA = schema.messages()


def check(kind: str, message: Any) -> None:
    """Through JSON, as a client sees it, against its own schema and the whole."""
    seen = json.loads(json.dumps(message, allow_nan=False))
    whole = {"$schema": SCHEMA["$schema"], "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator({**whole, "$ref": f"#/$defs/{kind}"}).validate(seen)
    if kind != "picture":
        jsonschema.Draft202012Validator(SCHEMA).validate(seen)


def test_the_schemas_are_valid_themselves() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = schema.asyncapi()
    assert document["asyncapi"] == "3.0.0"
    for reference in _references(document):
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in _references(item)]
    return [found for item in value for found in _references(item)] if isinstance(value, list) else []


def test_a_score() -> None:
    message = messages.score_message("e", 4, stream_score("lobby", 9, at=Instant(49.66, 1.0)), StreamState.LIVE, NOW)
    check("score", message)
    assert message["age_ms"] == 340
    assert message["faces"][0]["box"] == [40.0, 20.0, 120.0, 140.0]
    check("score", {**message, "skipped": 3})


def test_an_unknown_score_is_null_whatever_the_record_holds() -> None:
    score = replace(stream_score("lobby", 1), verdict=Verdict.UNKNOWN, reason=UnknownReason.STALE)
    message = messages.score_message("e", 1, score, StreamState.STALLED, NOW)
    check("score", message)
    assert (message["score"], message["verdict"], message["reason"]) == (None, "unknown", "stale")


def test_a_track_that_is_out_of_sight_has_no_box_in_the_message() -> None:
    score = stream_score("lobby", 1)
    hidden = replace(score, tracks=(replace(score.tracks[0], visible=False),))
    assert messages.score_message("e", 1, hidden, StreamState.LIVE, NOW)["faces"] == []


@pytest.mark.parametrize("state", list(StreamState))
def test_a_stream_in_each_state(state: StreamState) -> None:
    status = StreamStatus("lobby", state, NOW, FailureReason.TIMEOUT, "no packet for 5 s", 2, NOW.shifted(2), True)
    message = messages.stream_message("e", 1, "Lobby", status, StreamInfo("h264", 1280, 720, 25.0, "tcp"))
    check("stream", message)
    assert message["retry_at"] == "2023-11-14T22:13:22.250Z"


@pytest.mark.parametrize("phase", list(AlertPhase))
def test_an_alert_in_each_phase(phase: AlertPhase) -> None:
    opened = alert("a1")
    resolved = phase is AlertPhase.RESOLVED
    after = replace(opened, resolved_at=NOW if resolved else None, peak=float("inf"))
    message = messages.alert_message("e", 1, AlertEvent(phase, None if phase is AlertPhase.OPENED else opened, after))
    check("alert", message)
    assert message["after"]["active"] is not resolved
    assert message["after"]["peak"] is None, "JSON knows no infinity"


def test_snapshot_removed_heartbeat_error() -> None:
    hub = Hub()
    hub.status(StreamStatus("lobby", StreamState.LIVE, NOW), None)
    hub.score(stream_score("lobby", 1), None)
    hub.status(StreamStatus("door", StreamState.FAILED, NOW, FailureReason.AUTH_FAILED), None)
    hub.alert(AlertEvent(AlertPhase.OPENED, None, alert("a1")))
    check("snapshot", hub.snapshot(None))
    check("removed", messages.removed_message("e", 3, "lobby", NOW))
    check("heartbeat", messages.heartbeat_message("e", NOW))
    check("error", messages.error_message("e", "bad_message", "not JSON"))


def test_the_head_of_a_picture() -> None:
    scores = frame_scores("lobby", 1)
    heat = heat_picture(scores)
    assert heat is not None
    for kind, picture in (("thumbnail", jpeg(scores.frame, 160)), ("heat", heat)):
        data = binary_message("e", kind, scores.frame, picture)
        length = int.from_bytes(data[:4], "big")
        check("picture", json.loads(data[4 : 4 + length]))
        assert data[4 + length :] == picture.data
        assert data[4 + length :].startswith(b"\xff\xd8" if kind == "thumbnail" else b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("subscribe", {"type": "subscribe", "streams": ["lobby"], "thumbnails": "small", "heat": True}),
        ("subscribe", {"type": "subscribe", "streams": None, "thumbnails": False}),
        ("ping", {"type": "ping"}),
        ("resume", {"type": "resume", "epoch": "b3f1", "seq": {"lobby": 812}}),
    ],
)
def test_what_a_client_sends(kind: str, message: dict[str, Any]) -> None:
    whole = {"$schema": SCHEMA["$schema"], "$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"}
    jsonschema.Draft202012Validator(whole).validate(message)


def test_the_examples_of_the_documentation_hold() -> None:
    """Each complete example message in docs/protocol.md is valid; abridged ones hold an ellipsis."""
    text = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
    decoder, seen, at = json.JSONDecoder(), set(), 0
    while (at := text.find('{"v":1', at)) >= 0:
        message, end = decoder.raw_decode(text, at)
        if "..." not in text[at:end]:
            check(message["type"], message)
            seen.add(message["type"])
        at = end
    assert seen >= {"score", "stream", "removed", "heartbeat", "error"}
