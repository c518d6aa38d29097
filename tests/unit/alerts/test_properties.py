"""What holds of the rule engine whatever the records say."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from streamwatch.alerts.rules import RuleEngine
from streamwatch.config import AlertSettings, ScoringSettings
from streamwatch.domain import (
    AlertEvent,
    AlertKind,
    AlertPhase,
    Box,
    Face,
    FaceScore,
    Frame,
    FrameScores,
    Image,
    StreamState,
    UnknownReason,
)
from streamwatch.scoring.stream import Levelling, StreamScoring
from tests.fakes.records import instant, status, stream_score

COOLDOWN = 20.0
PORTRAIT: Image = np.asarray(data.astronaut(), dtype=np.uint8)
FACE = Box(172.0, 68.0, 276.0, 190.0)
SMALL = Box(172.0, 68.0, 202.0, 108.0)
RULES = {
    "window": {"kind": "window", "for": 1.0, "cooldown": COOLDOWN},
    "cusum": {"kind": "cusum", "threshold": 20.0, "cooldown": COOLDOWN},
    "down": {"kind": "stream_down", "for": 5.0, "cooldown": COOLDOWN},
    "stale": {"kind": "stream_stale", "for": 3.0, "cooldown": COOLDOWN},
    "faceless": {"kind": "no_face_for", "for": 4.0, "cooldown": COOLDOWN},
}

scores = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.69, 0.7, 0.71, 0.95]))
steps = st.one_of(
    st.tuples(st.just("score"), st.lists(scores, max_size=3), st.sampled_from(UnknownReason)),
    st.tuples(st.just("status"), st.sampled_from(StreamState), st.none()),
    st.tuples(st.just("tick"), st.none(), st.none()),
    st.tuples(st.just("restart"), st.none(), st.none()),
    st.tuples(st.just("remove"), st.none(), st.none()),
)
# Mostly forward, now and then a record that comes late.
history = st.lists(st.tuples(st.floats(-0.5, 4.0), st.sampled_from(["lobby", "hall"]), steps), max_size=60)


def make() -> RuleEngine:
    ids = map(str, itertools.count(1))
    return RuleEngine(AlertSettings.model_validate({"rules": RULES}), hysteresis=0.05, new_id=lambda: next(ids))


def run(records: list) -> tuple[list[AlertEvent], set[str]]:  # type: ignore[type-arg]
    """All events, and the ids that are active at the end. A restart hands all alerts so far to a new engine."""
    ids = map(str, itertools.count(1))
    settings = AlertSettings.model_validate({"rules": RULES})
    rules = RuleEngine(settings, hysteresis=0.05, new_id=lambda: next(ids))
    events: list[AlertEvent] = []
    now = 0.0
    for pause, stream, (kind, what, reason) in records:
        now = max(0.0, now + pause)
        if kind == "score":
            events += rules.on_score(stream_score(now, *what, stream=stream, reason=reason))
        elif kind == "status":
            events += rules.on_status(status(now, what, stream))
        elif kind == "tick":
            events += rules.on_tick(instant(now))
        elif kind == "remove":
            events += rules.remove(stream, instant(now))
        else:
            rules = RuleEngine(settings, hysteresis=0.05, new_id=lambda: next(ids))
            known = {e.after.id: e.after for e in events}
            events += rules.restore([*known.values()], instant(now))
    return events, {a.id for a in rules.active}


@settings(max_examples=150, deadline=None)
@given(history)
def test_every_alert_lives_once_and_in_order(records: list) -> None:  # type: ignore[type-arg]
    """Opened once, then updated, then resolved or still active; its times never go back; its peak is its worst."""
    events, active = run(records)
    lives: dict[str, list[AlertEvent]] = defaultdict(list)
    for event in events:
        lives[event.after.id].append(event)
    for alert, life in lives.items():
        phases = [e.phase for e in life]
        assert phases[0] is AlertPhase.OPENED
        assert phases.count(AlertPhase.OPENED) == 1
        assert phases[1:].count(AlertPhase.RESOLVED) == (0 if alert in active else 1)
        assert AlertPhase.RESOLVED not in phases[:-1]
        walls = [e.after.updated_at.wall for e in life]
        assert walls == sorted(walls)
        for event in life[:-1]:
            assert event.after.value <= event.after.peak
        for before, after in itertools.pairwise(life):
            assert after.before is not None
            assert after.before.id == before.after.id
    assert active <= set(lives)


@settings(max_examples=150, deadline=None)
@given(history.map(lambda steps: [s for s in steps if s[2][0] != "remove"]))
def test_nothing_flaps_faster_than_its_cooldown(records: list) -> None:  # type: ignore[type-arg]
    events, _ = run(records)
    resolved: dict[tuple[str, str], float] = {}
    open_now: set[tuple[str, str]] = set()
    for event in events:
        key = (event.after.rule, event.after.stream)
        if event.phase is AlertPhase.OPENED:
            assert key not in open_now, "two alerts of one rule on one stream"
            assert event.after.opened_at.mono >= resolved.get(key, float("-inf")) + COOLDOWN - 1e-9
            open_now.add(key)
        elif event.phase is AlertPhase.RESOLVED:
            resolved[key] = event.after.updated_at.mono
            open_now.discard(key)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 1.5), st.sampled_from([[], [FACE], [SMALL]]), st.floats(-8, 8)), max_size=40),
    st.sampled_from([1.0, 2.0, 5.0]),
)
def test_no_alert_on_a_face_without_evidence_of_five_scored_frames(frames: list, fps: float) -> None:  # type: ignore[type-arg]
    """From faces through quality, tracks and window to the rules, as the monitor drives them."""
    rules, scoring, now = make(), StreamScoring("lobby", ScoringSettings(), Levelling(0.7, None, fps)), 0.0
    scored: Counter[int] = Counter()
    for seq, (pause, boxes, said) in enumerate(frames):
        now += pause
        frame = Frame("lobby", seq, instant(now), None, PORTRAIT)
        _, accepted = scoring.observe(frame, [Face(box, 0.9) for box in boxes])
        scored.update(face.track for face in accepted if face.track is not None)
        faces = tuple(FaceScore(face, said, {"a": said}) for face in accepted)
        for event in rules.on_score(scoring.conclude(FrameScores(frame, faces, instant(now)))):
            if event.after.kind is AlertKind.DEEPFAKE and event.phase is AlertPhase.OPENED:
                assert event.after.track is not None
                assert scored[event.after.track] >= ScoringSettings().min_frames == 5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 2.0), st.floats(0, 1)), max_size=60))
def test_no_cusum_alert_without_five_scored_frames(frames: list[tuple[float, float]]) -> None:
    rules, now, scored = make(), 0.0, 0
    for pause, score in frames:
        now, scored = now + pause, scored + 1
        for event in rules.on_score(stream_score(now, score)):
            if event.after.rule == "cusum" and event.phase is AlertPhase.OPENED:
                assert scored >= 5
                assert event.after.value >= event.after.threshold


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 1.0), st.sampled_from([1.0, 2.0, 5.0, 12.5]))
def test_a_steady_score_opens_at_most_one_alert(score: float, fps: float) -> None:
    rules = make()
    events = [e for i in range(int(60 * fps)) for e in rules.on_score(stream_score(i / fps, score))]
    windows = [e.phase for e in events if e.after.rule == "window"]
    assert windows == ([AlertPhase.OPENED] if score >= 0.7 else [])


@pytest.mark.parametrize("kind", ["window", "cusum"])
def test_the_end_of_a_stream_resolves_at_once(kind: str) -> None:
    rules = make()
    for t in range(20):
        rules.on_score(stream_score(float(t), 0.99))
    assert {a.rule for a in rules.active} == {"window", "cusum"}
    events = rules.on_status(status(20.0, StreamState.ENDED))
    assert kind in {e.after.rule for e in events if e.phase is AlertPhase.RESOLVED}
    assert rules.active == []
