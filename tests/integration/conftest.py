"""What several tests of alerts stand on: a receiver of webhooks and a history of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from streamwatch.config import HistorySettings
from streamwatch.history.store import History
from tests.fakes.webhook import Receiver, webhook_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as running:
        yield running


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    store = History(HistorySettings(url=SecretStr(f"sqlite+aiosqlite:///{tmp_path}/history.db")))
    await store.open()
    yield store
    await store.close()
