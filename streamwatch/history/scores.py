"""The past of scores and stream states: writing in batches, asking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Table, insert, select

from streamwatch.history.database import Database
from streamwatch.history.rows import Row
from streamwatch.history.schema import events, scores

THIN_SPAN = 60
"""Seconds that one row stands for once scores are thinned out."""


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """One point of a stream's past. `low` and `high` are set where it stands for many."""

    at: float
    score: float | None
    verdict: str
    reason: str | None = None
    threshold: float | None = None
    coverage: float | None = None
    members: Mapping[str, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None


class ScoreTable:
    """All methods raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """table name -> rows; one transaction."""
        tables: dict[str, Table] = {scores.name: scores, events.name: events}
        async with self._database.writing() as connection:
            for name, batch in rows.items():
                if batch:
                    await connection.execute(insert(tables[name]), list(batch))

    async def streams(self, since: float) -> list[str]:
        """Those that have points since then."""
        query = select(scores.c.stream).where(scores.c.at >= since).distinct().order_by(scores.c.stream)
        async with self._database.reading() as connection:
            return list((await connection.execute(query)).scalars())

    async def points(self, stream: str, since: float, until: float, limit: int) -> list[ScorePoint]:
        """The newest `limit` points of [since, until), in rising order of time."""
        query = (
            select(scores)
            .where(scores.c.stream == stream, scores.c.at >= since, scores.c.at < until)
            .order_by(scores.c.at.desc(), scores.c.id.desc())
            .limit(limit)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            ScorePoint(
                at=row["at"],
                score=row["score"],
                verdict=row["verdict"],
                reason=row["reason"],
                threshold=row["threshold"],
                coverage=row["coverage"],
                members=row["members"],
                low=row["low"] if row["span"] else None,
                high=row["high"] if row["span"] else None,
            )
            for row in reversed(rows)
        ]
