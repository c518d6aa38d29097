"""The way of a result: what rules say of it, and what happens where they fail or a database comes back late."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from streamwatch import results as results_room
from streamwatch.alerts.rules import RuleEngine
from streamwatch.config import AlertSettings
from streamwatch.domain import AlertEvent, StreamInfo, StreamScore, StreamState, StreamStatus
from streamwatch.observer import NullObserver
from streamwatch.results import Desk, Results
from tests.fakes.records import instant, stream_score

RULES = {"down": {"kind": "stream_down", "for": 1.0}, "face": {"kind": "window"}}


class Nowhere:
    """Page and history at once: both only take."""

    def score(self, score: StreamScore, scores: object = None) -> None: ...
    def status(self, status: StreamStatus, info: StreamInfo | None = None) -> None: ...
    def alert(self, event: AlertEvent) -> None: ...


class Outbox:
    def __init__(self) -> None:
        self.events: list[AlertEvent] = []

    def submit(self, event: AlertEvent) -> None:
        self.events.append(event)


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def results(outbox: Outbox) -> Iterator[Results]:
    ids = itertools.count(1)
    settings = AlertSettings.model_validate({"rules": RULES})
    rules = RuleEngine(settings, hysteresis=0.05, new_id=lambda: f"a{next(ids)}")
    yield Results(rules, Nowhere(), Nowhere(), Desk(outbox), NullObserver())


def down(stream: str, at: float) -> StreamStatus:
    return StreamStatus(stream, StreamState.CONNECTING, instant(at))


def test_a_database_that_comes_back_late_ends_no_alert_of_this_run(results: Results, outbox: Outbox) -> None:
    results.status(down("lobby", 0), None)
    results.status(down("lobby", 5), None)
    (opened,) = [event.after for event in outbox.events]
    earlier = replace(opened, id="before", stream="gate")
    taken = results.earlier([opened, earlier])  # what the outbox wrote before the history was looked through
    assert [alert.id for alert in taken] == ["before"]
    results.restore(taken)
    assert [event.after.id for event in outbox.events] == ["a1"]
    assert {alert.id for alert in results.rules.active} == {"a1", "before"}


def test_a_rule_that_fails_stops_neither_the_stream_nor_the_others(
    results: Results, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judged = results.rules.on_score

    def faulty(score: StreamScore) -> list[AlertEvent]:
        if score.stream == "odd":
            raise ValueError("a fault of ours")
        return judged(score)

    monkeypatch.setattr(results.rules, "on_score", faulty)
    for second in range(10):
        for stream in ("odd", "lobby"):
            results.score(stream_score(second, 0.95, stream=stream), None)
    assert [event.after.stream for event in outbox.events][:1] == ["lobby"]
    assert [r.levelno for r in caplog.records if "a rule failed" in r.message] == [logging.ERROR]


async def test_the_watch_over_hold_offs_goes_on_after_a_fault(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_room, "TICK", 0.01)
    ticks = itertools.count()

    def faulty(now: object) -> list[AlertEvent]:
        next(ticks)
        raise ValueError("a fault of ours")

    monkeypatch.setattr(results.rules, "on_tick", faulty)
    task = asyncio.create_task(results.run())
    await asyncio.sleep(0.2)
    assert not task.done() and next(ticks) > 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
