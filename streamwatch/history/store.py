"""The history's front door: takes records without blocking, writes them in batches, survives a database that is
down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from streamwatch.config import HistorySettings
from streamwatch.domain import AlertKind, StreamScore, StreamStatus
from streamwatch.errors import RecordRefused, StorageError
from streamwatch.history.alerts import SqlAlertStore
from streamwatch.history.database import Database
from streamwatch.history.rows import Row, score_row, status_row
from streamwatch.history.schema import events, scores
from streamwatch.history.scores import ScoreTable
from streamwatch.history.upkeep import Upkeep
from streamwatch.observer import NullObserver, Observer
from streamwatch.protocols import Report

log = logging.getLogger(__name__)

FLUSH_EVERY = 1.0
BATCH = 2000
RETRY_CAP = 30.0
UPKEEP_EVERY = 600.0


@dataclass(frozen=True, slots=True)
class HistoryStatistics:
    """`waiting` rows are not in the database yet; `lost` ones never will be. `open`: it has answered once."""

    waiting: int
    written: int
    lost: int
    down: bool
    open: bool


class History:
    """`score` and `status` are for the event loop and never block; `run` writes. `alerts` is the AlertStore.

    While the database is down rows wait, at most `settings.buffer` of them; then the oldest are lost and counted.
    """

    def __init__(
        self, settings: HistorySettings, observer: Observer | None = None, report: Report | None = None
    ) -> None:
        """Raises ConfigError, or StorageError where a SQLite file's directory cannot be made."""
        self._settings = settings
        self._observer = observer or NullObserver()
        self._report = report or (lambda kind, name, problem: None)
        self._database = Database(settings.url.get_secret_value())
        self._table = ScoreTable(self._database)
        self.alerts = SqlAlertStore(self._database)
        self.upkeep = Upkeep(self._database)
        self._waiting: deque[tuple[str, Row]] = deque()
        self._written = 0
        self._lost = 0
        self._down = False
        self._migrated = asyncio.Event()

    @property
    def scores(self) -> ScoreTable:
        return self._table

    @property
    def statistics(self) -> HistoryStatistics:
        return HistoryStatistics(len(self._waiting), self._written, self._lost, self._down, self._migrated.is_set())

    def score(self, score: StreamScore) -> None:
        self._take(scores.name, score_row(score))

    def status(self, status: StreamStatus) -> None:
        self._take(events.name, status_row(status))

    async def open(self) -> None:
        """Migrates. Raises StorageError; `run` tries again by itself, so that a service may start without its
        database."""
        await self._database.migrate()
        self._migrated.set()

    async def ready(self) -> None:
        """Returns once the database has answered: at once after `open`, later where it was down then."""
        await self._migrated.wait()

    async def run(self) -> None:
        """Until cancelled; then what still waits is written, unless the database is down."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._flush_all(), name="history: writing")
                tasks.create_task(self._keep_small(), name="history: upkeep")
        finally:
            if self._waiting and not self._down:
                await self._try()

    def hurry(self) -> None:
        """Before the end: what is written from here on has a second each time."""
        self._database.hurry()

    async def close(self) -> None:
        await self._database.close()

    async def flush(self) -> None:
        """Writes all that waits. Raises StorageError; nothing is lost by that unless the buffer is full."""
        if not self._migrated.is_set():
            await self.open()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await self._write(batch)
            except RecordRefused:
                await self._write_each(batch)
            except BaseException:
                self._put_back(batch)
                raise

    async def _write(self, batch: Sequence[tuple[str, Row]]) -> None:
        await self._table.write(
            {table.name: [r for name, r in batch if name == table.name] for table in (scores, events)}
        )
        self._written += len(batch)

    async def _write_each(self, batch: list[tuple[str, Row]]) -> None:
        """One row is refused for what it holds: it is lost, and holds up no other."""
        while batch:
            try:
                await self._write(batch[:1])
            except RecordRefused as error:
                log.error("history: a row of %s is lost: %s", batch[0][0], error)
                self._lose(1)
            except BaseException:
                self._put_back(batch)
                raise
            del batch[0]

    async def _try(self) -> bool:
        try:
            await self.flush()
        except StorageError as error:
            if not self._down:
                log.error("history: %s; detection goes on, %d rows may wait", error, self._settings.buffer)
            self._down = True
            self._report(AlertKind.STORAGE, "history", str(error))
            return False
        if self._down:
            log.warning("history: the database is back; %d rows were lost", self._lost)
        self._down = False
        self._report(AlertKind.STORAGE, "history", None)
        return True

    async def _flush_all(self) -> None:
        delay = FLUSH_EVERY
        while True:
            await asyncio.sleep(delay)
            delay = FLUSH_EVERY if await self._try() else min(RETRY_CAP, delay * 2)

    async def _keep_small(self) -> None:
        """What fails is done the next time: the database is not called down for it."""
        await self.ready()
        while True:
            now = time.time()
            try:
                await self.upkeep.thin(now - self._settings.downsample_after_hours * 3600.0)
                await self.upkeep.forget(now - self._settings.keep_scores_days * 86_400.0)
            except StorageError as error:
                log.warning("history: old scores have to wait for being thinned out: %s", error)
            await asyncio.sleep(UPKEEP_EVERY)

    def _take(self, table: str, row: Row) -> None:
        if len(self._waiting) >= self._settings.buffer:
            self._waiting.popleft()
            self._lose(1)
        self._waiting.append((table, row))
        self._observer.queue_depth("history", len(self._waiting))

    def _put_back(self, batch: list[tuple[str, Row]]) -> None:
        room = max(0, self._settings.buffer - len(self._waiting))
        if room < len(batch):
            self._lose(len(batch) - room)
            batch = batch[len(batch) - room :]
        self._waiting.extendleft(reversed(batch))

    def _lose(self, count: int) -> None:
        self._lost += count
        self._observer.history_lost("rows", count)
