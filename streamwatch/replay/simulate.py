"""Rules on recorded scores: which alerts would have opened, over how many scored hours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from streamwatch.alerts.readings import ScoredTime
from streamwatch.alerts.rules import RuleEngine, rules_of
from streamwatch.config import AlertSettings, ScoringSettings
from streamwatch.domain import Alert, AlertEvent, AlertPhase, Instant, StreamScore, TrackScore
from streamwatch.replay.records import Record

TICK = 1.0
MAX_GAP = 5.0
"""Seconds: a longer silence is not counted as scored time, unless the stream's frames come as seldom."""
MAX_TICKS = 180
"""Ticks over one silence, beyond what the rules say: longer ones hold nothing that they would still wait for."""


@dataclass(slots=True)
class Watched:
    """The scored hours of the streams that one rule watches, and those of them in which it was in alarm."""

    hours: float = 0.0
    in_alarm: float = 0.0


@dataclass(slots=True)
class Outcome:
    """`hours` of a stream are those in which it had a score; `rules` has every rule that watched some."""

    opened: list[Alert] = field(default_factory=list)
    closed: dict[str, Alert] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)
    rules: dict[str, Watched] = field(default_factory=dict)
    records: int = 0

    @property
    def scored_hours(self) -> float:
        return sum(self.hours.values())


class Simulation:
    """Feeds records to an engine as the service would, ticks between them included."""

    def __init__(self, settings: AlertSettings, scoring: ScoringSettings) -> None:
        """Raises ConfigError."""
        self._settings = settings
        self._lost_after = scoring.lost_after
        ids = itertools.count(1)
        self._engine = RuleEngine(settings, hysteresis=scoring.hysteresis, new_id=lambda: str(next(ids)))
        self._ticks = MAX_TICKS + int(_longest_wait(settings) / TICK)
        self._spent: dict[str, ScoredTime] = {}
        self._tracks: dict[str, dict[int, tuple[float, TrackScore]]] = {}
        self._now: float | None = None
        self._watching: dict[str, list[str]] = {}
        self._open: set[tuple[str, str]] = set()
        """(rule, stream) in alarm; without a stream where the rule speaks of all of them"""
        self.outcome = Outcome()

    def feed(self, records: Iterable[Record]) -> Outcome:
        for record in records:
            self.add(record)
        return self.outcome

    def add(self, record: Record) -> None:
        self.outcome.records += 1
        self._pass_time(record.at)
        if isinstance(record, StreamScore):
            self._count(record)
            self._note(self._engine.on_score(self._with_unseen(record)))
        else:
            self._note(self._engine.on_status(record))

    def _pass_time(self, at: Instant) -> None:
        if self._now is None or at.mono < self._now:
            self._now = max(at.mono, self._now or at.mono)
            return
        steps = min(self._ticks, int((at.mono - self._now) / TICK))
        for step in range(1, steps + 1):
            moment = self._now + step * TICK
            self._note(self._engine.on_tick(Instant(moment, moment)))
        if steps:
            self._now = at.mono

    def _with_unseen(self, score: StreamScore) -> StreamScore:
        """A message names the faces seen in its frame alone; the rules also know of those that were missed for a
        moment."""
        at = score.at.mono
        known = self._tracks.setdefault(score.stream, {})
        if score.scene_cut:
            known.clear()
        seen = {track.track for track in score.tracks}
        unseen = [
            replace(track, visible=False, logit=None)
            for number, (when, track) in known.items()
            if number not in seen and at - when <= self._lost_after
        ]
        known.update({track.track: (at, track) for track in score.tracks})
        self._tracks[score.stream] = {n: (when, t) for n, (when, t) in known.items() if at - when <= self._lost_after}
        return replace(score, tracks=(*score.tracks, *unseen)) if unseen else score

    def _count(self, score: StreamScore) -> None:
        spent = self._spent.setdefault(score.stream, ScoredTime(MAX_GAP))
        if (seconds := spent.add(score, score.at.mono)) > 0:
            self._spend(score.stream, seconds / 3600.0)

    def _spend(self, stream: str, hours: float) -> None:
        """Each rule answers for its own streams: hours that it never saw prove nothing of it."""
        spent = self.outcome.hours
        spent[stream] = spent.get(stream, 0.0) + hours
        for rule in self._rules(stream):
            watched = self.outcome.rules.setdefault(rule, Watched())
            watched.hours += hours
            if not self._open.isdisjoint({(rule, stream), (rule, "")}):
                watched.in_alarm += hours

    def _rules(self, stream: str) -> list[str]:
        if stream not in self._watching:
            own = rules_of(self._settings, stream)
            names = list(own)
            if not any(rule.kind == "canary" for rule in own.values()):
                fleet = self._settings.rules.items()
                names += [name for name, rule in fleet if rule.enabled and rule.kind == "detector_drift"]
            self._watching[stream] = names
        return self._watching[stream]

    def _note(self, events: Iterable[AlertEvent]) -> None:
        for event in events:
            key = event.after.rule, event.after.stream
            if event.phase is AlertPhase.OPENED:
                self.outcome.opened.append(event.after)
                self._open.add(key)
            elif event.phase is AlertPhase.RESOLVED:
                self.outcome.closed[event.after.id] = event.after
                self._open.discard(key)


def _longest_wait(settings: AlertSettings) -> float:
    """Seconds for which a rule may wait until it opens or resolves."""
    own = [rule for stream in settings.overrides for rule in rules_of(settings, stream).values()]
    return max((rule.for_ + rule.resolve_after for rule in [*settings.rules.values(), *own]), default=0.0)


def upper_bound(events: int, hours: float, confidence: float = 0.95) -> float:
    """The rate per hour that so many events in so many hours leave possible: the one-sided upper limit of a Poisson
    mean (Garwood). No event in T hours leaves 3.0 / T."""
    if hours <= 0:
        return math.inf
    low, high = 0.0, 10.0 + 3.0 * events
    for _ in range(80):
        mean = (low + high) / 2
        if _poisson_cdf(events, mean) > 1.0 - confidence:
            low = mean
        else:
            high = mean
    return high / hours


def _poisson_cdf(events: int, mean: float) -> float:
    if mean <= 0:
        return 1.0
    terms = (k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(events + 1))
    return math.fsum(math.exp(t) for t in terms)
