"""The outbox in memory: order per alert, and handing over to the durable one."""

from __future__ import annotations

import time

from streamwatch.alerts.fallback import MemoryOutbox
from tests.fakes.alerting import opened, resolved

LATER = time.time() + 1e6


def due(outbox: MemoryOutbox, now: float = LATER) -> list[tuple[str, str]]:
    return [(d.event.after.id, d.event.phase.value) for d in outbox.due("hook", now, 10)]


def test_one_event_of_an_alert_at_a_time() -> None:
    outbox = MemoryOutbox()
    first, other = opened("a1"), opened("a2")
    for event in (first, resolved(first), other):
        outbox.record(event, ["hook"])
    assert due(outbox) == [("a1", "opened"), ("a2", "opened")]
    (head, _) = outbox.due("hook", LATER, 10)
    outbox.failed(head, LATER + 1)
    assert due(outbox) == [("a2", "opened")]
    outbox.failed(head, None)
    assert due(outbox) == [("a1", "resolved"), ("a2", "opened")]


def test_nothing_overtakes_what_was_handed_over() -> None:
    """The durable outbox knows the first event of an alert and not yet the second: only the first may go."""
    outbox = MemoryOutbox()
    first = opened("a1")
    last = resolved(first)
    for event in (first, last, opened("a2")):
        outbox.record(event, ["hook"])
    outbox.hand_over(first)
    assert due(outbox) == [("a2", "opened")]
    outbox.hand_over(last)
    outbox.handed_over()
    assert due(outbox) == [("a2", "opened")]
    assert len(outbox) == 1


def test_an_attempt_that_fails_after_the_handing_over_is_not_repeated_from_memory() -> None:
    outbox = MemoryOutbox()
    event = opened("a1")
    outbox.record(event, ["hook"])
    (attempt,) = outbox.due("hook", LATER, 10)
    outbox.hand_over(event)
    outbox.failed(attempt, 0.0)
    assert due(outbox) == []


def test_the_oldest_is_given_up_beyond_the_bound() -> None:
    outbox = MemoryOutbox(bound=2)
    for name in ("a1", "a2", "a3"):
        outbox.record(opened(name), ["hook"])
    assert due(outbox) == [("a2", "opened"), ("a3", "opened")]
    assert outbox.lost == 1
