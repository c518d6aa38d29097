"""An outbox in memory, for the time in which the durable one cannot be written: an alert must leave even then."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from streamwatch.domain import AlertEvent
from streamwatch.protocols import Delivery

_NEVER = float("inf")


class MemoryOutbox:
    """At most `bound` deliveries a sink; then the oldest is given up and counted. In order per alert, like the
    durable one."""

    def __init__(self, bound: int = 1000) -> None:
        self._bound = bound
        self._rows: dict[str, deque[Delivery]] = {}
        self._ids = itertools.count(-1, -1)  # negative: never a row of the database
        self.lost = 0

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def record(self, event: AlertEvent, sinks: Sequence[str]) -> None:
        now = time.time()
        for sink in sinks:
            rows = self._rows.setdefault(sink, deque())
            if len(rows) >= self._bound:
                rows.popleft()
                self.lost += 1
            rows.append(Delivery(next(self._ids), sink, event, 0, 0, now, now))

    def due(self, sink: str, now: float, limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        seen: set[str] = set()
        for row in self._rows.get(sink, ()):
            alert = row.event.after.id
            if alert not in seen and row.next_attempt <= now and len(found) < limit:
                found.append(row)
            seen.add(alert)
        return found

    def waiting_for(self, event: AlertEvent) -> list[str]:
        """The sinks that this event has not reached yet."""
        return [sink for sink, rows in self._rows.items() if any(row.event is event for row in rows)]

    def hand_over(self, event: AlertEvent) -> None:
        """The durable outbox has it now. Later events of its alert still wait behind it, until that has them too."""
        for sink, rows in self._rows.items():
            self._rows[sink] = deque(replace(r, next_attempt=_NEVER) if r.event is event else r for r in rows)

    def handed_over(self) -> None:
        """The durable outbox has all that was ever handed over, and all that came after it."""
        for sink, rows in self._rows.items():
            self._rows[sink] = deque(row for row in rows if row.next_attempt != _NEVER)

    def delivered(self, delivery: Delivery) -> None:
        self._rows[delivery.sink] = deque(r for r in self._rows[delivery.sink] if r.id != delivery.id)

    def failed(self, delivery: Delivery, next_attempt: float | None) -> None:
        if next_attempt is None:
            self.delivered(delivery)
            return
        again = replace(delivery, attempts=delivery.attempts + 1, next_attempt=next_attempt)
        rows = self._rows[delivery.sink]
        # What was handed over while it was tried is no longer for this outbox to try.
        self._rows[delivery.sink] = deque(
            again if r.id == delivery.id and r.next_attempt != _NEVER else r for r in rows
        )
