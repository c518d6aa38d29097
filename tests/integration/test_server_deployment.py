"""Dockerfile, compose file and systemd unit: what can be checked without their engines, and their start command run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from streamwatch import config
from tests.fakes.ports import free_port

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "config" / "systemd" / "streamwatch.service"


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continuation lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def docker_command(name: str) -> list[str]:
    rest = next(rest for instruction, rest in instructions() if instruction == name)
    command: list[str] = json.loads(rest[rest.index("[") :])
    return command


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_image_is_pinned_non_root_and_copies_what_exists() -> None:
    stages = [rest.split() for instruction, rest in instructions() if instruction == "FROM"]
    names = {words[-1] for words in stages}
    assert names == {"build", "cpu", "cuda"}
    for words in stages:
        assert words[0] in names or re.fullmatch(r"python:3\.\d+-slim-\w+", words[0])
    users = [rest for instruction, rest in instructions() if instruction == "USER"]
    assert users
    assert users[-1] not in {"root", "0"}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for instruction, rest in instructions():
        if instruction == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in kept, f"{source} is not in the build's context"


def test_the_settings_of_image_and_compose_are_ones_that_the_service_knows() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    variables = compose["services"]["streamwatch"]["environment"]
    for instruction, rest in instructions():
        if instruction == "ENV":
            variables |= dict(pair.split("=", 1) for pair in rest.split() if pair.startswith("STREAMWATCH_"))
    loaded = config.load(ROOT / "config" / "container.yaml", variables)
    assert loaded.server.host in {"0.0.0.0", "127.0.0.1"}


def test_every_container_is_hardened_pinned_and_mounts_what_exists() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert set(compose["services"]) == {"streamwatch", "mediamtx", "prometheus", "alertmanager", "grafana"}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert re.search(r":v?\d+(\.\d+)+$", service["image"]) or "build" in service, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro"), volume
            else:
                assert source in compose["volumes"], source


def test_listeners_stay_on_loopback() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["streamwatch"]["environment"]["STREAMWATCH_SERVER__HOST"] == "127.0.0.1"
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert services["mediamtx"]["environment"]["MTX_RTSPADDRESS"].startswith("127.0.0.1:")
    for name in ("prometheus", "alertmanager"):
        listen = [part for part in services[name]["command"] if "web.listen-address" in part]
        assert listen[0].partition("=")[2].startswith("127.0.0.1:")


def test_the_board_and_its_data_source_are_provided() -> None:
    provisioning = ROOT / "config" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert source["type"] == "prometheus"
    provider = yaml.safe_load((provisioning / "dashboards" / "streamwatch.yml").read_text())["providers"][0]
    mounts = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert any(mount.split(":")[1].startswith(provider["options"]["path"]) for mount in mounts)


def test_the_unit_is_hardened() -> None:
    settings = unit()
    expected = {"DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "PrivateTmp": "yes"}
    assert {key: settings[key][-1] for key in expected} == expected
    assert settings["RestartPreventExitStatus"] == ["2"]
    assert settings["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    copy = tmp_path / UNIT.name  # the program need not be installed where the unit is checked
    copy.write_text(UNIT.read_text().replace("/opt/streamwatch/bin/streamwatch", sys.executable))
    done = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert not complaints


def test_unit_and_image_start_the_same() -> None:
    start = shlex.split(unit()["ExecStart"][0])
    assert [Path(start[0]).name, *start[1:]] == docker_command("CMD")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_start_command_serves_reports_healthy_and_stops_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    program, *arguments = docker_command("CMD")
    assert program == "streamwatch"
    arguments[arguments.index("-c") + 1] = str(ROOT / "config" / "container.yaml")
    environment = {**os.environ, "STREAMWATCH_SERVER__PORT": str(port), "STREAMWATCH_DEVICE__THREADS": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamwatch", *arguments),
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        health = docker_command("HEALTHCHECK")
        assert health[0] == "python"
        health = [sys.executable, *(part.replace("8460", str(port)) for part in health[1:])]

        def healthy() -> bool:
            return subprocess.run(health, capture_output=True, timeout=30, check=False).returncode == 0

        async with asyncio.timeout(200):
            while not await asyncio.to_thread(healthy):
                assert process.returncode is None, await _rest(process)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            answer: dict[str, Any] = (await http.get("/api/v1/streams")).json()
            assert answer["items"] == []
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        assert "Traceback" not in await _rest(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _rest(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.read()).decode()
