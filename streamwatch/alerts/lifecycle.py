"""The life of the alerts of one rule on one stream: open, updated, resolved, cooling down. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from streamwatch.alerts.readings import Mood, Reading
from streamwatch.config import RuleSettings
from streamwatch.domain import Alert, AlertEvent, AlertKind, AlertPhase, Instant

RESTORED_HOLD = 60.0
"""Seconds for which an alert at least stays open after a restart while nobody can say whether its condition holds
still: streams connect, and windows fill."""
MAX_TRACKS = 32
"""Faces that an alert names."""
UPDATE_INTERVAL = 5.0
"""Seconds between two updates that only report a worse value."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What all alerts of a slot have in common."""

    kind: AlertKind
    rule: str
    stream: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Slot:
    """At most one alert of one rule on one stream is open at a time; the faces that fire are named in it."""

    identity: Identity
    rule: RuleSettings
    new_id: Callable[[], str]
    alert: Alert | None = None
    _now: Instant = field(default_factory=lambda: Instant(float("-inf"), 0.0))
    _high_at: float = 0.0
    _clear_since: float | None = None
    _hold: float = 0.0
    _cool_until: float = float("-inf")
    _told: bool = False
    """whether anyone but the history heard of the open alert"""

    def restore(self, alert: Alert, now: Instant) -> None:
        """Takes up an alert of an earlier run. Its monotonic times are of another clock: they are set from the wall
        times."""
        age = max(0.0, now.wall - alert.opened_at.wall)
        updated = Instant(now.mono - max(0.0, now.wall - alert.updated_at.wall), alert.updated_at.wall)
        # Tracks are numbered anew by each run: who is 1 now is somebody else.
        labels = {name: text for name, text in alert.labels.items() if name != "tracks"}
        opened = Instant(now.mono - age, alert.opened_at.wall)
        self.alert = replace(alert, opened_at=opened, updated_at=updated, labels=labels)
        self._told = True  # better a word too much than an alert that stays open at its receivers
        self._now, self._high_at, self._hold = now, now.mono, RESTORED_HOLD

    def cool(self, resolved: float, now: Instant) -> None:
        """Goes on with the cooldown of an alert that an earlier run resolved at wall time `resolved`."""
        ago = max(0.0, now.wall - resolved)
        self._cool_until = max(self._cool_until, now.mono - ago + self.rule.cooldown)

    def step(self, at: Instant, reading: Reading, silenced: bool, labels: Mapping[str, str]) -> AlertEvent | None:
        """Takes in one reading. `labels` are those of the moment, kept in an alert that opens now."""
        now = self._now = max(at, self._now)
        if self.alert is None:
            if reading.mood is not Mood.FIRING or now.mono < self._cool_until:
                return None
            return self._open(now, reading, silenced, labels)
        if self._over(now.mono, reading):
            return self.close(now, "cleared" if reading.mood is Mood.CLEAR else "no longer seen", reading.value)
        return self._update(now, reading, silenced)

    def close(self, at: Instant, why: str, value: float | None = None) -> AlertEvent | None:
        """Resolves the alert, if there is one, whatever its condition says."""
        before = self.alert
        if before is None:
            return None
        now = self._now = max(at, self._now)
        self.alert, self._cool_until = None, now.mono + self.rule.cooldown
        after = replace(
            before,
            value=before.value if value is None else value,
            updated_at=after_update(now, before),
            resolved_at=after_update(now, before),
            # Who heard of it must hear that it is over, maintenance or not.
            silenced=before.silenced and not self._told,
            labels={**before.labels, "resolved": why},
        )
        return AlertEvent(AlertPhase.RESOLVED, before, after)

    def mark(self, at: Instant, labels: Mapping[str, str]) -> AlertEvent | None:
        """Adds labels to the open alert, if there is one that lacks them."""
        before = self.alert
        if before is None or labels.items() <= before.labels.items():
            return None
        now = self._now = max(at, self._now)
        self.alert = replace(before, updated_at=after_update(now, before), labels={**before.labels, **labels})
        return AlertEvent(AlertPhase.UPDATED, before, self.alert)

    def _open(self, now: Instant, reading: Reading, silenced: bool, labels: Mapping[str, str]) -> AlertEvent:
        self._high_at, self._clear_since, self._hold, self._told = now.mono, None, 0.0, not silenced
        self.alert = Alert(
            id=self.new_id(),
            kind=self.identity.kind,
            rule=self.identity.rule,
            stream=self.identity.stream,
            severity=self.rule.severity,
            opened_at=now,
            updated_at=now,
            value=reading.value,
            peak=reading.value,
            threshold=reading.threshold,
            summary=reading.summary,
            track=reading.tracks[0] if reading.tracks else None,
            silenced=silenced,
            labels={**self.identity.labels, **labels, **_track_labels(reading)},
        )
        return AlertEvent(AlertPhase.OPENED, None, self.alert)

    def _over(self, now: float, reading: Reading) -> bool:
        if reading.mood in {Mood.FIRING, Mood.HIGH}:
            self._high_at, self._clear_since, self._hold = now, None, 0.0
            return False
        if reading.mood is Mood.CLEAR:
            if self._clear_since is None:
                self._clear_since = now
            return now - self._clear_since >= self.rule.resolve_after
        return now - self._high_at >= max(self._hold, reading.hold, self.rule.resolve_after)

    def _update(self, now: Instant, reading: Reading, silenced: bool) -> AlertEvent | None:
        before = self.alert
        assert before is not None
        known = _tracks(before)
        joined = not known.issuperset(reading.tracks) and len(known) < MAX_TRACKS
        worse = (
            reading.step is not None
            and reading.value >= before.peak + reading.step
            and now.mono - before.updated_at.mono >= UPDATE_INTERVAL
        )
        if not (joined or worse or silenced != before.silenced):
            return None
        self._told |= not silenced
        self.alert = replace(
            before,
            updated_at=after_update(now, before),
            value=reading.value,
            peak=max(before.peak, reading.value),
            summary=reading.summary or before.summary,
            silenced=silenced,
            labels={**before.labels, **_track_labels(reading, known)},
        )
        return AlertEvent(AlertPhase.UPDATED, before, self.alert)


def after_update(now: Instant, before: Alert) -> Instant:
    """Now, on a wall clock that goes on by a millisecond at least with each word on one alert, whatever the machine's
    does: receivers order by it, and know an event by it."""
    return Instant(now.mono, max(now.wall, before.updated_at.wall + 0.001))


def _tracks(alert: Alert) -> set[int]:
    return {int(t) for t in alert.labels.get("tracks", "").split(",") if t}


def _track_labels(reading: Reading, known: set[int] | None = None) -> dict[str, str]:
    tracks = sorted({*reading.tracks, *(known or ())})
    return {"tracks": ",".join(map(str, tracks[:MAX_TRACKS]))} if tracks else {}
