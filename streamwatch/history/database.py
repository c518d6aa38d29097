"""The connection to the database: SQLite in WAL mode, or PostgreSQL by URL. All errors leave here as StorageError."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from streamwatch.errors import ConfigError, RecordRefused, StorageError

MIGRATIONS = Path(__file__).parent / "migrations"
HURRY = 1.0
PATIENCE = 10.0
"""Seconds after which a database that does not answer counts as down."""


class Database:
    """One engine. Writers take turns: SQLite knows one at a time, and an alert's sequence must not be raced for."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a URL that is none, or whose driver is not installed."""
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigError("history.url: is not a database URL") from None
        if parsed.drivername not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
            raise ConfigError("history.url: must begin with sqlite+aiosqlite:// or postgresql+asyncpg://")
        self._links: set[Any] = set()
        self._under_way: set[object] = set()
        self.name = parsed.database or "memory" if parsed.drivername.startswith("sqlite") else str(parsed.host)
        try:
            if parsed.drivername.startswith("sqlite"):
                self._engine = _sqlite(url, parsed.database)
            else:
                self._engine = create_async_engine(url, pool_pre_ping=True, pool_size=4, max_overflow=4)
                event.listen(self._engine.sync_engine, "connect", lambda link, _: self._links.add(link))
                event.listen(self._engine.sync_engine, "close", lambda link, _: self._links.discard(link))
        except ImportError:
            raise ConfigError("history.url: PostgreSQL needs the extra: pip install 'streamwatch[postgres]'") from None
        self._writing = asyncio.Lock()
        self._most_patience = float("inf")

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    def hurry(self) -> None:
        """The service ends: from here on no question and no transaction has longer than a second, those under way
        included, so that a database that hangs does not keep it."""
        self._most_patience = HURRY
        asyncio.get_running_loop().call_later(HURRY, self._cut, frozenset(self._under_way))

    def _cut(self, late: frozenset[object]) -> None:
        """Without ceremony, where one is late: the driver would wait for seconds for an answer to its goodbye."""
        if late & self._under_way:
            for link in list(self._links):
                link.driver_connection.terminate()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        mark = object()
        self._under_way.add(mark)
        try:
            yield
        finally:
            self._under_way.discard(mark)

    async def migrate(self) -> None:
        """Brings the tables to the newest schema. Raises StorageError."""
        async with self.writing() as connection:
            await connection.run_sync(_upgrade)

    @asynccontextmanager
    async def reading(self, patience: float = PATIENCE) -> AsyncIterator[AsyncConnection]:
        """A connection for queries, for `patience` seconds in all. Raises StorageError."""
        patience = min(patience, self._most_patience)
        with self._counted():
            async with (
                _translated(self.name, patience),
                asyncio.timeout(patience),
                self._engine.connect() as connection,
            ):
                yield connection

    @asynccontextmanager
    async def writing(self, patience: float = PATIENCE) -> AsyncIterator[AsyncConnection]:
        """One transaction, committed at the end unless something was raised. `patience` (s) counts from the call:
        waiting for one's turn is part of it. Raises StorageError."""
        patience = min(patience, self._most_patience)
        with self._counted():
            async with (
                _translated(self.name, patience),
                asyncio.timeout(patience),
                self._writing,
                self._engine.begin() as connection,
            ):
                yield connection

    async def close(self) -> None:
        await self._engine.dispose()


def _sqlite(url: str, path: str | None) -> AsyncEngine:
    if path and path != ":memory:":
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{Path(path).parent}: cannot be made: {error.strerror or error}") from error
    engine = create_async_engine(url)
    event.listen(engine.sync_engine, "connect", _pragmas)
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _pragmas(connection: Any, _: Any) -> None:
    # Transactions are ours (`begin`): the driver's own leave out what makes tables, so that a kill within a migration
    # would leave some of them behind.
    connection.isolation_level = None
    cursor = connection.cursor()
    # FULL: an alert that was recorded is on the disk. Scores come in batches, so that this costs one sync a second.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _upgrade(connection: Connection) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(f"the database has a schema that this version does not know: {error}") from error


@asynccontextmanager
async def _translated(name: str, patience: float) -> AsyncIterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # The driver's own words: SQLAlchemy's add the statement and its parameters.
        cause = getattr(error, "orig", None) or error
        kind = RecordRefused if _by_content(error) else StorageError
        raise kind(f"database {name}: {_short(cause)}") from error
    except TimeoutError as error:
        raise StorageError(f"database {name}: no answer within {patience:.0f} s") from error
    except OSError as error:
        raise StorageError(f"database {name}: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:  # by a driver, of a value that it cannot express
        raise RecordRefused(f"database {name}: {_short(error)}") from error


def _by_content(error: SQLAlchemyError) -> bool:
    """Whether the database is well and the record is at fault."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, StatementError)  # a value that could not even be bound
    # PostgreSQL's classes 22 and 23 are data exceptions and violated constraints, asyncpg's own check is a ValueError.
    state = getattr(error.orig, "sqlstate", None) or ""
    own = isinstance(getattr(error.orig, "__cause__", None), ValueError)
    return isinstance(error, DataError | IntegrityError) or state[:2] in ("22", "23") or own


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
