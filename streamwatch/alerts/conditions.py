"""What a rule looks at: each condition turns records into a `Reading`; when an alert opens and resolves is
`lifecycle`'s.

Pure: time comes from the records. State is kept for each face track, so that two people never add up to one alarm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from streamwatch.alerts.readings import UNKNOWN_HOLD, Base, Condition, Intervals, Mood, Reading
from streamwatch.config import RuleSettings
from streamwatch.domain import (
    Instant,
    StreamScore,
    StreamState,
    StreamStatus,
    TrackScore,
    UnknownReason,
    Verdict,
)

CUSUM_THRESHOLD = 45.0
"""Default of `threshold` for the cusum rule: 3 s of the strongest evidence."""
CUSUM_CLIP = 3.0
CUSUM_UNIT = 0.2
"""Seconds: the state rises by (logit - drift) in so long, at whatever sampling rate."""
CUSUM_MAX_STEP = 1.0
CUSUM_CAP = 1.5
MIN_EVIDENCE = 5
"""No alert of a face from fewer scored frames. (The window has its own floor, scoring.min_frames.)"""
SILENT_AFTER = 5.0
"""Seconds without a record after which a condition says that it does not know; more where records come seldom."""
CANARY_PERIOD = 120.0
"""Default of `for` for the canary."""


class FaceCondition(Base):
    """Common to the rules on faces: the worst track decides, and silence means unknown."""

    def __init__(self, rule: RuleSettings) -> None:
        super().__init__(rule)
        self._last: tuple[float, Reading] | None = None
        self._intervals = Intervals()
        self._fired: dict[int, float] | None = None
        """tracks that fired and have not fallen below the release since, and when they last held; None before the
        first"""

    @property
    def _hold(self) -> float:
        return max(UNKNOWN_HOLD, self.rule.resolve_after, self._intervals.missed)

    def _remember(self, at: Instant, firing: Collection[int], held: Collection[int], fallen: Collection[int]) -> None:
        """`held` are the tracks in sight that are not known to lie below the release, `fallen` those that do. One that
        fired and is out of sight is neither, and remembered for as long as an alert may stay open for it."""
        if not firing and self._fired is None:
            return
        # Judged by the record before this one, so that an alert ends for want of its face before the face is forgotten.
        before = at.mono if self._last is None else self._last[0]
        kept = {t: seen for t, seen in (self._fired or {}).items() if t not in fallen and before - seen < self._hold}
        self._fired = kept | dict.fromkeys([*firing, *kept.keys() & set(held)], at.mono)

    def tick(self, now: Instant) -> Reading | None:
        if self._last is None:  # an alert of an earlier run may wait for a stream that never comes
            return Reading(Mood.UNKNOWN, 0.0, 0.0)
        if now.mono - self._last[0] < max(SILENT_AFTER, self._intervals.missed):
            return None
        return Reading(Mood.UNKNOWN, self._last[1].value, self._last[1].threshold, hold=self._hold)

    def _said(self, score: StreamScore, reading: Reading) -> Reading:
        self._intervals.heard(score)
        self._last = (score.at.mono, replace(reading, hold=self._hold))
        return self._last[1]


class WindowCondition(FaceCondition):
    """A confirmed track's window score is at or above the threshold, for `for` seconds."""

    def __init__(self, rule: RuleSettings, hysteresis: float) -> None:
        super().__init__(rule)
        self._hysteresis = hysteresis
        self._since: dict[int, float] = {}

    def score(self, score: StreamScore) -> Reading:
        threshold = score.threshold if self.rule.threshold is None else self.rule.threshold
        release = threshold - self._hysteresis if self.rule.release is None else self.rule.release
        confirmed = [t for t in score.tracks if t.confirmed]
        known = [(t, t.score) for t in confirmed if t.score is not None]
        above = {t.track for t, value in known if value >= threshold}
        # A track that is unknown for a moment neither advances nor loses its place; one below the threshold, or gone,
        # does.
        unknown = {t.track for t in confirmed if t.score is None}
        self._since = {k: v for k, v in self._since.items() if k in above or k in unknown}
        for track in above:
            self._since.setdefault(track, score.at.mono)
        firing = tuple(sorted(t for t in above if score.at.mono - self._since[t] >= self.rule.for_))
        fallen = {t.track for t, value in known if value < release}
        self._remember(score.at, firing, {t.track for t in confirmed} - fallen, fallen)
        if not known:
            return self._said(score, Reading(Mood.UNKNOWN, 0.0, threshold))
        mood, about = _held(firing, self._fired, above, {t.track: value for t, value in known}, unknown, release)
        worst, value = max(((t, value) for t, value in known if t.track in about), key=lambda pair: pair[1])
        summary = f"Face {worst.track} on {score.stream}: score {value:.2f}, threshold {threshold:.2f}"
        return self._said(score, Reading(mood, value, threshold, summary, firing, 0.05))


