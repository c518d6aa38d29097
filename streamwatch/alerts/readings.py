"""What every condition speaks in, and how long it may be silent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from statistics import median_low
from typing import Protocol

from streamwatch.config import RuleSettings
from streamwatch.domain import Instant, StreamScore, StreamStatus

UNKNOWN_HOLD = 10.0
"""Seconds for which an alert stays open while nobody can say whether its condition still holds: a face turned away is
not a face cleared."""
MAX_INTERVAL = 60.0
"""Seconds: a longer gap between two records was a pause, and says nothing of the next."""


class Mood(StrEnum):
    FIRING = "firing"
    HIGH = "high"
    """not firing, but not below the release either"""
    CLEAR = "clear"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a condition says now. `step` is by how much the value must worsen to be worth an update; None: never. `hold`
    is for how many seconds an alert stays open while the mood is unknown."""

    mood: Mood
    value: float
    threshold: float
    summary: str = ""
    tracks: tuple[int, ...] = ()
    step: float | None = None
    hold: float = UNKNOWN_HOLD


class Condition(Protocol):
    """None means: this record says nothing to this rule."""

    def score(self, score: StreamScore) -> Reading | None: ...
    def status(self, status: StreamStatus) -> Reading | None: ...
    def tick(self, now: Instant) -> Reading | None: ...


class Base:
    """Says nothing to anything; a condition overrides what concerns it."""

    def __init__(self, rule: RuleSettings) -> None:
        self.rule = rule

    def score(self, score: StreamScore) -> Reading | None:
        return None

    def status(self, status: StreamStatus) -> Reading | None:
        return None

    def tick(self, now: Instant) -> Reading | None:
        return None


class Intervals:
    """How often a stream is heard of: one that is looked at every ten seconds is not silent after five."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=3)
        self._window = 0.0

    def heard(self, score: StreamScore) -> None:
        at = score.at.mono
        if self._last is not None:
            self._gaps.append(min(max(0.0, at - self._last), MAX_INTERVAL))
        self._last, self._window = at, score.window or 0.0

    @property
    def missed(self) -> float:
        """Seconds after which two records in a row did not come; scoring waits for frames about as long. One gap among
        shorter ones is no interval. Before there is any, the window tells: at low rates it spans ten frames."""
        return 2.5 * (median_low(self._gaps) if self._gaps else self._window / 10)


class ScoredTime:
    """The time in which one stream had a score: from each record with a score to the next, where that came when it was
    due or within `gap` seconds. What is longer was a pause."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._intervals = Intervals()
        self._span: tuple[float, float] | None = None
        """when the newest score came, and up to when the next one is awaited"""

    def add(self, score: StreamScore, at: float) -> float:
        """Seconds since the record before. `at` is the record's time on whatever clock is counted by."""
        self._intervals.heard(score)
        if score.score is None:
            self.end()
            return 0.0
        since, until = self._span or (at, at)
        if at < since:  # a record that came late: that time is counted
            return 0.0
        self._span = at, at + max(self._gap, self._intervals.missed)
        return at - since if at <= until else 0.0

    def end(self) -> None:
        """The stream has no score any more."""
        self._span = None

    @property
    def until(self) -> float | None:
        """Up to when the newest score holds if none follows; None where there is none."""
        span = self._span  # read once: others may ask from their threads
        return None if span is None else span[1]
