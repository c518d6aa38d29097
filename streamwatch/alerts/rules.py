"""The rule engine: records in, alert events out. Pure: no clock, no I/O; time comes from the records, ids from outside.

There is one alert at a time for each rule and stream, and the faces that fire are named in it: a crowd of fakes is one
alert with many tracks, not many alerts. What a rule looks at is in `conditions`, when alerts open and resolve in
`lifecycle`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from streamwatch.alerts.conditions import Canary, for_stream
from streamwatch.alerts.drift import DriftCondition
from streamwatch.alerts.lifecycle import Identity, Slot, after_update
from streamwatch.alerts.readings import Condition, Mood, Reading
from streamwatch.alerts.silences import parse_silences
from streamwatch.config import AlertSettings, RuleSettings
from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    Instant,
    Severity,
    StreamScore,
    StreamState,
    StreamStatus,
)
from streamwatch.errors import ConfigError

KINDS = {
    "window": AlertKind.DEEPFAKE,
    "cusum": AlertKind.DEEPFAKE,
    "stream_down": AlertKind.STREAM_DOWN,
    "stream_stale": AlertKind.STREAM_STALE,
    "no_face_for": AlertKind.NO_FACE,
    "detector_drift": AlertKind.DRIFT,
    "canary": AlertKind.CANARY,
}
# Not STOPPED: so a service ends, and what was open then is taken up by the next start. A removed stream: `remove`.
_OVER = frozenset({StreamState.PAUSED, StreamState.ENDED})
DRIFT_REACH = 60.0
"""Seconds: how long before a drift was certain it may have opened alerts on faces."""
_DRIFTED = {"detector_drift": "true"}
_SERVICE_RULE = RuleSettings(kind="stream_down", severity=Severity.WARNING, cooldown=60.0)
"""Severity and cooldown of the service's own alerts (a failing sink, a full disk), which no rule configures."""


@dataclass(slots=True)
class _Watch:
    condition: Condition
    slot: Slot


