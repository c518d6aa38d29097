"""`demo` and `watch` as a person runs them: started, looked at, interrupted, started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path

import httpx
import psutil
import pytest

from streamwatch.camera import Camera
from tests.fakes.people import people
from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def command(
    cwd: Path, *arguments: str, under: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(*under, sys.executable, "-m", "streamwatch", *arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            await process.wait()


async def line(process: asyncio.subprocess.Process, text: str, seconds: float = 200.0) -> str:
    """The next line that holds the text."""
    assert process.stdout is not None
    async with asyncio.timeout(seconds):
        while True:
            raw = await process.stdout.readline()
            assert raw, f"it ended without {text!r}"
            if text in raw.decode():
                return raw.decode()


def listening(pid: int) -> list[str]:
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    sockets = [c for process in tree for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    return [c.laddr.ip for c in sockets]


async def interrupted(process: asyncio.subprocess.Process) -> None:
    """Ctrl-C ends it within five seconds, with exit code 0, without a traceback, and leaves no process behind."""
    children = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        rest = (await process.stdout.read()).decode()
        assert await process.wait() == 0
    assert time.monotonic() - began < 5.0
    assert "Traceback" not in rest
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_the_demo_listens_on_loopback_ends_at_once_and_starts_again(tmp_path: Path) -> None:
    port = str(free_port())
    async with command(tmp_path, "demo", "--port", port) as process:
        await line(process, f":{port}/")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http, asyncio.timeout(60):
            while (await http.get("/api/v1/streams")).json()["items"][0]["state"] != "live":
                await asyncio.sleep(0.2)
        addresses = listening(process.pid)
        assert len(addresses) >= 2  # the camera's and the dashboard's
        assert all(ip_address(address).is_loopback for address in addresses), addresses
        await interrupted(process)
    async with command(tmp_path, "demo", "--port", port, "--duration", "2") as process:
        await line(process, f":{port}/")
        async with asyncio.timeout(60):
            assert await process.wait() == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_watch_prints_a_line_a_second_and_ends_at_once(tmp_path: Path) -> None:
    async with Camera([people()]) as camera, command(tmp_path, "watch", camera.url, "--port", "0") as process:
        assert "http://127.0.0.1:" in await line(process, "dashboard")
        first = await line(process, "coverage", 60)
        began = time.monotonic()
        await line(process, "coverage", 10)
        assert time.monotonic() - began < 3.0
        assert " live " in first
        await interrupted(process)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_closed_terminal_ends_watch(tmp_path: Path) -> None:
    async with command(tmp_path, "watch", "rtsp://127.0.0.1:9/x", "--port", "0") as process:
        await line(process, "dashboard")
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            assert await process.wait() == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_camera_of_a_killed_demo_ends_with_it(tmp_path: Path) -> None:
    async with command(tmp_path, "demo", "--port", "0") as process:
        await line(process, "http://127.0.0.1:")
        cameras = psutil.Process(process.pid).children(recursive=True)
        assert cameras
        process.kill()
        await process.wait()
        async with asyncio.timeout(20):
            while [c for c in cameras if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]:
                await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ctrl_c_does_not_wait_for_the_canary_to_be_rendered(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("streams: {canary: {url: 'canary:'}}\nserver: {port: 0}\n")
    async with command(tmp_path, "serve", "-c", "c.yaml", environ={"XDG_CACHE_HOME": str(tmp_path)}) as process:
        async with asyncio.timeout(120):
            while not list(tmp_path.glob("streamwatch/demo-*.mp4")):
                await asyncio.sleep(0.1)
        await interrupted(process)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheme", ["rtsp", "whep+http"])
async def test_a_look_up_that_hangs_does_not_keep_it_from_ending(scheme: str, tmp_path: Path) -> None:
    """The name server takes questions and never answers: nothing can interrupt the library that waits for it."""
    direct = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "")  # a proxy looks names up itself
    url = f"{scheme}://camera.example.org/x"
    with silent_name_server(tmp_path) as under:
        async with command(tmp_path, "watch", url, "--port", "0", under=under, environ=direct) as process:
            await line(process, "connecting")
            await asyncio.sleep(1.0)
            await interrupted(process)


@contextmanager
def silent_name_server(directory: Path) -> Iterator[list[str]]:
    """The words to put before a command so that its look-ups hang; skips where mounting is not allowed."""
    settings = directory / "resolv.conf"
    settings.write_text("nameserver 127.0.0.99\noptions timeout:30 attempts:5\n")
    under = ["unshare", "--mount", "sh", "-c", f'mount --bind "{settings}" /etc/resolv.conf && exec "$@"', "sh"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("127.0.0.99", 53))
            subprocess.run([*under, "true"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no name server of our own here: {getattr(error, 'stderr', None) or error}")
        yield under
        server.setblocking(False)
        assert b"example" in server.recv(4096), "nobody was asked"
