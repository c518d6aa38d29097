"""From a manipulated picture to a webhook and back: real camera, real service, real Prometheus and Alertmanager.

What the weights make of the picture is tested elsewhere; here the stream's threshold is low, and then high.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import httpx
import pytest

from streamwatch.app import Service
from streamwatch.camera import Camera
from streamwatch.server.tokens import Scope, TokenStore
from tests.fakes.monitoring import told, watched
from tests.fakes.people import people, quick_config, until
from tests.fakes.webhook import webhook_receiver
from tests.require import prometheus

pytestmark = [pytest.mark.prometheus, pytest.mark.slow, pytest.mark.timeout(300)]

PATIENT = {  # a verdict even where a busy machine analyses a frame every few seconds
    "ingest": {"sample_fps": 1.0, "burst_fps": 1.0, "budget_fps": 1.0},
    "scoring": {"min_frames": 2, "confirm_hits": 2, "min_coverage": 0.05, "lost_after": 20.0, "stale_after": 20.0},
    "device": {"deadline": 20.0},
}


async def test_a_manipulated_stream_is_told_by_webhook_and_resolved_after(tmp_path: Path) -> None:
    (promtool,) = prometheus("promtool")
    token = TokenStore(tmp_path / "tokens.json").create("prometheus", (Scope.METRICS,))
    async with Camera([people(manipulated=True)]) as camera:
        streams = {"lobby": {"url": camera.url, "threshold": 0.02}}
        config = quick_config(tmp_path, streams, **PATIENT)
        with webhook_receiver() as receiver:
            async with (
                Service(config) as service,
                watched(tmp_path, service.address.port, token, receiver.url),
                httpx.AsyncClient(base_url=service.url) as http,
            ):
                await until(lambda: told(receiver, "firing"), 120)
                fired = told(receiver, "firing")[0]
                assert fired["labels"]["alertname"] == "DeepfakeSuspected"
                assert fired["labels"]["stream"] == "lobby"
                exposed = (await http.get("/metrics")).content
                linted = await asyncio.to_thread(
                    subprocess.run, [promtool, "check", "metrics"], input=exposed, capture_output=True, check=False
                )
                assert (linted.returncode, linted.stdout + linted.stderr) == (0, b"")
                (await http.patch("/api/v1/streams/lobby", json={"threshold": 1.0})).raise_for_status()
                await until(lambda: told(receiver, "resolved"), 120)
