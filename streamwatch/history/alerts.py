"""Alerts, their events, the outbox and reviews. Implements `protocols.AlertStore`."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Select, and_, func, insert, or_, select, update

from streamwatch.domain import Alert, AlertEvent, AlertKind, Review
from streamwatch.errors import NotFound
from streamwatch.history.database import Database
from streamwatch.history.rows import alert_of, alert_row, delivery_of
from streamwatch.history.schema import alert_events, alerts, outbox, reviews
from streamwatch.protocols import Delivery

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
# An operator's, never overwritten by what the rules say.
_REVIEW = {"review", "review_note", "reviewed_by"}


class AlertFilter(Protocol):
    """Which alerts, newest first by (opened_at wall, id). `before`: only those that sort after this pair."""

    @property
    def stream(self) -> str | None: ...
    @property
    def active(self) -> bool | None: ...
    @property
    def kind(self) -> AlertKind | None: ...
    @property
    def review(self) -> Review | None: ...
    @property
    def since(self) -> float | None: ...
    @property
    def until(self) -> float | None: ...
    @property
    def before(self) -> tuple[float, str] | None: ...
    @property
    def limit(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """How far one event has come on its way to one sink: pending, delivered or dead."""

    sink: str
    sequence: int
    state: str
    attempts: int
    created_at: float
    finished_at: float | None
    error: str


class SqlAlertStore:
    """Each method is one transaction. All raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, event: AlertEvent, sinks: Sequence[str]) -> None:
        """The alert, its event and a row of the outbox for each sink, together or not at all."""
        row = alert_row(event.after)
        now = time.time()
        async with self._database.writing() as connection:
            known = select(alerts.c.id).where(alerts.c.id == event.after.id)
            if (await connection.execute(known)).first() is None:
                await connection.execute(insert(alerts).values(**row))
            else:
                fields = {name: value for name, value in row.items() if name not in _REVIEW}
                await connection.execute(update(alerts).where(alerts.c.id == event.after.id).values(**fields))
            last = select(func.max(alert_events.c.sequence)).where(alert_events.c.alert_id == event.after.id)
            sequence = ((await connection.execute(last)).scalar() or 0) + 1
            said = {
                "alert_id": event.after.id,
                "sequence": sequence,
                "phase": event.phase.value,
                "at": event.after.updated_at.wall,
                "before": alert_row(event.before) if event.before else None,
                "after": row,
            }
            await connection.execute(insert(alert_events).values(**said))
            if sinks:
                await connection.execute(insert(outbox), [_outbox_row(s, event.after.id, sequence, now) for s in sinks])

    async def due(self, sink: str, now: float, limit: int, finished: Collection[int] = ()) -> list[Delivery]:
        """Head of line for each alert: nothing of an alert is tried while an earlier event of it waits. Rows whose ids
        are `finished` count as done: at most some ten thousand, a statement's parameters."""
        waiting = (
            select(outbox.c.alert_id, func.min(outbox.c.sequence).label("sequence"))
            .where(outbox.c.sink == sink, outbox.c.state == PENDING, outbox.c.id.not_in(finished))
            .group_by(outbox.c.alert_id)
            .subquery()
        )
        head = and_(outbox.c.alert_id == waiting.c.alert_id, outbox.c.sequence == waiting.c.sequence)
        said = and_(alert_events.c.alert_id == outbox.c.alert_id, alert_events.c.sequence == outbox.c.sequence)
        query: Select[Any] = (
            select(outbox, alert_events.c.phase, alert_events.c.before, alert_events.c.after)
            .join(waiting, head)
            .join(alert_events, said)
            .where(outbox.c.sink == sink, outbox.c.state == PENDING, outbox.c.next_attempt <= now)
            .order_by(outbox.c.id)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            return [delivery_of(row) for row in (await connection.execute(query)).mappings()]

    async def delivered(self, delivery: Delivery, at: float) -> None:
        await self._finish(delivery, state=DELIVERED, finished_at=at, error="")

    async def failed(self, delivery: Delivery, error: str, next_attempt: float | None) -> None:
        if next_attempt is None:
            await self._finish(delivery, state=DEAD, finished_at=time.time(), error=error)
        else:
            await self._finish(delivery, next_attempt=next_attempt, error=error)

    async def _finish(self, delivery: Delivery, **values: Any) -> None:
        statement = update(outbox).where(outbox.c.id == delivery.id)
        async with self._database.writing() as connection:
            await connection.execute(statement.values(attempts=delivery.attempts + 1, **values))

    async def active(self, resolved_since: float | None = None) -> list[Alert]:
        at = alerts.c.resolved_at
        wanted = at.is_(None) if resolved_since is None else or_(at.is_(None), at >= resolved_since)
        return await self._alerts(select(alerts).where(wanted).order_by(alerts.c.opened_at))

    async def pending(self) -> int:
        """Deliveries that still wait."""
        query = select(func.count()).select_from(outbox).where(outbox.c.state == PENDING)
        async with self._database.reading() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def deliveries(self, alert: str) -> list[DeliveryRecord]:
        """Of one alert, in order of sink and sequence."""
        query = select(outbox).where(outbox.c.alert_id == alert).order_by(outbox.c.sink, outbox.c.sequence)
        names = ("sink", "sequence", "state", "attempts", "created_at", "finished_at", "error")
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings()
            return [DeliveryRecord(**{name: row[name] for name in names}) for row in rows]

    async def query(self, wanted: AlertFilter) -> list[Alert]:
        """At most `wanted.limit`."""
        table = alerts.c
        query = select(alerts).order_by(table.opened_at.desc(), table.id.desc()).limit(wanted.limit)
        if wanted.active is not None:
            query = query.where(table.resolved_at.is_(None) if wanted.active else table.resolved_at.is_not(None))
        for column, value in ((table.stream, wanted.stream), (table.kind, wanted.kind), (table.review, wanted.review)):
            if value is not None:
                query = query.where(column == str(value))
        if wanted.since is not None:
            query = query.where(table.opened_at >= wanted.since)
        if wanted.until is not None:
            query = query.where(table.opened_at < wanted.until)
        if wanted.before is not None:
            at, key = wanted.before
            query = query.where(or_(table.opened_at < at, and_(table.opened_at == at, table.id < key)))
        return await self._alerts(query)

    async def alert(self, alert: str) -> Alert:
        """Raises NotFound."""
        found = await self._alerts(select(alerts).where(alerts.c.id == alert))
        if not found:
            raise NotFound(f"there is no alert {alert!r}")
        return found[0]

    async def review(self, alert: str, review: Review, note: str, by: str) -> Alert:
        """Sets the review and keeps the earlier ones. Raises NotFound."""
        values = {"review": review.value, "review_note": note, "reviewed_by": by}
        entry = {"alert_id": alert, "at": time.time(), "review": review.value, "note": note, "by": by}
        async with self._database.writing() as connection:
            changed = await connection.execute(update(alerts).where(alerts.c.id == alert).values(**values))
            if changed.rowcount == 0:
                raise NotFound(f"there is no alert {alert!r}")
            await connection.execute(insert(reviews).values(**entry))
        return await self.alert(alert)

    async def review_counts(self, since: float) -> dict[str, dict[Review, int]]:
        """stream -> review -> alerts of faces that were opened since then: what a false-alarm rate is made of."""
        table = alerts.c
        query: Select[Any] = (
            select(table.stream, table.review, func.count())
            .where(table.kind == AlertKind.DEEPFAKE.value, table.opened_at >= since)
            .group_by(table.stream, table.review)
        )
        counts: dict[str, dict[Review, int]] = {}
        async with self._database.reading() as connection:
            for stream, review, count in await connection.execute(query):
                counts.setdefault(stream, {})[Review(review)] = count
        return counts

    async def _alerts(self, query: Select[Any]) -> list[Alert]:
        async with self._database.reading() as connection:
            return [alert_of(row) for row in (await connection.execute(query)).mappings()]


def _outbox_row(sink: str, alert: str, sequence: int, now: float) -> dict[str, Any]:
    return {
        "sink": sink,
        "alert_id": alert,
        "sequence": sequence,
        "state": PENDING,
        "attempts": 0,
        "next_attempt": now,
        "created_at": now,
        "error": "",
    }
