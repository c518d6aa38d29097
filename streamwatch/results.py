"""Where every result goes: to the page, then the rules, and what they say to outbox, evidence and history."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from streamwatch.alerts.rules import RuleEngine
from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    FrameScores,
    Instant,
    StreamInfo,
    StreamScore,
    StreamStatus,
)
from streamwatch.observer import Observer
from streamwatch.protocols import ScorePublisher

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between looks at hold-offs and resolutions that no record brings about."""
COMPLAIN_EVERY = 60.0
"""Seconds between two reports of rules that fail."""


class History(Protocol):
    """Keeps what was said. Never blocks: writing is batched, bounded and counted."""

    def score(self, score: StreamScore) -> None: ...
    def status(self, status: StreamStatus) -> None: ...


class Outbox(Protocol):
    def submit(self, event: AlertEvent) -> None: ...


class Evidence(Protocol):
    def submit(self, event: AlertEvent) -> None: ...
    def observe(self, score: StreamScore, scores: FrameScores | None) -> None: ...


class Desk:
    """Gives alert events to the outbox and the evidence, and to the latter what it may need. Never blocks."""

    def __init__(self, outbox: Outbox, evidence: Evidence | None = None) -> None:
        self._outbox = outbox
        self._evidence = evidence

    def submit(self, event: AlertEvent) -> None:
        self._outbox.submit(event)
        if self._evidence is not None:
            self._evidence.submit(event)

    def observe(self, score: StreamScore, scores: FrameScores | None) -> None:
        if self._evidence is not None:
            self._evidence.observe(score, scores)


class Results:
    """Implements `protocols.ScorePublisher` for the monitors. In the event loop only."""

    def __init__(
        self, rules: RuleEngine, page: ScorePublisher, history: History, desk: Desk, observer: Observer
    ) -> None:  # fmt: skip
        self.rules = rules
        self._page = page
        self._history = history
        self._desk = desk
        self._observer = observer
        self._opened: set[str] | None = set()
        """alerts that this run opened, until those of the last one are taken up"""
        self._complained = float("-inf")

    def score(self, score: StreamScore, scores: FrameScores | None) -> None:
        self._page.score(score, scores)
        self._history.score(score)
        self._desk.observe(score, scores)
        self._judge(lambda: self.rules.on_score(score))

    def status(self, status: StreamStatus, info: StreamInfo | None) -> None:
        self._page.status(status, info)
        self._history.status(status)
        self._judge(lambda: self.rules.on_status(status))

    def alert(self, event: AlertEvent) -> None:
        """An event from elsewhere than the rules: a review."""
        self._page.alert(event)
        self._observer.alert(event)

    def service(self, kind: AlertKind, name: str, problem: str | None) -> None:
        """The service speaks of itself; None: it has recovered."""
        self._judge(lambda: self.rules.on_service(kind, name, _now(), problem))

    def removed(self, stream: str) -> None:
        self._judge(lambda: self.rules.remove(stream, _now()))

    def earlier(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Those that an earlier run opened: a database that is back late holds some of this one as well."""
        return [alert for alert in alerts if alert.id not in (self._opened or ())]

    def restore(self, alerts: Sequence[Alert]) -> None:
        """Takes up the alerts that were open when the service last ended."""
        self._opened = None
        for alert in alerts:
            if alert.active:
                self._observer.alert(AlertEvent(AlertPhase.UPDATED, alert, alert))
        self._judge(lambda: self.rules.restore(alerts, _now()))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self._judge(lambda: self.rules.on_tick(_now()))

    def _judge(self, rule: Callable[[], Sequence[AlertEvent]]) -> None:
        """A fault of ours ends neither the stream whose record brought it out nor the watch over all others."""
        try:
            self._raise(rule())
        except Exception:
            now = time.monotonic()
            if now - self._complained >= COMPLAIN_EVERY:  # the log must not fill the disk
                log.exception("a rule failed; the others go on")
                self._complained = now

    def _raise(self, events: Sequence[AlertEvent]) -> None:
        for event in events:
            after = event.after
            if self._opened is not None and event.phase is AlertPhase.OPENED:
                self._opened.add(after.id)
            log.debug("alert %s %s: %s", after.id, event.phase.value, after.summary)  # the log sink tells operators
            self._desk.submit(event)
            self.alert(event)


def _now() -> Instant:
    return Instant(time.monotonic(), time.time())