def _held(
    firing: Collection[int],
    fired: Collection[int] | None,
    rising: Collection[int],
    known: Mapping[int, float],
    unknown: Collection[int],
    release: float,
) -> tuple[Mood, Collection[int]]:
    """(mood, the tracks of `known` that it speaks of). What holds an alert open are the faces that fired, and those
    that are about to: a bystander between release and threshold does not. One that fired and cannot be judged, or is
    out of sight, leaves it unknown. `fired` None: nobody has fired in this run, and an alert of an earlier one is held
    by whoever is above the release."""
    if firing:
        return Mood.FIRING, firing
    holding = [t for t in known if known[t] >= release and (fired is None or t in fired or t in rising)]
    if holding:
        return Mood.HIGH, holding
    waiting = unknown if fired is None else [t for t in fired if t not in known]
    return (Mood.UNKNOWN if waiting else Mood.CLEAR), known


@dataclass(slots=True)
class _Sum:
    value: float = 0.0
    at: float | None = None
    frames: int = 0


class CusumCondition(FaceCondition):
    """Page's cumulative sum in time: each track's clipped logit less the drift, times the seconds since its last
    frame in units of 0.2 s; never below 0, capped at 1.5 thresholds so that it can fall again, and forgotten at a
    scene cut or with its track."""

    def __init__(self, rule: RuleSettings) -> None:
        super().__init__(rule)
        self._sums: dict[int, _Sum] = {}

    def score(self, score: StreamScore) -> Reading:
        threshold = CUSUM_THRESHOLD if self.rule.threshold is None else self.rule.threshold
        release = threshold / 2 if self.rule.release is None else self.rule.release
        confirmed = {t.track: t for t in score.tracks if t.confirmed}
        kept = {} if score.scene_cut else self._sums
        self._sums = {k: kept.get(k) or _Sum() for k in confirmed}
        for track in confirmed.values():
            self._accumulate(track, score.at.mono, threshold)
        ready = {k: s.value for k, s in self._sums.items() if s.frames >= MIN_EVIDENCE}
        firing = tuple(sorted(k for k, value in ready.items() if value >= threshold))
        fallen = {k for k, value in ready.items() if value < release}
        self._remember(score.at, firing, ready.keys() - fallen, fallen)
        if not ready:
            return self._said(score, Reading(Mood.UNKNOWN, 0.0, threshold))
        mood, about = _held(firing, self._fired, (), ready, (), release)
        worst = max(about, key=lambda k: ready[k])
        summary = f"Face {worst} on {score.stream}: accumulated evidence {ready[worst]:.0f}, threshold {threshold:.0f}"
        return self._said(score, Reading(mood, ready[worst], threshold, summary, firing, threshold / 10))

    def _accumulate(self, track: TrackScore, at: float, threshold: float) -> None:
        if track.logit is None:
            return
        state = self._sums[track.track]
        elapsed = 0.0 if state.at is None else min(max(0.0, at - state.at), CUSUM_MAX_STEP)
        evidence = max(-CUSUM_CLIP, min(CUSUM_CLIP, track.logit)) - self.rule.drift
        state.value = min(CUSUM_CAP * threshold, max(0.0, state.value + evidence * elapsed / CUSUM_UNIT))
        state.at, state.frames = at, state.frames + 1


class Held(Base):
    """A condition that holds since a moment, and fires once it has held for `for` seconds. `what` ends the summary."""

    what = "{seconds:.0f} s"

    def __init__(self, rule: RuleSettings, stream: str) -> None:
        super().__init__(rule)
        self._stream = stream
        self._since: float | None = None
        self._detail = ""
        self._told = False

    def _hold(self, at: Instant, holds: bool) -> Reading:
        self._told = True
        if not holds:
            self._since = None
            return Reading(Mood.CLEAR, 0.0, self.rule.for_)
        if self._since is None:
            self._since = at.mono
        return self._reading(at)

    def tick(self, now: Instant) -> Reading:
        if self._since is not None:
            return self._reading(now)
        return Reading(Mood.CLEAR if self._told else Mood.UNKNOWN, 0.0, self.rule.for_)

    def _reading(self, at: Instant) -> Reading:
        assert self._since is not None
        seconds = max(0.0, at.mono - self._since)
        mood = Mood.FIRING if seconds >= self.rule.for_ else Mood.HIGH
        return Reading(mood, seconds, self.rule.for_, self.what.format(stream=self._stream, detail=self._detail))


