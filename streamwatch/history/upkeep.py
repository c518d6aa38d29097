"""Keeps the tables small: thins out old scores, forgets what is older still.

All of it goes piece by piece, each a transaction of its own, so that nobody who writes waits for more than one piece.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    Insert,
    Integer,
    Table,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
)

from streamwatch.domain import Verdict
from streamwatch.history.database import Database
from streamwatch.history.schema import events, outbox, scores
from streamwatch.history.scores import THIN_SPAN

PIECE = 5000
"""Rows that one transaction replaces or deletes: some tenths of a second."""
PATIENCE = 60.0
"""Seconds for one piece. Nobody waits for upkeep: a database that is slow with it is not down."""
_WORST_LAST = (Verdict.UNKNOWN, Verdict.REAL, Verdict.SUSPECT, Verdict.FAKE)


class Upkeep:
    """Both methods take their time, and raise StorageError; the pieces that were done until then stay done."""

    def __init__(self, database: Database, piece: int = PIECE) -> None:
        self._database = database
        self._piece = piece

    async def thin(self, before: float) -> int:
        """Replaces single frames before a wall time by one row a minute: mean, least and greatest score, worst
        verdict. Returns how many rows were replaced."""
        before = before // THIN_SPAN * THIN_SPAN
        replaced = 0
        while (old := await self._next_minutes(before)) is not None:
            async with self._database.writing(PATIENCE) as connection:
                await connection.execute(_summaries(old))
                replaced += (await connection.execute(delete(scores).where(old))).rowcount
        return replaced

    async def forget(self, before: float) -> None:
        """Deletes scores, stream events and finished deliveries before a wall time. Alerts and their reviews stay."""
        # With the spans named, the index on (span, at) finds old scores without reading all of them.
        await self._delete(scores, and_(scores.c.span.in_((0, THIN_SPAN)), scores.c.at < before))
        await self._delete(events, events.c.at < before)
        await self._delete(outbox, outbox.c.finished_at < before)

    async def _delete(self, table: Table, old: ColumnElement[bool]) -> None:
        query = select(table.c.id).where(old).limit(self._piece)
        while True:
            async with self._database.reading(PATIENCE) as connection:
                ids = list((await connection.execute(query)).scalars())
            if ids:
                async with self._database.writing(PATIENCE) as connection:
                    await connection.execute(delete(table).where(table.c.id.in_(ids)))
            if len(ids) < self._piece:
                return

    async def _next_minutes(self, before: float) -> ColumnElement[bool] | None:
        """The oldest single frames: whole minutes of whole streams, of about a piece in all, at least one minute of one
        stream. None: there are no more."""
        single = and_(scores.c.span == 0, scores.c.at < before)
        ages = select(scores.c.at).where(single).order_by(scores.c.at).limit(1)
        async with self._database.reading(PATIENCE) as connection:
            first = (await connection.execute(ages)).scalar()
            if first is None:
                return None
            last = (await connection.execute(ages.offset(self._piece))).scalar()
            minute = first // THIN_SPAN
            end = before if last is None else max(minute + 1, last // THIN_SPAN) * THIN_SPAN
            old = and_(scores.c.span == 0, scores.c.at < end)
            counts = select(scores.c.stream, func.count()).where(old).group_by(scores.c.stream)
            rows = (await connection.execute(counts.order_by(scores.c.stream))).all()
        return and_(old, scores.c.stream.in_(_first([(stream, count) for stream, count in rows], self._piece)))


def _first(counts: Sequence[tuple[str, int]], limit: int) -> list[str]:
    """As many streams as have `limit` rows together, at least one."""
    chosen: list[str] = []
    for stream, count in counts:
        limit -= count
        if chosen and limit < 0:
            break
        chosen.append(stream)
    return chosen


def _summaries(old: ColumnElement[bool]) -> Insert:
    """One row for each stream and minute."""
    rank = case({verdict.value: rank for rank, verdict in enumerate(_WORST_LAST)}, value=scores.c.verdict)
    grouped = (
        select(
            scores.c.stream,
            (scores.c.minute * float(THIN_SPAN)).label("at"),
            scores.c.minute,
            literal(THIN_SPAN).label("span"),
            case(
                {rank: verdict.value for rank, verdict in enumerate(_WORST_LAST)},
                value=cast(func.max(rank), Integer),
            ).label("verdict"),
            case((func.count(scores.c.score) == 0, func.max(scores.c.reason)), else_=None).label("reason"),
            func.avg(scores.c.score).label("score"),
            func.min(scores.c.low).label("low"),
            func.max(scores.c.high).label("high"),
            func.max(scores.c.threshold).label("threshold"),
            func.avg(scores.c.coverage).label("coverage"),
            func.sum(scores.c.samples).label("samples"),
            literal({}, scores.c.members.type).label("members"),
        )
        .where(old)
        .group_by(scores.c.stream, scores.c.minute)
    )
    return insert(scores).from_select([column.name for column in grouped.selected_columns], grouped)
