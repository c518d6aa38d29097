"""The HTTP API: streams, alerts, evidence, configuration; every error a problem document."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from streamwatch.errors import ConfigError, StorageError
from streamwatch.server.ports import DeliveryView, ReloadReport, ScorePoint
from tests.fakes.control import alert, frame_scores, stream_score
from tests.unit.server.conftest import Api

LOBBY = {"id": "lobby", "url": "rtsp://user:pa55word@10.0.0.7/one?token=pa55word", "name": "Lobby"}


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "instance"} <= set(body)
    return body


def decoded(response: httpx.Response) -> Any:
    image = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


async def test_a_stream_from_its_creation_to_its_removal(api: Api) -> None:
    made = await api.http.post("/api/v1/streams", json=LOBBY)
    assert made.status_code == 201
    assert made.headers["location"] == "/api/v1/streams/lobby"
    assert made.json()["url"] == "rtsp://10.0.0.7/one"
    assert (await api.http.get("/api/v1/streams/lobby")).json() == {**made.json()}
    paused = await api.http.patch("/api/v1/streams/lobby", json={"enabled": False, "sample_fps": 4})
    assert (paused.json()["state"], paused.json()["settings"]["sample_fps"]) == ("paused", 4)
    reset = await api.http.patch("/api/v1/streams/lobby", json={"sample_fps": None, "name": None, "enabled": True})
    assert (reset.json()["state"], reset.json()["settings"]["sample_fps"]) == ("live", None)
    assert reset.json()["name"] == "lobby"
    assert (await api.http.delete("/api/v1/streams/lobby")).status_code == 204
    problem(await api.http.get("/api/v1/streams/lobby"), 404)
    problem(await api.http.delete("/api/v1/streams/lobby"), 404)


async def test_creating_again_is_idempotent_but_not_with_other_settings(api: Api) -> None:
    assert (await api.http.post("/api/v1/streams", json=LOBBY)).status_code == 201
    assert (await api.http.post("/api/v1/streams", json=LOBBY)).status_code == 200
    problem(await api.http.post("/api/v1/streams", json={**LOBBY, "url": "rtsp://10.0.0.8/"}), 409)


async def test_if_match_guards_against_a_lost_update(api: Api) -> None:
    old = (await api.http.post("/api/v1/streams", json=LOBBY)).headers["etag"]
    first = await api.http.patch("/api/v1/streams/lobby", json={"name": "One"}, headers={"If-Match": old})
    assert first.status_code == 200
    problem(await api.http.patch("/api/v1/streams/lobby", json={"name": "Two"}, headers={"If-Match": old}), 412)
    url = await api.http.patch("/api/v1/streams/lobby", json={"url": "rtsp://user:other@10.0.0.7/one?token=pa55word"})
    assert url.headers["etag"] != first.headers["etag"], "a change of the secret alone changes the tag"


async def test_lists_are_paged(api: Api) -> None:
    for name in "cabed":
        await api.http.post("/api/v1/streams", json={"id": name, "url": "rtsp://h/"})
        api.control.held[name] = alert(name, opened=1000.0 + ord(name) // 2)  # some at the same moment
    for path, key, expected in (("streams", "id", "abcde"), ("alerts", "id", "edcba")):
        found, cursor = "", None
        for _ in range(3):
            query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = (await api.http.get(f"/api/v1/{path}", params=query)).json()
            found += "".join(item[key] for item in page["items"])
            cursor = page["next"]
        assert (found, cursor) == (expected, None)
    problem(await api.http.get("/api/v1/alerts", params={"cursor": "%%%"}), 422)


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status"),
    [
        ("GET", "/api/v1/nothing", {}, 404),
        ("GET", "/nothing.html", {}, 404),
        ("GET", "/../deps.py", {}, 404),
        ("DELETE", "/api/v1/streams", {}, 405),
        ("POST", "/api/v1/streams", {"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ("POST", "/api/v1/streams", {"content": b"id=a", "headers": {"content-type": "text/plain"}}, 415),
        ("POST", "/api/v1/streams", {"json": {"id": "UPPER", "url": "rtsp://h/"}}, 422),
        ("POST", "/api/v1/streams", {"json": {"id": "a", "url": "rtsp://h/", "sample_fps": -1}}, 422),
        ("POST", "/api/v1/streams", {"json": {"id": "a", "url": "file:/etc/passwd"}}, 403),
        ("POST", "/api/v1/streams", {"json": {"id": "a", "url": "x" * 2_000_000}}, 413),
        ("PATCH", "/api/v1/streams/lobby", {"json": {"nonsense": 1}}, 422),
        ("PATCH", "/api/v1/streams/lobby", {"json": {"threshold": 2}}, 422),
        ("PATCH", "/api/v1/streams/lobby", {"json": {"url": None}}, 422),
        ("GET", "/api/v1/streams/lobby/snapshot.jpg", {}, 404),
        ("GET", "/api/v1/streams/lobby/scores?since=yesterday", {}, 422),
        ("GET", "/api/v1/streams/lobby/scores?since=2030-01-01T00:00:00Z&until=2020-01-01T00:00:00Z", {}, 422),
        ("GET", "/api/v1/alerts/unknown", {}, 404),
        ("GET", "/api/v1/alerts?kind=nonsense", {}, 422),
        ("POST", "/api/v1/whip/lobby", {"content": b"v=0", "headers": {"content-type": "application/sdp"}}, 404),
    ],
)
async def test_every_error_is_a_problem(api: Api, method: str, path: str, arguments: Any, status: int) -> None:
    await api.http.post("/api/v1/streams", json=LOBBY)
    body = problem(await api.http.request(method, path, **arguments), status)
    assert "pa55word" not in str(body)


async def test_faults_name_the_field_and_never_its_value(api: Api) -> None:
    body = {"id": "a", "url": ["rtsp://user:hunter2@h/"], "roi": [0, 0, 2, 1], "colour": "hunter2"}
    answer = problem(await api.http.post("/api/v1/streams", json=body), 422)
    assert {fault["path"].split(".")[0] for fault in answer["errors"]} == {"url", "roi", "colour"}
    assert "hunter2" not in str(answer)


async def test_our_failures_are_500_and_503_without_details(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Any:
        async def call(*_: object) -> None:
            raise error

        return call

    monkeypatch.setattr(api.control, "alerts", fails(RuntimeError("secret inside")))
    assert "secret" not in str(problem(await api.http.get("/api/v1/alerts"), 500))
    monkeypatch.setattr(api.control, "alerts", fails(StorageError("the database is away")))
    assert problem(await api.http.get("/api/v1/alerts"), 503)["detail"] == "the database is away"


async def test_pictures_are_the_newest_analysed_frame(api: Api) -> None:
    await api.http.post("/api/v1/streams", json=LOBBY)
    api.control.hub.score(stream_score("lobby", 5), frame_scores("lobby", 5))
    full = await api.http.get("/api/v1/streams/lobby/snapshot.jpg")
    assert full.headers["content-type"] == "image/jpeg"
    assert datetime.fromisoformat(full.headers["x-captured-at"]).tzinfo is UTC
    image = decoded(full)
    assert image.shape == (240, 320, 3)
    assert abs(int(image[200, 300, 0]) - 80) < 6, "frame 5 of the test picture has background 80"
    assert abs(int(image[80, 80, 2]) - 200) < 8, "red stays red"
    small = await api.http.get("/api/v1/streams/lobby/snapshot.jpg?width=160")
    assert decoded(small).shape == (120, 160, 3)
    heat = await api.http.get("/api/v1/streams/lobby/heat.png")
    assert heat.headers["x-box"] == "40.0,20.0,120.0,140.0"
    drawn = decoded(heat)
    assert drawn.shape == (14, 14, 4)
    assert drawn[0, 0, 3] == 0
    assert drawn[-1, -1, 3] > 150


async def test_the_past_is_given_in_rising_order(api: Api) -> None:
    await api.http.post("/api/v1/streams", json=LOBBY)
    api.control.points = [ScorePoint(1000.0 + i, 0.1 * i, "real", members={"ViT": 0.1}) for i in range(5)]
    query = {"since": "1970-01-01T00:16:41Z", "until": "1970-01-01T00:16:44"}
    page = (await api.http.get("/api/v1/streams/lobby/scores", params=query)).json()
    assert [point["score"] for point in page["items"]] == [0.1, 0.2, 0.3]
    assert page["items"][0]["at"] == "1970-01-01T00:16:41.000Z"


async def test_a_review_is_kept_and_told(api: Api) -> None:
    api.control.held["a1"] = alert("a1")
    body = {"review": "false_alarm", "note": "a film"}
    reviewed = (await api.http.patch("/api/v1/alerts/a1", json=body)).json()
    assert (reviewed["review"], reviewed["review_note"], reviewed["reviewed_by"]) == ("false_alarm", "a film", "local")
    listed = (await api.http.get("/api/v1/alerts", params={"review": "false_alarm"})).json()
    assert [item["id"] for item in listed["items"]] == ["a1"]
    assert not (await api.http.get("/api/v1/alerts", params={"review": "confirmed"})).json()["items"]
    assert (await api.http.get("/api/v1/alerts/a1")).json() == reviewed


async def test_evidence_is_listed_served_in_ranges_and_zipped(api: Api, tmp_path: Path) -> None:
    bundle = tmp_path / "a1"
    bundle.mkdir()
    (bundle / "clip.mp4").write_bytes(b"0123456789")
    (bundle / "manifest.json").write_text("{}")
    (bundle / ".partial").write_text("hidden")
    (bundle / "link").symlink_to("/etc/passwd")
    api.control.bundles["a1"] = bundle
    listed = (await api.http.get("/api/v1/alerts/a1/evidence")).json()
    assert [(f["name"], f["size"], f["media_type"]) for f in listed["files"]] == [
        ("clip.mp4", 10, "video/mp4"),
        ("manifest.json", 2, "application/json"),
    ]
    part = await api.http.get(listed["files"][0]["href"], headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    whole = await api.http.get(listed["zip"])
    with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
        assert archive.namelist() == ["a1/clip.mp4", "a1/manifest.json"]
    for name in ("link", ".partial", "..%2fa1%2fclip.mp4", "other.mp4"):
        assert (await api.http.get(f"/api/v1/alerts/a1/evidence/{name}")).status_code in {404, 422}
    problem(await api.http.get("/api/v1/alerts/a2/evidence"), 404)


async def test_evidence_of_a_face_that_joined_is_named_served_and_zipped_too(api: Api, tmp_path: Path) -> None:
    for name in ("a1", "a1+7", "a1+7-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
        api.control.bundles[name] = tmp_path / name
    own = (await api.http.get("/api/v1/alerts/a1/evidence")).json()
    assert own["joined"] == ["a1+7", "a1+7-2"]
    again = (await api.http.get("/api/v1/alerts/a1%2B7-2/evidence")).json()
    assert (await api.http.get(again["files"][0]["href"])).text == "a1+7-2"
    joined = (await api.http.get("/api/v1/alerts/a1%2B7/evidence")).json()
    assert (joined["alert"], joined["joined"]) == ("a1+7", [])
    assert (await api.http.get(joined["files"][0]["href"])).text == "a1+7"
    with zipfile.ZipFile(io.BytesIO((await api.http.get(own["zip"])).content)) as archive:
        assert archive.namelist() == ["a1/manifest.json", "a1+7/manifest.json", "a1+7-2/manifest.json"]
    problem(await api.http.get("/api/v1/alerts/a1%2Bx/evidence"), 422)


async def test_deliveries_say_who_was_told_and_who_was_not(api: Api) -> None:
    api.control.held["a1"] = alert("a1")
    assert (await api.http.get("/api/v1/alerts/a1/deliveries")).json() == {"items": []}
    api.control.told["a1"] = [DeliveryView("hook", 1, "dead", 4, 1e9, 1e9 + 60, "410 Gone")]
    assert (await api.http.get("/api/v1/alerts/a1/deliveries")).json()["items"] == [
        {
            "sink": "hook",
            "sequence": 1,
            "state": "dead",
            "attempts": 4,
            "created_at": "2001-09-09T01:46:40.000Z",
            "finished_at": "2001-09-09T01:47:40.000Z",
            "error": "410 Gone",
        }
    ]
    problem(await api.http.get("/api/v1/alerts/a2/deliveries"), 404)


async def test_configuration_is_shown_without_secrets_and_with_a_validator(api: Api) -> None:
    await api.http.post("/api/v1/streams", json=LOBBY)
    shown = await api.http.get("/api/v1/config")
    assert "pa55word" not in shown.text
    assert shown.json()["streams"]["lobby"]["name"] == "Lobby"
    again = await api.http.get("/api/v1/config", headers={"If-None-Match": shown.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_reload_reports_differences_or_why_not(api: Api) -> None:
    api.control.reloading = lambda: ReloadReport(added=("door",), restart_needed=("server.port",))
    report = await api.http.post("/api/v1/config/reload")
    assert report.json() == {"added": ["door"], "changed": [], "removed": [], "restart_needed": ["server.port"]}

    def bad() -> ReloadReport:
        raise ConfigError("streams.lobby.url: is required")

    api.control.reloading = bad
    assert "streams.lobby.url" in problem(await api.http.post("/api/v1/config/reload"), 422)["detail"]


async def test_health(api: Api) -> None:
    assert (await api.http.get("/livez")).text == "ok\n"
    assert (await api.http.get("/readyz")).json() == {"ready": True, "reasons": []}
    api.control.reasons = ["the weights are being loaded"]
    away = await api.http.get("/readyz")
    assert (away.status_code, away.json()["reasons"]) == (503, ["the weights are being loaded"])
    assert (await api.http.get("/livez")).status_code == 200
    system = (await api.http.get("/api/v1/system")).json()
    assert (system["ready"], system["epoch"], system["devices"]) == (False, api.services.hub.epoch, [{"name": "cpu"}])


async def test_the_dashboard_is_served_with_types_validators_and_a_strict_policy(api: Api) -> None:
    page = await api.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert (await api.http.get("/", headers={"If-None-Match": page.headers["etag"]})).status_code == 304
    script = await api.http.get("/js/clock.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "<script>" not in page.text, "inline scripts would not run under the policy"
    assert "onclick=" not in page.text
    assert (await api.http.get("/api/v1/streams")).headers["cache-control"] == "no-store"


async def test_schemas_are_published(api: Api) -> None:
    assert (await api.http.get("/api/v1/schema/messages.json")).json()["$defs"]["score"]["type"] == "object"
    assert (await api.http.get("/api/v1/schema/asyncapi.json")).json()["asyncapi"] == "3.0.0"
    assert (await api.http.get("/api/v1/schema/config.json")).json()["title"] == "StreamWatch configuration"
    openapi = (await api.http.get("/api/v1/openapi.json")).json()
    assert openapi["openapi"].startswith("3.1")
    url = openapi["components"]["schemas"]["NewStream"]["properties"]["url"]
    assert url["writeOnly"] is True
