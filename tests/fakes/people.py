"""The demo's two people as short clips, and a service that watches them: real parts throughout."""

from __future__ import annotations

import asyncio
import atexit
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamwatch.config import Config, parse
from streamwatch.demo.clip import encode
from streamwatch.demo.finder import bundled_finder
from streamwatch.demo.scene import FPS, Scene, Timeline, load_portraits

_DIRECTORY = tempfile.TemporaryDirectory(prefix="streamwatch-people-")
atexit.register(_DIRECTORY.cleanup)


@functools.cache
def people(
    seconds: float = 2.0, seed: int = 1, manipulated: bool = False, victim: int = 1, bit_rate: int = 2_500_000
) -> Path:
    """A clip of so many seconds; `manipulated` from its first to its last picture."""
    timeline = Timeline(length=max(seconds, 8.0), fake_from=0.0, fake_to=1e9 if manipulated else 0.0)
    scene = Scene(load_portraits(bundled_finder()), seed, timeline, victim)
    path = Path(_DIRECTORY.name) / f"people-{seconds}-{seed}-{manipulated}-{victim}-{bit_rate}.mp4"
    encode((scene.frame(index / FPS) for index in range(round(seconds * FPS))), path, bit_rate)
    return path


def quick_config(tmp_path: Path, streams: dict[str, Any], **slices: Any) -> Config:
    """Everything written goes to `tmp_path`, the port is free, and reconnections do not wait long."""
    settings: dict[str, Any] = {
        "streams": streams,
        "ingest": {"backoff_initial": 0.1, "backoff_cap": 0.5, "open_timeout": 4.0, "read_timeout": 2.0},
        "device": {"deadline": 10.0},
        "history": {"url": f"sqlite+aiosqlite:///{tmp_path / 'history.db'}"},
        "alerts": {"evidence": {"directory": str(tmp_path / "evidence")}},
        "server": {"port": 0, "auth": {"tokens": str(tmp_path / "tokens.json")}},
    }
    for name, fields in slices.items():
        settings[name] = {**settings.get(name, {}), **fields}
    return parse(settings, source="test")


async def until(condition: Callable[[], object], seconds: float = 45.0) -> None:
    """Waits for the world. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)
