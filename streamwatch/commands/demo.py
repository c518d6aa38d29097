"""A camera, the service and its dashboard, on this machine alone: a call of two, one of them manipulated at times."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from streamwatch.app import Service
from streamwatch.commands.console import print_scores
from streamwatch.config import Config, parse
from streamwatch.demo.clip import DEFAULT_SEED, demo_clip
from streamwatch.demo.finder import bundled_finder
from streamwatch.demo.scene import Timeline
from streamwatch.errors import StreamWatchError
from streamwatch.runner import run_until_stopped

STREAM = "demo"
CAMERA_START = 60.0
"""Seconds; a loaded machine takes its time to import the libraries."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--duration", type=float, metavar="S", help="end by itself after so many seconds")
    parser.add_argument("--port", type=int, default=8460, help="of the dashboard (default: 8460; 0 takes a free one)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the manipulated part")
    parser.add_argument("--quiet", action="store_true", help="no line a second")


def run(args: argparse.Namespace) -> int:
    clip = prepared_clip(args.seed)
    with tempfile.TemporaryDirectory(prefix="streamwatch-demo-") as scratch:
        return asyncio.run(_demo(args, clip, Path(scratch)))


def prepared_clip(seed: int) -> Path:
    """The camera's clip, rendered with a progress bar where it is not there yet."""
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("Making the camera's clip (once)", total=1.0)
        return demo_clip(bundled_finder(), seed, lambda done: progress.update(task, completed=done))


async def _demo(args: argparse.Namespace, clip: Path, scratch: Path) -> int:
    async with camera(clip) as url:
        service = Service(demo_config(url, args.port, scratch))

        def announce() -> None:
            timeline = Timeline()
            print(f"camera     {url}")
            print(f"dashboard  {service.url}")
            print(
                f"The loop takes {timeline.length:.0f} s; from {timeline.fake_from:.0f} to {timeline.fake_to:.0f} s"
                " one face is manipulated. Ctrl-C ends.",
                flush=True,
            )

        await run_until_stopped(service, announce, None if args.quiet else print_scores(service), args.duration)
    return 0


def demo_config(url: str, port: int, scratch: Path) -> Config:
    """Loopback only, and everything written goes to `scratch`."""
    return parse(
        {
            "streams": {STREAM: {"url": url, "name": "Demo: two people in a call"}},
            "server": {"host": "127.0.0.1", "port": port, "auth": {"tokens": str(scratch / "tokens.json")}},
            "history": {"url": f"sqlite+aiosqlite:///{scratch / 'history.db'}"},
            "alerts": {"evidence": {"directory": str(scratch / "evidence")}},
            "log_level": "warning",
        },
        source="demo",
    )


@contextlib.asynccontextmanager
async def camera(clip: Path) -> AsyncIterator[str]:
    """The project's RTSP camera as a process of its own; yields its URL. Raises StreamWatchError when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamwatch.camera", str(clip), "--port", "0", "--path", "/demo", "--until-eof",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(CAMERA_START):
            line = await process.stdout.readline()
        url = line.decode().strip()
        if not url.startswith("rtsp://"):
            raise StreamWatchError("the demo's camera did not start")
        yield url
    except TimeoutError:
        raise StreamWatchError(f"the demo's camera did not start within {CAMERA_START:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(3.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
