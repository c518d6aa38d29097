"""Prometheus and Alertmanager as they are installed, with the shipped configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.fakes.ports import free_port
from tests.fakes.webhook import Receiver
from tests.require import prometheus

RULES = Path(__file__).parents[2] / "config" / "prometheus" / "rules.yml"


def told(receiver: Receiver, status: str) -> list[dict[str, Any]]:
    """The alerts of that status that Alertmanager has sent."""
    return [a for request in list(receiver.requests) for a in request.json["alerts"] if a["status"] == status]


@asynccontextmanager
async def program(*arguments: str, ready: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient() as http:

            async def answers() -> bool:
                try:
                    return (await http.get(ready)).is_success
                except httpx.TransportError:
                    return False

            async with asyncio.timeout(30):
                while not await answers():
                    await asyncio.sleep(0.1)
        yield
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def watched(path: Path, port: int, token: str, webhook: str) -> AsyncIterator[str]:
    """Prometheus and Alertmanager with the shipped configuration, only quicker and on free ports; Prometheus's URL."""
    program_path, manager_path = prometheus("prometheus", "prometheus-alertmanager")
    ports = free_port(), free_port()
    config = yaml.safe_load(RULES.with_name("prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{ports[1]}"]
    scrape = config["scrape_configs"][0]
    scrape["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
    (path / "token").write_text(token)
    scrape["authorization"] = {"credentials_file": str(path / "token")}
    (path / "prometheus.yml").write_text(yaml.safe_dump(config))
    manager = yaml.safe_load(RULES.with_name("alertmanager.yml").read_text())
    manager["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    manager["receivers"][0]["webhook_configs"][0]["url"] = webhook
    (path / "alertmanager.yml").write_text(yaml.safe_dump(manager))
    url = f"http://127.0.0.1:{ports[0]}"
    async with (
        program(
            manager_path,
            f"--config.file={path / 'alertmanager.yml'}",
            f"--storage.path={path / 'manager'}",
            f"--web.listen-address=127.0.0.1:{ports[1]}",
            "--cluster.listen-address=",
            ready=f"http://127.0.0.1:{ports[1]}/-/ready",
        ),
        program(
            program_path,
            f"--config.file={path / 'prometheus.yml'}",
            f"--storage.tsdb.path={path / 'data'}",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
            ready=f"{url}/-/ready",
        ),
    ):
        yield url
