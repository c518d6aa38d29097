"""The server on a real port: websockets, resuming, slow and many clients, start and stop."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from streamwatch.cli import main
from streamwatch.client import follow, socket_url
from streamwatch.config import ServerSettings
from streamwatch.domain import AlertEvent, AlertPhase, StreamState, StreamStatus
from streamwatch.errors import ConfigError, ServerError
from streamwatch.server.deps import Services
from streamwatch.server.hub import Hub, HubOptions
from streamwatch.server.run import Address, reserve, serving
from streamwatch.server.tokens import Scope
from tests.fakes.certificates import self_signed
from tests.fakes.control import alert, build, frame_scores, instant, stream_score


@asynccontextmanager
async def running(path: Path, options: HubOptions | None = None, **server: Any) -> AsyncIterator[tuple[Services, str]]:
    services, _ = build(path, options, **server)
    async with serving(services) as address:
        yield services, socket_url(address.url).partition("?")[0]


def live(hub: Hub, *streams: str) -> None:
    for stream in streams:
        hub.status(StreamStatus(stream, StreamState.LIVE, instant()), None)


async def receive(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        message: dict[str, Any] = json.loads(await client.recv())
        return message


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_client_sees_a_snapshot_changes_and_pictures_and_may_ask(tmp_path: Path) -> None:
    async with running(tmp_path) as (services, url), connect(f"{url}?streams=lobby") as client:
        live(services.hub, "lobby", "door")
        assert (await receive(client))["type"] == "snapshot"
        assert (await receive(client))["stream"] == "lobby"
        services.hub.score(stream_score("door", 1), None)
        services.hub.score(stream_score("lobby", 1), None)
        score = await receive(client)
        assert (score["type"], score["stream"], score["score"]) == ("score", "lobby", 0.81)
        for wrong in (
            "nonsense",
            "[]",
            '{"type":"dance"}',
            '{"type":"subscribe","streams":"lobby"}',
            '{"type":"subscribe","thumbnails":[]}',
            b"binary",
        ):
            await client.send(wrong)
            assert (await receive(client))["type"] == "error"
        await client.send('{"type":"ping"}')
        assert (await receive(client))["type"] == "heartbeat"
        await client.send('{"type":"subscribe","streams":null,"thumbnails":true}')
        assert [s["stream"] for s in (await receive(client))["streams"]] == ["door"]
        services.hub.score(stream_score("door", 2), frame_scores("door", 2))
        assert (await receive(client))["type"] == "score"
        picture = await client.recv()
        assert isinstance(picture, bytes)
        assert b'"thumbnail"' in picture[:64]


async def test_resuming_continues_without_a_gap(tmp_path: Path) -> None:
    async with running(tmp_path) as (services, url):
        live(services.hub, "lobby")
        async with connect(url) as client:
            epoch = (await receive(client))["epoch"]
        for seq in range(3):
            services.hub.score(stream_score("lobby", seq), None)
        async with connect(f"{url}?resume=1") as client:
            await client.send(json.dumps({"type": "resume", "epoch": epoch, "seq": {"lobby": 1}}))
            assert (await receive(client))["resumed"] == ["lobby"]
            assert [(await receive(client))["seq"] for _ in range(3)] == [2, 3, 4]
        async with connect(f"{url}?resume=1") as client:
            await client.send(json.dumps({"type": "resume", "epoch": "old", "seq": {"lobby": 1}}))
            assert (await receive(client))["streams"][0]["seq"] == 4


async def test_a_chatterbox_is_shown_the_door(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, url), connect(url) as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            for _ in range(100):
                await client.send('{"type":"ping"}')
                await receive(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"X-Forwarded-For": "1.2.3.4"}, 401), ({"Host": "evil.example"}, 403)],
)
async def test_who_may_not_connect_is_told_so(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with running(tmp_path) as (_, url):
        # A second Host header would be no HTTP at all: a foreign host is named in the URL instead.
        port = int(url.split(":")[2].split("/")[0])
        named, others = url.replace("127.0.0.1", headers.get("Host", "127.0.0.1")), {**headers}
        others.pop("Host", None)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(named, additional_headers=others, host="127.0.0.1", port=port)
        assert refused.value.response.status_code == status
        with pytest.raises(websockets.InvalidStatus) as lost:
            await connect(url.replace("/ws", "/other"))
        assert lost.value.response.status_code == 404


async def test_a_client_that_stops_reading_is_cut_off_and_slows_nobody(tmp_path: Path) -> None:
    options = HubOptions(send_timeout=0.5, max_alerts=4096)
    async with running(tmp_path, options) as (services, url):
        hub = services.hub
        live(hub, "lobby")
        host, port = url.removeprefix("ws://").partition("/")[0].split(":")
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((host, int(port)))
        deaf.sendall(
            b"GET /api/v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await until(lambda: hub.statistics().clients == 1)
        async with connect(url) as good:
            assert (await receive(good))["type"] == "snapshot"
            for number in range(1000):  # ten megabytes: more than the buffers of any kernel between the two
                long = replace(alert(f"a{number}"), summary="x" * 10_000)
                hub.alert(AlertEvent(AlertPhase.OPENED, None, long))
                message = await receive(good)
                assert message["seq"] == number + 2, "the good client misses nothing"
            await until(lambda: hub.statistics().clients == 1)
            assert hub.statistics().ended_slow == 1
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        received = b""
        async with asyncio.timeout(10):
            while chunk := await _read(loop, deaf):
                received = (received + chunk)[-200:]
        deaf.close()
        assert received, "what fitted into the buffers before it was cut off"


async def _read(loop: asyncio.AbstractEventLoop, peer: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(peer, 65536)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
async def test_connections_that_come_and_go_leave_nothing_behind(tmp_path: Path, count: int) -> None:
    async with running(tmp_path, HubOptions(max_connects=count)) as (services, url):
        live(services.hub, *(f"s{number}" for number in range(5)))

        async def visit() -> None:
            async with connect(url) as client:
                await receive(client)

        async def visits(count: int) -> int:
            for _ in range(count // 20):
                await asyncio.gather(*(visit() for _ in range(20)))
            await until(lambda: services.hub.statistics().clients == 0)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            gc.collect()
            return len(gc.get_objects())

        tasks = len(asyncio.all_tasks())
        files = psutil.Process().num_fds()
        before = await visits(100)
        after = await visits(count - 100)
        assert after - before < count - 100, "not one object for each connection"
        await until(lambda: psutil.Process().num_fds() <= files + 2)


async def test_the_port_in_use_is_named_and_a_second_run_works_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, url):
        port = int(url.split(":")[2].partition("/")[0])
        with pytest.raises(ServerError, match=rf"server\.port: cannot listen on 127\.0\.0\.1:{port}: "):
            reserve(ServerSettings(port=port))
    async with running(tmp_path, port=port) as (_, again), connect(again) as client:
        assert (await receive(client))["type"] == "snapshot"
    with pytest.raises(ServerError, match=r"server\.host"):
        reserve(ServerSettings(host="no-such-host.invalid"))


async def test_stopping_ends_clients_with_a_reason_within_seconds(tmp_path: Path) -> None:
    begun = asyncio.get_running_loop().time
    async with running(tmp_path) as (_, url):
        clients = [await connect(url) for _ in range(20)]
        for client in clients:
            await receive(client)
        at = begun()
    assert begun() - at < 5
    for client in clients:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await receive(client)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the service stops")
        await client.close()


async def test_the_body_failing_stops_the_server_and_shows_the_error_as_it_is(tmp_path: Path) -> None:
    services, _ = build(tmp_path)
    with pytest.raises(KeyError):
        async with serving(services) as address:
            raise KeyError("in the body")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", address.port)
    assert Address("http", "::1", 80).url == "http://[::1]:80/"


async def test_follow_resumes_over_a_restart_of_the_service(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    breaks: list[str] = []

    async def watch(url: str) -> None:
        async for message in follow(url, lost=lambda why, _: breaks.append(why)):
            seen.append(message)  # noqa: PERF401 - it never ends

    services, _ = build(tmp_path)
    async with serving(services) as address:
        task = asyncio.create_task(watch(address.url))
        await until(lambda: bool(seen))
        live(services.hub, "lobby")
        await until(lambda: len(seen) == 2)
    again, _ = build(tmp_path, port=address.port)
    live(again.hub, "lobby")
    async with serving(again):
        await until(lambda: seen[-1]["epoch"] == again.hub.epoch)
        again.hub.score(stream_score("lobby", 1), None)
        await until(lambda: seen[-1]["type"] == "score")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert breaks[0] == "the service stops"


async def test_follow_says_when_trying_again_cannot_help(tmp_path: Path) -> None:
    async with running(tmp_path, auth={"tokens": tmp_path / "t.json", "anonymous_loopback": False}) as (services, url):
        with pytest.raises(ConfigError, match="a valid token is needed"):
            await anext(follow(url))
        token = services.access.tokens.create("reader", (Scope.READ,))
        assert (await anext(follow(url, token=token)))["type"] == "snapshot"
        metrics = services.access.tokens.create("scraper", (Scope.METRICS,))
        with pytest.raises(ConfigError, match="refused"):
            await anext(follow(url, token=metrics))
    with pytest.raises(ServerError):
        await anext(follow(url, reconnect=False))
    with pytest.raises(ConfigError):
        await anext(follow("ftp://h/"))


async def test_connections_of_one_address_are_limited_in_rate(tmp_path: Path) -> None:
    async with running(tmp_path, HubOptions(max_connects=3)) as (_, url):
        for _ in range(3):
            async with connect(url) as client:
                await receive(client)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code == 429


async def test_a_connection_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    auth = {"tokens": tmp_path / "tokens.json", "anonymous_loopback": False}
    async with running(tmp_path, HubOptions(heartbeat=0.2), auth=auth) as (services, url):
        token = services.access.tokens.create("anna", (Scope.READ,))
        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as client:
            kinds = [(await receive(client))["type"] for _ in range(3)]
            assert kinds == ["snapshot", "heartbeat", "heartbeat"]
            services.access.tokens.revoke("anna")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    await receive(client)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "access was withdrawn")


async def test_tail_prints_lines_for_people_and_json_for_programs(tmp_path: Path) -> None:
    async with running(tmp_path) as (services, url):
        live(services.hub, "lobby", "door")
        for more in ((), ("--json",)):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "streamwatch", "tail", url, "lobby", "--once", *more),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            async with asyncio.timeout(60):
                first = (await process.stdout.readline()).decode()
                services.hub.score(stream_score("lobby", 1), None)
                second = (await process.stdout.readline()).decode()
            process.terminate()
            await process.wait()
            await process.communicate()
            if more:
                assert json.loads(first)["type"] == "snapshot"
                assert json.loads(second)["score"] == 0.81
            else:
                assert first.split()[1:] == ["lobby", "live"]
                assert second.split()[1:5] == ["lobby", "0.81", "#" * 16, "fake"]


def test_tail_names_a_token_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "--token-file", str(tmp_path / "none")]) == 2
    assert "--token-file" in capsys.readouterr().err


async def test_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    services, _ = build(tmp_path, tls_cert=certificate, tls_key=key)
    context = ssl.create_default_context(cafile=str(certificate))
    async with serving(services) as address:
        assert address.scheme == "https"
        async with httpx.AsyncClient(verify=context) as http:
            assert (await http.get(f"https://localhost:{address.port}/livez")).status_code == 200
        async with connect(f"wss://localhost:{address.port}/api/v1/ws", ssl=context) as client:
            assert (await receive(client))["type"] == "snapshot"
    key.write_text("broken")
    with pytest.raises(ServerError, match=r"tls_cert"):
        async with serving(services):
            pass
