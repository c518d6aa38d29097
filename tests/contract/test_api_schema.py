"""The API does what its OpenAPI document says: requests generated from it, good and bad, against the running server."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from streamwatch.config import StreamSettings
from streamwatch.server.ports import ScorePoint
from streamwatch.server.run import serving
from streamwatch.server.tokens import Scope
from tests.fakes.control import alert, build, frame_scores, stream_score

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.mark.slow
async def test_schemathesis_finds_no_contradiction(tmp_path: Path) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("needs schemathesis")
    services, control = build(tmp_path, auth={"tokens": tmp_path / "tokens.json", "anonymous_loopback": False})
    token = services.access.tokens.create("schemathesis", (Scope.ADMIN,))
    for number in range(3):
        stream = f"s{number}"
        await control.add_stream(stream, StreamSettings(url=SecretStr("rtsp://10.0.0.7/")))
        control.hub.score(stream_score(stream, 1), frame_scores(stream, 1))
        control.held[f"a{number}"] = alert(f"a{number}", stream)
    control.points = [ScorePoint(1000.0, 0.5, "real")]
    async with serving(services) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{address.url}api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--exclude-path-regex", "/whip/"),  # it speaks no SDP
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "5", "--seed", "7", "--generation-database", "none", "--no-color"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-20_000:]
