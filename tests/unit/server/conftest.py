from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from streamwatch.server.api import create_app
from streamwatch.server.deps import Services
from tests.fakes.control import MemoryControl, build


@dataclass
class Api:
    http: httpx.AsyncClient
    control: MemoryControl
    services: Services


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """The whole application in process, called from loopback."""
    services, control = build(tmp_path)
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8460") as client:
        yield Api(client, control, services)
