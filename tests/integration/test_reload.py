"""The configuration by difference, and the signals: what does not change is not touched."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from streamwatch.app import Service
from streamwatch.camera import Camera
from streamwatch.config import load
from streamwatch.runner import run_until_stopped
from tests.fakes.people import people, quick_config, until
from tests.integration.test_service import messages, wait_for


def write(path: Path, tmp_path: Path, streams: dict[str, Any], **more: Any) -> None:
    shown = json.loads(quick_config(tmp_path, {}).model_dump_json(by_alias=True, exclude_unset=True))
    shown["history"]["url"] = f"sqlite+aiosqlite:///{tmp_path / 'history.db'}"  # shown as a secret otherwise
    path.write_text(yaml.safe_dump({**shown, "streams": streams, **more}), encoding="utf-8")


async def test_a_reload_touches_only_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "streamwatch.yaml"
    async with Camera([people()]) as camera:
        url = {"url": camera.url}
        write(path, tmp_path, {"same": url, "changed": url, "gone": url})
        async with Service(load(path, {}), path) as service, messages(service) as socket:
            before = await wait_for(socket, type="score", stream="same", state="live")
            kept = service.fleet["same"]
            judged = service._identity("same")["configuration_sha256"]
            write(path, tmp_path, {"same": url, "changed": {**url, "sample_fps": 1.0}, "new": url}, log_level="error")
            async with httpx.AsyncClient(base_url=service.url) as http:
                answer = await http.post("api/v1/config/reload", json={})
                assert answer.status_code == 200, answer.text
                assert answer.json() == {
                    "added": ["new"],
                    "changed": ["changed"],
                    "removed": ["gone"],
                    "restart_needed": ["log_level"],
                }
                assert service.fleet["same"] is kept
                assert "gone" not in service.fleet
                assert service.fleet["changed"].settings.stream.sample_fps == 1.0
                # Evidence names the configuration that holds, not that of the start.
                assert service._identity("same")["configuration_sha256"] != judged
                after = await wait_for(socket, type="score", stream="same")
                assert after["seq"] > before["seq"]
                await wait_for(socket, type="stream", stream="new", state="live")

                path.write_text("streams: {same: {}}\nnope: 1\n", encoding="utf-8")
                refused = await http.post("api/v1/config/reload", json={})
                assert refused.status_code == 422
                assert "streams.same.url" in refused.text
                assert "nope" in refused.text
                assert sorted(service.fleet.monitors) == ["changed", "new", "same"]
                assert service.fleet["same"] is kept


async def test_sighup_reads_again_and_sigterm_ends(tmp_path: Path) -> None:
    path = tmp_path / "streamwatch.yaml"
    write(path, tmp_path, {})
    service = Service(load(path, {}), path)
    started = asyncio.Event()

    async def script() -> None:
        await started.wait()
        write(path, tmp_path, {"late": {"url": "rtsp://127.0.0.1:9/x", "enabled": False}})
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "late" in service.fleet)
        path.write_text("nope: 1\n", encoding="utf-8")
        os.kill(os.getpid(), signal.SIGHUP)  # a bad file changes nothing, and ends nothing
        await asyncio.sleep(0.2)
        assert "late" in service.fleet
        os.kill(os.getpid(), signal.SIGTERM)

    playing = asyncio.create_task(script())
    async with asyncio.timeout(60):
        await run_until_stopped(service, started.set)
    await playing
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as http:
            await http.get(service.url)
