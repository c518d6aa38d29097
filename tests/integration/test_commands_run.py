"""`demo` and `watch` as a person runs them: started, looked at, interrupted, started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
async def command(cwd: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamwatch", *arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
