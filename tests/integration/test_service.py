"""The whole service on the real camera: what a client sees while cameras come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from streamwatch.app import Service
from streamwatch.camera import Camera, Credentials
from streamwatch.config import HistorySettings
from streamwatch.domain import Alert, AlertEvent, AlertKind, AlertPhase, Instant, Severity
from streamwatch.errors import ServerError
from streamwatch.history.store import History
from tests.fakes.people import people, quick_config

SECRET = "hunter2-planted"


@contextlib.asynccontextmanager
async def messages(service: Service) -> AsyncIterator[ClientConnection]:
    url = service.url.replace("http", "ws", 1) + "api/v1/ws"
    async with connect(url) as socket:
        first = json.loads(await socket.recv())
        assert first["type"] == "snapshot"
        yield socket


async def wait_for(socket: ClientConnection, seconds: float = 60.0, **fields: Any) -> dict[str, Any]:
    """The next message that has these values."""
    async with asyncio.timeout(seconds):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if all(message.get(key) == value for key, value in fields.items()):
                return message


async def scored_face(socket: ClientConnection) -> dict[str, Any]:
    """The next message with a face that the members have judged."""
    while True:
        message = await wait_for(socket, type="score", state="live")
        if any(face["members"] for face in message["faces"]):
            return message


async def test_scores_camera_killed_state_changes_camera_back_scores_again(tmp_path: Path) -> None:
    clip = people()
    async with Camera([clip]) as camera:
        config = quick_config(tmp_path, {"lobby": {"url": camera.url, "name": "Lobby"}})
        async with Service(config) as service, messages(service) as socket:
            score = await scored_face(socket)
            assert score["stream"] == "lobby"
            assert score["frame"] == [1280, 720]
            assert set(score["faces"][0]["members"]) == {"TimmV2", "TimmV2ST", "ViT", "ViTST"}
            assert score["age_ms"] >= 0

            await camera.stop()
            lost = await wait_for(socket, type="stream", state="reconnecting")
            assert lost["reason"] in ("ended", "stalled", "connection_failed")
            assert lost["seq"] > score["seq"]

            async with Camera([clip], port=camera.port):
                await wait_for(socket, type="stream", state="live")
                again = await scored_face(socket)
                assert again["seq"] > lost["seq"]


@pytest.mark.slow
async def test_at_a_high_rate_frames_between_detections_follow_the_faces(tmp_path: Path) -> None:
    async with Camera([people(seconds=8.0)]) as camera:
        streams = {"lobby": {"url": camera.url, "sample_fps": 15.0, "burst_fps": 15.0}}
        config = quick_config(tmp_path, streams, ingest={"budget_fps": 15.0}, detector={"max_fps": 3.0})
        async with Service(config) as service, messages(service) as socket:
            while not any(face["confirmed"] for face in (await scored_face(socket))["faces"]):
                pass
            counters = service.fleet["lobby"].counters

            def looked() -> tuple[int, int]:
                return service.engine.describe()["batches"]["detect"]["items"], counters.sampled

            detections, sampled = looked()
            for _ in range(30):
                message = await wait_for(socket, type="score", state="live")
                # The same person throughout, whoever said where: the detector or the motion.
                faces = {face["track"]: face for face in message["faces"] if face["confirmed"]}
                assert 1 in faces
                assert faces[1]["logit"] is not None
            more = [now - then for now, then in zip(looked(), (detections, sampled), strict=True)]
            assert 0 < more[0] < 0.5 * more[1]


async def test_a_planted_secret_comes_out_nowhere(tmp_path: Path) -> None:
    seen: list[str] = []
    async with Camera([people()], credentials=Credentials("admin", SECRET, "digest")) as camera:
        host = f"127.0.0.1:{camera.port}/cam"
        streams = {
            "right": {"url": f"rtsp://admin:{SECRET}@{host}"},
            "wrong": {"url": f"rtsp://admin:{SECRET}-wrong@{host}"},
            "dead": {"url": f"rtsp://admin:{SECRET}@127.0.0.1:9/x?token={SECRET}"},
            "missing": {"url": f"http://user:{SECRET}@127.0.0.1:9/live.m3u8?auth={SECRET}"},
        }
        config = quick_config(tmp_path, streams)
        async with Service(config) as service, messages(service) as socket:
            # The service has taken over the root logger: catch what passes its formatter.
            handler = logging.getLogger().handlers[0]
            logged: list[str] = []
            handler.emit = lambda record: logged.append(handler.format(record))  # type: ignore[method-assign]
            refused = await wait_for(socket, type="stream", stream="wrong", reason="auth_failed")
            seen.append(json.dumps(refused))
            async with asyncio.timeout(30):
                while True:
                    text = await socket.recv()
                    assert isinstance(text, str)
                    seen.append(text)
                    message = json.loads(text)
                    if message.get("stream") == "right" and message.get("faces"):
                        break
            async with httpx.AsyncClient(base_url=service.url) as http:
                for path in ("api/v1/streams", "api/v1/config", "api/v1/system", "api/v1/alerts", "metrics", ""):
                    answer = await http.get(path)
                    seen += [answer.text, str(answer.headers)]
                for body in ({"id": "x", "url": f"nope://u:{SECRET}@h/"}, {"id": "x", "url": f"rtsp://:{SECRET}@[/"}):
                    answer = await http.post("api/v1/streams", json=body)
                    seen.append(answer.text)
        assert logged
        seen += logged
    for text in seen:
        assert SECRET not in text
    for written in tmp_path.rglob("*"):
        if written.is_file():
            assert SECRET.encode() not in written.read_bytes(), written


async def left_open(history: HistorySettings) -> None:
    """An alert as a service leaves it that was killed before its evidence was sealed."""
    at = Instant(0.0, time.time() - 2)
    alert = Alert("a1", AlertKind.DEEPFAKE, "deepfake", "lobby", Severity.CRITICAL, at, at, 0.9, 0.9, 0.7, "Face 1", 1)
    store = History(history)
    await store.open()
    await store.alerts.record(AlertEvent(AlertPhase.OPENED, None, alert), ["log"])
    await store.close()


async def test_a_service_that_was_killed_within_the_post_roll_starts_again(tmp_path: Path) -> None:
    config = quick_config(tmp_path, {"lobby": {"url": "rtsp://127.0.0.1:9/x", "store_frames": "never"}})
    await left_open(config.history)
    async with Service(config) as service, httpx.AsyncClient(base_url=service.url, timeout=30) as http:
        assert [a["id"] for a in (await http.get("/api/v1/alerts?active=true")).json()["items"]] == ["a1"]
        async with asyncio.timeout(20):
            while (await http.get("/api/v1/alerts/a1/evidence")).status_code != 200:
                await asyncio.sleep(0.1)
    manifest = json.loads((tmp_path / "evidence" / "a1" / "manifest.json").read_text())
    assert (manifest["alert"]["labels"]["interrupted"], manifest["pictures"]) == ("true", "never")
    assert manifest["identity"]["source"] == "rtsp://127.0.0.1:9/x"


async def test_a_port_in_use_is_named_and_nothing_is_left_running_or_touched(tmp_path: Path) -> None:
    before = {task.get_name() for task in asyncio.all_tasks()}
    async with Service(quick_config(tmp_path, {})) as first:
        config = quick_config(tmp_path, {}, server={"port": first.address.port})
        await left_open(config.history)  # by the first, as the second would find it
        with pytest.raises(ServerError, match=f"127.0.0.1:{first.address.port}") as caught:
            async with Service(config):
                pass
        assert caught.value.exit_code == 6
        assert not (tmp_path / "evidence" / "a1").exists()
        assert not list((tmp_path / "evidence").glob(".partial*"))
    async with asyncio.timeout(5):
        while {task.get_name() for task in asyncio.all_tasks()} - before:
            await asyncio.sleep(0.05)


async def test_it_stops_within_five_seconds_whatever_its_cameras_do(tmp_path: Path) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        finally:
            writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, Camera([people()]) as camera:
        streams = {
            "alive": {"url": camera.url},
            "silent": {"url": f"rtsp://127.0.0.1:{port}/x"},
            "dead": {"url": "rtsp://127.0.0.1:9/x"},
        }
        async with contextlib.AsyncExitStack() as stack:
            service = await stack.enter_async_context(Service(quick_config(tmp_path, streams)))
            async with messages(service) as socket:
                await wait_for(socket, type="score", stream="alive")
            _, slow = await asyncio.open_connection("127.0.0.1", service.address.port)
            slow.write(b"POST /api/v1/streams HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
            slow.write(b"Content-Length: 100\r\n\r\n")  # and never a body
            await slow.drain()
            begun = time.monotonic()
            await stack.aclose()
            assert time.monotonic() - begun < 5.0
            slow.close()