class StreamDown(Held):
    """The stream is wanted but not live; `for` is the hold-off. A first connection that fails counts too."""

    what = "{stream} is down: {detail}"
    DOWN = frozenset({StreamState.CONNECTING, StreamState.STALLED, StreamState.RECONNECTING, StreamState.FAILED})

    def status(self, status: StreamStatus) -> Reading:
        self._detail = status.detail or (status.reason.value if status.reason else status.state.value)
        return self._hold(status.at, status.state in self.DOWN)


class StreamStale(Held):
    """The stream is live and yet nothing of it is scored, be it that its scores say so or that none comes at all. While
    it is down, `stream_down` speaks alone."""

    what = "{stream} is live but not scored"

    def __init__(self, rule: RuleSettings, stream: str) -> None:
        super().__init__(rule, stream)
        self._live = True
        self._heard: float | None = None
        """when it went live, or was last scored since; None where nobody has said that it is live"""
        self._intervals = Intervals()

    def status(self, status: StreamStatus) -> Reading | None:
        self._live = status.state is StreamState.LIVE
        if not self._live:
            self._heard = None
            return self._hold(status.at, False)
        if self._heard is None:
            self._heard = status.at.mono
        return None

    def score(self, score: StreamScore) -> Reading:
        self._intervals.heard(score)
        if self._heard is not None:
            self._heard = max(self._heard, score.at.mono)
        return self._hold(score.at, self._live and score.reason is UnknownReason.STALE)

    def tick(self, now: Instant) -> Reading:
        silent = self._heard is not None and now.mono - self._heard >= max(self.rule.for_, self._intervals.missed)
        if silent and self._since is None:
            self._since = self._heard
        return super().tick(now)


class NoFace(Held):
    what = "{stream} shows no face"

    def score(self, score: StreamScore) -> Reading | None:
        if score.reason is UnknownReason.STALE:
            return None
        return self._hold(score.at, score.reason is UnknownReason.NO_FACE)

    def status(self, status: StreamStatus) -> Reading | None:
        return None if status.state is StreamState.LIVE else self._hold(status.at, False)


class Canary(Base):
    """Within `for` seconds each known answer must have been given: the canary's right face is real and fake by turns,
    its left face is always real. When one stops coming, the detector itself has failed, whatever the reason: one that
    took real for fake, and fake for real, would still give both verdicts by turns."""

    _ANSWERS: ClassVar = {
        ("right", Verdict.FAKE): "its right face was not judged fake",
        ("right", Verdict.REAL): "its right face was not judged real",
        ("left", Verdict.REAL): "its left face, which is always real, was not judged real",
    }

    def __init__(self, rule: RuleSettings, stream: str) -> None:
        super().__init__(rule)
        self._stream = stream
        self._period = rule.for_ or CANARY_PERIOD
        self._seen: dict[tuple[str, Verdict], float] = {}
        self._live = True

    def score(self, score: StreamScore) -> Reading:
        middle = score.frame_size[0] / 2 if score.frame_size is not None else float("inf")
        worst: dict[str, TrackScore] = {}
        for track in score.tracks:
            side = "left" if track.box.x0 + track.box.x1 < 2 * middle else "right"
            if track.confirmed and track.score is not None:
                worst[side] = max(track, worst.get(side, track), key=lambda t: t.score or 0.0)
        self._seen |= {(side, track.verdict): score.at.mono for side, track in worst.items()}
        return self._reading(score.at)

    def status(self, status: StreamStatus) -> Reading | None:
        self._live = status.state is StreamState.LIVE
        if not self._live:  # paused, or down: that is no failure of the detector, and `stream_down` speaks of it
            self._seen.clear()
        return None

    def tick(self, now: Instant) -> Reading:
        return self._reading(now) if self._live else Reading(Mood.UNKNOWN, 0.0, self._period)

    def _reading(self, at: Instant) -> Reading:
        ages = {answer: at.mono - self._seen.setdefault(answer, at.mono) for answer in self._ANSWERS}
        missing = max(ages, key=lambda answer: ages[answer])
        mood = Mood.FIRING if ages[missing] > self._period else Mood.CLEAR
        said = f"{self._ANSWERS[missing]} for {ages[missing]:.0f} s"
        summary = f"The canary {self._stream} does not give the answers that are known: {said}; the detector is failing"
        return Reading(mood, ages[missing], self._period, summary)


def for_stream(rule: RuleSettings, stream: str, hysteresis: float) -> Condition:
    """The condition of a rule on one stream. (`detector_drift` speaks of all streams: `drift.py`.)"""
    match rule.kind:
        case "window":
            return WindowCondition(rule, hysteresis)
        case "cusum":
            return CusumCondition(rule)
        case "stream_down":
            return StreamDown(rule, stream)
        case "stream_stale":
            return StreamStale(rule, stream)
        case "no_face_for":
            return NoFace(rule, stream)
        case "canary":
            return Canary(rule, stream)
        case "detector_drift":
            raise ValueError("detector_drift is not a rule of one stream")
