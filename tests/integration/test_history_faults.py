"""The history under faults: PostgreSQL stopped and started under load, and a disk that is full."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from streamwatch.alerts.dispatcher import Dispatcher
from streamwatch.alerts.rules import RuleEngine
from streamwatch.alerts.sinks import make_sinks
from streamwatch.config import AlertSettings, HistorySettings, SinkSettings
from streamwatch.domain import AlertEvent, Instant
from streamwatch.history.store import History
from tests import require
from tests.fakes.disk import fill, small_disk
from tests.fakes.postgres import Postgres
from tests.fakes.records import stream_score
from tests.fakes.webhook import Receiver, webhook_receiver
from tests.integration.test_history import settings

RULE = {"kind": "window", "for": 0, "resolve_after": 0, "cooldown": 0}


@pytest.fixture
def server() -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    postgres = Postgres(require.postgres(), directory)
    postgres.create()
    postgres.start()
    try:
        yield postgres
    finally:
        postgres.stop()
        shutil.rmtree(directory)


class Load:
    """A stream that is scored twenty times a second and alarms every second, with real history and outbox."""

    def __init__(self, url: str, receiver: Receiver) -> None:
        sink = SinkSettings(kind="webhook", url=SecretStr(receiver.url))
        self.history = History(HistorySettings(url=SecretStr(url)))
        self.dispatcher = Dispatcher(self.history.alerts, {"hook": (make_sinks({"hook": sink})["hook"], sink)})
        settings = AlertSettings.model_validate({"rules": {"deepfake": RULE}})
        ids = iter(range(1_000_000))
        self._rules = RuleEngine(settings, hysteresis=0.05, new_id=lambda: f"a{next(ids):06}")
        self.events: list[AlertEvent] = []
        self.scored = 0

    async def __aenter__(self) -> Load:
        await self.history.open()
        works: list[Awaitable[None]] = [self.history.run(), self.dispatcher.run(), self._feed()]
        self._tasks = [asyncio.ensure_future(work) for work in works]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in reversed(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.dispatcher.stop()
        await self.history.close()

    async def _feed(self) -> None:
        while True:
            score = replace(stream_score(0, 0.9 if (self.scored // 10) % 2 else 0.1), at=now())
            self.scored += 1
            self.history.score(score)
            for event in self._rules.on_score(score):
                self.events.append(event)
                self.dispatcher.submit(event)
            await asyncio.sleep(0.05)


def now() -> Instant:
    return Instant(time.monotonic(), time.time())


async def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def told_in_order(receiver: Receiver, events: list[AlertEvent]) -> bool:
    """Every event has come, for each alert firing before resolved, and none of them twice: the receiver was well all
    the time, and what a database could not note is no reason to tell it again."""
    told: dict[str, list[str]] = {}
    for alert, status in receiver.told:
        told.setdefault(alert, []).append(status)
    expected: dict[str, list[str]] = {}
    for event in events:
        expected.setdefault(event.after.id, []).append("firing" if event.after.active else "resolved")
    return told == expected


@pytest.mark.postgres
@pytest.mark.slow
async def test_postgres_stopped_and_started_under_load(server: Postgres) -> None:
    """Alerts leave while it is down; afterwards its tables hold every score and every alert."""
    with webhook_receiver() as receiver:
        async with Load(server.url, receiver) as load:
            await until(lambda: len(receiver.told) >= 2)
            await asyncio.to_thread(server.stop)
            before = len(load.events)
            await until(lambda: len(load.events) >= before + 4)
            await until(lambda: told_in_order(receiver, load.events))
            await until(lambda: load.history.statistics.down)
            await asyncio.to_thread(server.start)
            await until(lambda: not load.history.statistics.down and load.dispatcher.statistics.unrecorded == 0)
            after = len(load.events)
            await until(lambda: len(load.events) >= after + 4)
            load._tasks[2].cancel()
            await until(lambda: told_in_order(receiver, load.events))
            await load.history.flush()
            points = await load.history.scores.points("lobby", 0, time.time() + 1, 100_000)
            assert len(points) == load.scored
            assert load.history.statistics.lost == load.dispatcher.statistics.lost == 0
            for event in load.events:
                kept = await load.history.alerts.alert(event.after.id)
                assert event.after.active or not kept.active
            assert await load.history.upkeep.thin(time.time() + 120) == load.scored


@pytest.mark.postgres
@pytest.mark.slow
async def test_postgres_that_hangs_delays_no_alert(server: Postgres) -> None:
    """Its processes stand still, connections stay open: nothing is refused, nothing is answered."""
    with webhook_receiver() as receiver:
        async with Load(server.url, receiver) as load:
            await until(lambda: len(receiver.told) >= 2)
            with server.frozen():
                before = len(load.events)
                await until(lambda: len(load.events) >= before + 20)
            frozen = load.events[before : before + 20]
            await until(lambda: not load.history.statistics.down and load.dispatcher.statistics.unrecorded == 0)
            load._tasks[2].cancel()
            await until(lambda: told_in_order(receiver, load.events))
            arrived = {(alert, status): r.at for r in receiver.requests for alert, status in r.told}
            delays = [
                arrived[e.after.id, "firing" if e.after.active else "resolved"] - e.after.updated_at.wall
                for e in frozen
            ]
            print(f"event to webhook while PostgreSQL hangs: at most {max(delays):.2f} s")
            assert max(delays) < 2.5
            assert load.dispatcher.statistics.lost == 0


@pytest.mark.slow
async def test_postgres_that_hangs_does_not_keep_the_service_from_ending(server: Postgres) -> None:
    with webhook_receiver() as receiver, contextlib.ExitStack() as frozen:
        async with Load(server.url, receiver) as load:
            await until(lambda: len(receiver.told) >= 2)
            frozen.enter_context(server.frozen())
            await asyncio.sleep(1.5)
            load.history.hurry()
            await asyncio.sleep(1.2)  # meanwhile a service sends its clients away and stops its streams
            began = time.monotonic()
        assert time.monotonic() - began < 3.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.mark.slow
async def test_a_full_disk_stops_neither_alerts_nor_itself(disk: Path) -> None:
    with webhook_receiver() as receiver:
        async with Load(f"sqlite+aiosqlite:///{disk}/history.db", receiver) as load:
            await until(lambda: len(receiver.told) >= 2)
            filler = disk / "filler"
            await asyncio.to_thread(fill, filler)
            for _ in range(2000):  # the pages that the database already has are soon full
                load.history.score(replace(stream_score(0, 0.1, stream="other"), at=now()))
            await until(lambda: load.history.statistics.down)
            before = len(load.events)
            await until(lambda: len(load.events) >= before + 4)
            await until(lambda: told_in_order(receiver, load.events))
            await asyncio.to_thread(filler.unlink)
            await until(lambda: not load.history.statistics.down and load.dispatcher.statistics.unrecorded == 0)
            load._tasks[2].cancel()
            await until(lambda: told_in_order(receiver, load.events))
            assert load.history.statistics.lost == 0
            for event in load.events:
                await load.history.alerts.alert(event.after.id)


KILLED_IN_MIGRATION = """
import asyncio, os, signal, sys
from pathlib import Path
import alembic.op
from tests.integration.test_history import History, settings

create, tables = alembic.op.create_table, []
def create_table(name, *columns, **options):
    if tables:
        os.kill(os.getpid(), signal.SIGKILL)
    tables.append(create(name, *columns, **options))
alembic.op.create_table = create_table
asyncio.run(History(settings(Path(sys.argv[1]))).open())
"""


async def test_a_kill_within_the_first_migration_leaves_a_database_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED_IN_MIGRATION, str(path))
    assert await process.wait() == -signal.SIGKILL
    assert path.exists()
    history = History(settings(path))
    await history.open()
    assert await history.alerts.active() == []
    await history.close()