class RuleEngine:
    """All rules on all streams. Streams appear with their first record and go with `remove`.

    Raises ConfigError, one fault a line, where an override or a silence is unusable.
    """

    def __init__(
        self,
        settings: AlertSettings,
        *,
        hysteresis: float,
        new_id: Callable[[], str],
        labels: Callable[[str], Mapping[str, str]] = lambda stream: {},
    ) -> None:
        self._settings = settings
        self._hysteresis = hysteresis
        self._new_id = new_id
        self._labels = labels
        self._silences = parse_silences(settings.silences)
        check_rules(settings)
        self._streams: dict[str, list[_Watch]] = {}
        self._fleet = [
            _Watch(DriftCondition(rule), self._slot(name, "", rule))
            for name, rule in settings.rules.items()
            if rule.enabled and rule.kind == "detector_drift"
        ]
        self._service: dict[tuple[AlertKind, str], Slot] = {}
        self._now = Instant(float("-inf"), 0.0)

    # --- records ---------------------------------------------------------------------------------------------------

    def on_score(self, score: StreamScore) -> list[AlertEvent]:
        own = self._watches(score.stream)
        # A canary is fake by turns on purpose: it tells nothing about the others' pictures.
        fleet = [] if any(isinstance(w.condition, Canary) for w in own) else self._fleet
        return self._step([*fleet, *own], score.at, lambda w: w.condition.score(score))

    def on_status(self, status: StreamStatus) -> list[AlertEvent]:
        """A stream that was paused or has ended resolves what was said of it."""
        watches = self._watches(status.stream)
        events = self._step(watches, status.at, lambda w: w.condition.status(status))
        if status.state in _OVER:
            for watch in watches:
                events += _some(watch.slot.close(status.at, f"stream {status.state.value}"))
        return events

    def on_tick(self, now: Instant) -> list[AlertEvent]:
        """Call about once a second, so that hold-offs and resolutions do not wait for a record."""
        events = self._step(self._fleet, now, lambda w: w.condition.tick(now))
        for watches in self._streams.values():
            events += self._step(watches, now, lambda w: w.condition.tick(now))
        return events

    def on_service(self, kind: AlertKind, name: str, at: Instant, problem: str | None) -> list[AlertEvent]:
        """The service speaks of itself (`sink_failing`, `storage`): `problem` opens or holds the alert, None resolves
        it."""
        slot = self._service.setdefault(
            (kind, name), Slot(Identity(kind, kind.value, "", {"name": name}), _SERVICE_RULE, self._new_id)
        )
        if problem is None:
            return _some(slot.close(at, "recovered"))
        return _some(slot.step(at, Reading(Mood.FIRING, 1.0, 1.0, f"{name}: {problem}"), self._silenced("", at), {}))

    # --- life ------------------------------------------------------------------------------------------------------

    def restore(self, alerts: Sequence[Alert], now: Instant) -> list[AlertEvent]:
        """Takes up the alerts that were open when the last run ended. Those whose rule is gone resolve at once, and
        those whose rule has opened another in the meantime. Those that were resolved already (those of the last
        `longest_cooldown` seconds should be among them) only go on cooling down."""
        events = []
        for alert in alerts:
            slot = self._slot_of(alert)
            if alert.resolved_at is not None:
                if slot is not None:
                    slot.cool(alert.resolved_at.wall, now)
            elif slot is None or slot.alert is not None:
                at = after_update(now, alert)
                gone = replace(
                    alert,
                    resolved_at=at,
                    updated_at=at,
                    labels={**alert.labels, "resolved": "rule removed" if slot is None else "superseded"},
                )
                events.append(AlertEvent(AlertPhase.RESOLVED, alert, gone))
            else:
                slot.restore(alert, now)
        return events

    def remove(self, stream: str, at: Instant) -> list[AlertEvent]:
        """Forgets a stream; its open alerts resolve."""
        for watch in self._fleet:
            if isinstance(watch.condition, DriftCondition):
                watch.condition.forget(stream)
        watches = self._streams.pop(stream, [])
        return [event for w in watches for event in _some(w.slot.close(at, "stream removed"))]

    def reviewed(self, alert: Alert) -> None:
        """Keeps an operator's review in what is said of the alert from now on."""
        for slot in self._slots():
            if slot.alert is not None and slot.alert.id == alert.id:
                slot.alert = replace(
                    slot.alert, review=alert.review, review_note=alert.review_note, reviewed_by=alert.reviewed_by
                )

    @property
    def longest_cooldown(self) -> float:
        """Seconds."""
        streams = [rules_of(self._settings, stream) for stream in self._settings.overrides]
        rules = [_SERVICE_RULE, *self._settings.rules.values(), *(r for own in streams for r in own.values())]
        return max(rule.cooldown for rule in rules)

    @property
    def active(self) -> list[Alert]:
        return [slot.alert for slot in self._slots() if slot.alert is not None]

    # --- inside ----------------------------------------------------------------------------------------------------

    def _step(
        self, watches: Sequence[_Watch], at: Instant, read: Callable[[_Watch], Reading | None]
    ) -> list[AlertEvent]:
        events = []
        for watch in watches:
            reading = read(watch)
            if reading is not None:
                silenced = self._silenced(watch.slot.identity.stream, at)
                changed = watch.slot.step(at, reading, silenced, self._moment_labels(watch))
                events += _some(changed)
                if changed is not None and changed.phase is AlertPhase.OPENED and watch in self._fleet:
                    events += self._mark_drifted(at)
        return events

    def _mark_drifted(self, at: Instant) -> list[AlertEvent]:
        """The window of a face is quicker than the fleet's means: what opened while they moved is marked now."""
        slots = [w.slot for watches in self._streams.values() for w in watches]
        return [
            event
            for slot in slots
            if slot.alert is not None
            and slot.identity.kind is AlertKind.DEEPFAKE
            and at.mono - slot.alert.opened_at.mono <= DRIFT_REACH
            for event in _some(slot.mark(at, _DRIFTED))
        ]

    def _moment_labels(self, watch: _Watch) -> dict[str, str]:
        """A face alert that opens while the whole fleet has drifted says so: it is less likely an attack."""
        labels = dict(self._labels(watch.slot.identity.stream))
        if watch.slot.identity.kind is AlertKind.DEEPFAKE and any(w.slot.alert for w in self._fleet):
            labels |= _DRIFTED
        return labels

    def _silenced(self, stream: str, at: Instant) -> bool:
        return any(s.covers(stream, at.wall) for s in self._silences)

    def _watches(self, stream: str) -> list[_Watch]:
        if stream not in self._streams:
            rules = rules_of(self._settings, stream)
            self._streams[stream] = [
                _Watch(for_stream(rule, stream, self._hysteresis), self._slot(name, stream, rule))
                for name, rule in rules.items()
            ]
        return self._streams[stream]

    def _slot(self, name: str, stream: str, rule: RuleSettings) -> Slot:
        return Slot(Identity(KINDS[rule.kind], name, stream), rule, self._new_id)

    def _slot_of(self, alert: Alert) -> Slot | None:
        if alert.kind in {AlertKind.SINK_FAILING, AlertKind.STORAGE}:
            identity = Identity(alert.kind, alert.rule, "", {"name": alert.labels.get("name", "")})
            key = (alert.kind, identity.labels["name"])
            return self._service.setdefault(key, Slot(identity, _SERVICE_RULE, self._new_id))
        watches = self._watches(alert.stream) if alert.stream else self._fleet
        return next((w.slot for w in watches if w.slot.identity.rule == alert.rule), None)

    def _slots(self) -> list[Slot]:
        watches = [*self._fleet, *(w for ws in self._streams.values() for w in ws)]
        return [*(w.slot for w in watches), *self._service.values()]


