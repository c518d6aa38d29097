"""Whether the scores of all streams move at once: then the pictures changed (a codec, the light of a season, the
weights) and not the people.

Pure. Each stream has a fast and a slow mean of its window logit; the fleet has drifted where the median stream's fast
mean is far from its slow one and nearly all streams moved the same way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from streamwatch.alerts.readings import Base, Mood, Reading
from streamwatch.config import RuleSettings
from streamwatch.domain import Instant, StreamScore, logit

FAST = 30.0
SLOW = 1800.0
MATURE = 600.0
"""Scored seconds after which a stream's slow mean counts."""
RECENT = 60.0
MIN_STREAMS = 3
SAME_WAY = 0.8
SHIFT = 1.5
"""Default of `threshold`: logits."""


@dataclass(slots=True)
class _Means:
    fast: float
    slow: float
    at: float
    scored: float = 0.0

    def add(self, value: float, at: float) -> None:
        elapsed = min(max(0.0, at - self.at), FAST)
        self.scored += elapsed
        # The slow mean starts as a plain average, else its first value would weigh for half an hour.
        self.fast += (1.0 - math.exp(-elapsed / FAST)) * (value - self.fast)
        self.slow += (1.0 - math.exp(-elapsed / min(SLOW, max(FAST, self.scored)))) * (value - self.slow)
        self.at = at


class DriftCondition(Base):
    """Over all streams; releases at half the threshold."""

    def __init__(self, rule: RuleSettings) -> None:
        super().__init__(rule)
        self._means: dict[str, _Means] = {}
        self._threshold = SHIFT if rule.threshold is None else rule.threshold
        self._since: float | None = None

    def forget(self, stream: str) -> None:
        self._means.pop(stream, None)

    def score(self, score: StreamScore) -> Reading | None:
        if score.score is None:
            return None
        value, at = logit(score.score, 6.0), score.at.mono
        means = self._means.get(score.stream)
        if means is None:
            self._means[score.stream] = _Means(value, value, at)
        else:
            means.add(value, at)
        return self._reading(score.at)

    def tick(self, now: Instant) -> Reading | None:
        return self._reading(now)

    def _reading(self, at: Instant) -> Reading | None:
        shifts = [m.fast - m.slow for m in self._means.values() if m.scored >= MATURE and at.mono - m.at <= RECENT]
        if len(shifts) < MIN_STREAMS:
            self._since = None
            return Reading(Mood.UNKNOWN, 0.0, self._threshold)
        middle = median(shifts)
        same = sum(1 for s in shifts if s * middle > 0) / len(shifts)
        value = abs(middle) if same >= SAME_WAY else 0.0
        if value < self._threshold:
            self._since = None
            release = self._threshold / 2 if self.rule.release is None else self.rule.release
            return Reading(Mood.HIGH if value >= release else Mood.CLEAR, value, self._threshold)
        if self._since is None:
            self._since = at.mono
        mood = Mood.FIRING if at.mono - self._since >= self.rule.for_ else Mood.HIGH
        way = "up" if middle > 0 else "down"
        summary = (
            f"The scores of {len(shifts)} streams moved {way} by {value:.1f} logits at once: the detector has drifted"
        )
        return Reading(mood, value, self._threshold, summary, step=self._threshold / 4)