def rules_of(settings: AlertSettings, stream: str) -> dict[str, RuleSettings]:
    """The enabled rules of one stream, its overrides applied. A canary's stream has its canary rule alone of those on
    faces: what it shows is meant to be fake. Raises ConfigError."""
    overrides = settings.overrides.get(stream, {})
    rules = {name: _overridden(rule, overrides.get(name), stream, name) for name, rule in settings.rules.items()}
    chosen = {
        name: rule
        for name, rule in rules.items()
        if rule.enabled and rule.kind != "detector_drift" and (rule.streams is None or stream in rule.streams)
    }
    if any(rule.kind == "canary" for rule in chosen.values()):
        return {n: r for n, r in chosen.items() if r.kind not in {"window", "cusum", "no_face_for"}}
    return chosen


def check_rules(settings: AlertSettings) -> None:
    """Raises ConfigError with all faults of rules and overrides that the settings' own types cannot see."""
    faults = []
    for name, rule in settings.rules.items():
        if rule.kind == "canary" and rule.enabled and not rule.streams:
            faults.append(f"alerts.rules.{name}.streams: a canary rule must name the canary's streams")
        faults += _range_faults(f"alerts.rules.{name}", rule)
    for stream, changes in settings.overrides.items():
        try:
            own = rules_of(settings, stream)
        except ConfigError as error:
            faults += error.faults
        else:
            for name in changes.keys() & own.keys():
                faults += _range_faults(f"alerts.overrides.{stream}.{name}", own[name])
    if faults:
        raise ConfigError(*faults)


def _range_faults(where: str, rule: RuleSettings) -> list[str]:
    faults = []
    if rule.kind == "window" and rule.threshold is not None and not 0 <= rule.threshold <= 1:
        faults.append(f"{where}.threshold: a window rule's threshold is a score, 0 to 1")
    if None not in (rule.threshold, rule.release) and (rule.release or 0) > (rule.threshold or 0):
        faults.append(f"{where}.release: must not lie above the threshold")
    return faults


def _overridden(rule: RuleSettings, fields: Mapping[str, object] | None, stream: str, name: str) -> RuleSettings:
    if not fields:
        return rule
    try:
        return RuleSettings.model_validate({**rule.model_dump(by_alias=True), **fields})
    except ValidationError as error:
        where = f"alerts.overrides.{stream}.{name}"
        raise ConfigError(
            *(
                f"{where}.{'.'.join(map(str, e['loc']))}: "
                + ("unknown key" if e["type"] == "extra_forbidden" else e["msg"])
                for e in error.errors(include_url=False, include_input=False, include_context=False)
            )
        ) from None


def _some(event: AlertEvent | None) -> list[AlertEvent]:
    return [] if event is None else [event]
