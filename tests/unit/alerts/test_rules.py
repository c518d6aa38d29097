"""The rule engine as tables: what a sequence of records makes of alerts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from streamwatch.alerts.rules import RuleEngine
from streamwatch.config import AlertSettings
from streamwatch.domain import (
    AlertEvent,
    AlertKind,
    AlertPhase,
    Box,
    Instant,
    Review,
    Severity,
    StreamScore,
    StreamState,
    UnknownReason,
)
from streamwatch.errors import ConfigError
from tests.fakes.records import instant, status, stream_score

WINDOW = {"kind": "window", "severity": "critical", "for": 1.0, "cooldown": 30.0, "resolve_after": 2.0}


def engine(rule: dict[str, Any] | None = None, **settings: Any) -> RuleEngine:
    ids = map(str, itertools.count(1))
    chosen = AlertSettings.model_validate({"rules": {"rule": rule or WINDOW}, **settings})
    return RuleEngine(chosen, hysteresis=0.05, new_id=lambda: next(ids), labels=lambda s: {"site": "hq"})


def feed(rules: RuleEngine, *timed: tuple[float, float | None]) -> list[AlertEvent]:
    return [event for mono, score in timed for event in rules.on_score(stream_score(mono, score))]


def told(events: list[AlertEvent]) -> list[tuple[str, float]]:
    return [(e.phase.value, e.after.updated_at.mono) for e in events]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([(0, 0.9), (0.5, 0.9)], [], id="not held long enough"),
        pytest.param([(0, 0.9), (1, 0.9)], [("opened", 1)], id="held for a second"),
        pytest.param([(0, 0.9), (0.6, 0.5), (1.2, 0.9)], [], id="interrupted"),
        pytest.param([(0, 0.9), (0.6, None), (1.2, 0.9)], [("opened", 1.2)], id="unknown does not interrupt"),
        pytest.param([(0, 0.9), (1, 0.9), (2, 0.5), (3, 0.5)], [("opened", 1)], id="not clear long enough"),
        pytest.param([(0, 0.9), (1, 0.9), (2, 0.5), (4, 0.5)], [("opened", 1), ("resolved", 4)], id="clear"),
        pytest.param([(0, 0.9), (1, 0.9), (2, 0.66), (9, 0.66)], [("opened", 1)], id="above the release it stays open"),
        pytest.param([(0, 0.9), (1, 0.9), (2, None), (10, None)], [("opened", 1)], id="unknown holds"),
        pytest.param(
            [(0, 0.9), (1, 0.9), (2, None), (11, None)], [("opened", 1), ("resolved", 11)], id="unknown for too long"
        ),
        pytest.param(
            [(0, 0.9), (1, 0.9), (2, 0.1), (4, 0.1), (5, 0.9), (33, 0.9), (34, 0.9)],
            [("opened", 1), ("resolved", 4), ("opened", 34)],
            id="cooldown, then it opens again",
        ),
    ],
)
def test_window_rule(scores: list[tuple[float, float | None]], expected: list[tuple[str, float]]) -> None:
    assert told(feed(engine(), *scores)) == expected


def test_an_alert_says_what_opened_it() -> None:
    rules = engine()
    (event,) = feed(rules, (0, 0.9), (1, 0.8))
    alert = event.after
    assert event.before is None
    assert (alert.kind, alert.rule, alert.stream, alert.severity) == (
        AlertKind.DEEPFAKE,
        "rule",
        "lobby",
        Severity.CRITICAL,
    )
    assert (alert.value, alert.threshold, alert.track, alert.labels["site"]) == (0.8, 0.7, 1, "hq")
    assert rules.active == [alert]


def test_two_people_never_add_up() -> None:
    rules = engine()
    scores = [stream_score(0, 0.9, 0.1), stream_score(0.6, 0.1, 0.9), stream_score(1.2, 0.9, 0.1)]
    assert [rules.on_score(s) for s in scores] == [[], [], []]


def test_a_second_face_joins_the_open_alert() -> None:
    rules = engine()
    feed(rules, (0, 0.9), (1, 0.9))
    events = [e for t in (2, 3) for e in rules.on_score(stream_score(t, 0.9, 0.95))]
    assert [(e.phase, e.after.labels["tracks"]) for e in events] == [(AlertPhase.UPDATED, "1,2")]


def test_a_worse_value_is_reported_now_and_then() -> None:
    rules = engine()
    events = feed(rules, (0, 0.72), (1, 0.72), (2, 0.9), (3, 0.91), (6, 0.92), (7, 0.99), (12, 0.99))
    assert told(events) == [("opened", 1), ("updated", 6), ("updated", 12)]
    assert events[-1].after.peak == 0.99


def test_cusum_counts_seconds_not_frames() -> None:
    """The same evidence alarms after the same time at 1, 2 and 5 frames a second."""
    opened = {}
    for fps in (1, 2, 5):
        rules = engine({"kind": "cusum", "threshold": 45.0})
        scores = [stream_score(i / fps, 0.999) for i in range(20 * fps)]
        events = [e for s in scores for e in rules.on_score(s)]
        opened[fps] = events[0].after.opened_at.mono
    # Three seconds, seen at the next frame; at 1 fps the five scored frames that are needed take four.
    assert opened[5] == pytest.approx(3.0, abs=0.21)
    assert opened[2] == pytest.approx(3.0, abs=0.51)
    assert opened[1] == pytest.approx(4.0, abs=0.01)


def test_cusum_is_capped_and_released_at_half() -> None:
    rules = engine({"kind": "cusum", "threshold": 30.0, "resolve_after": 0.0})
    high = [stream_score(i / 5, 0.999) for i in range(500)]
    low = [stream_score(100 + i / 5, 0.001) for i in range(50)]
    events = [e for s in (*high, *low) for e in rules.on_score(s)]
    # From 45 (the cap) to 15 (half) at 15 a second.
    assert [e.phase for e in events] == [AlertPhase.OPENED, AlertPhase.UPDATED, AlertPhase.RESOLVED]
    assert events[-1].after.updated_at.mono == pytest.approx(102.0, abs=0.25)


def test_cusum_forgets_at_a_scene_cut() -> None:
    rules = engine({"kind": "cusum", "threshold": 45.0})
    scores = [stream_score(i / 5, 0.999, scene_cut=i % 10 == 0) for i in range(100)]
    assert not [e for s in scores for e in rules.on_score(s)]


def test_stream_down_has_a_hold_off() -> None:
    rules = engine({"kind": "stream_down", "for": 30.0})
    assert rules.on_status(status(0, StreamState.RECONNECTING)) == []
    assert rules.on_tick(instant(29)) == []
    assert rules.on_status(status(29.5, StreamState.CONNECTING)) == []
    assert told(rules.on_tick(instant(30))) == [("opened", 30)]
    assert rules.on_status(status(40, StreamState.LIVE)) == []
    assert told(rules.on_tick(instant(42))) == [("resolved", 42)]


def test_a_paused_stream_is_not_down() -> None:
    rules = engine({"kind": "stream_down", "for": 1.0})
    rules.on_status(status(0, StreamState.STALLED))
    assert told(rules.on_tick(instant(5))) == [("opened", 5)]
    assert told(rules.on_status(status(6, StreamState.PAUSED))) == [("resolved", 6)]


def test_stale_speaks_only_while_the_stream_is_live() -> None:
    rules = engine({"kind": "stream_stale", "for": 10.0})
    stale = [stream_score(t, None, reason=UnknownReason.STALE) for t in range(0, 30, 5)]
    rules.on_status(status(0, StreamState.RECONNECTING))
    assert not [e for s in stale for e in rules.on_score(s)]
    rules.on_status(status(30, StreamState.LIVE))
    later = [stream_score(t, None, reason=UnknownReason.STALE) for t in (31, 36, 41)]
    assert told([e for s in later for e in rules.on_score(s)]) == [("opened", 41)]


def scored(*seconds: int, window: float = 10.0) -> dict[int, StreamScore]:
    return {t: replace(stream_score(t, 0.1), window=window) for t in seconds}


@pytest.mark.parametrize(
    ("states", "scores", "expected"),
    [
        pytest.param({0: "live"}, {}, [("opened", 10)], id="never a word"),
        pytest.param({0: "live"}, scored(*range(21)), [("opened", 30)], id="fell silent"),
        pytest.param(
            {0: "live", 5: "live"},
            scored(6, 7, *range(30, 90)),
            [("opened", 17), ("resolved", 32)],
            id="speaks again",
        ),
        pytest.param({0: "live"}, scored(*range(0, 60, 10), window=100.0), [("opened", 75)], id="seldom looked at"),
        pytest.param({}, scored(*range(5)), [], id="nobody said that it is live"),
        pytest.param({0: "live", 3: "reconnecting"}, scored(1, 2), [], id="down"),
        pytest.param({0: "live", 3: "paused"}, scored(1, 2), [], id="paused"),
        pytest.param({0: "connecting"}, {}, [], id="waits for a publisher"),
    ],
)
def test_a_live_stream_that_falls_silent_is_stale(
    states: dict[int, str], scores: dict[int, StreamScore], expected: list[tuple[str, float]]
) -> None:
    """A monitor that died says nothing more, least of all that it died."""
    rules, events = engine({"kind": "stream_stale", "for": 10.0}), []
    for second in range(90):
        if second in states:
            events += rules.on_status(status(second, StreamState(states[second])))
        if second in scores:
            events += rules.on_score(scores[second])
        events += rules.on_tick(instant(second))
    assert told(events) == expected


def test_no_face_for() -> None:
    rules = engine({"kind": "no_face_for", "for": 60.0})
    empty = [stream_score(t) for t in range(0, 70, 10)]
    assert told([e for s in empty for e in rules.on_score(s)]) == [("opened", 60)]
    assert rules.on_score(stream_score(70, 0.1)) == []
    assert told(rules.on_score(stream_score(72, 0.1))) == [("resolved", 72)]


@pytest.mark.parametrize(
    ("right_real", "right_fake", "left", "missing"),
    [
        (0.1, 0.1, 0.1, "right face was not judged fake"),
        (0.9, 0.9, 0.1, "right face was not judged real"),
        (0.9, 0.1, 0.9, "left face, which is always real, was not judged real"),
        (0.1, 0.9, None, "left face, which is always real, was not judged real"),
    ],
    ids=["blind", "paranoid", "inverted", "half-blind"],
)
def test_the_canary_must_give_every_known_answer(
    right_real: float, right_fake: float, left: float | None, missing: str
) -> None:
    def canary(t: float, right: float, other: float | None) -> StreamScore:
        score = stream_score(t, right, other, stream="canary")
        tracks = (replace(score.tracks[0], box=Box(900, 100, 1000, 220)), score.tracks[1])
        return replace(score, tracks=tracks, frame_size=(1280, 720))

    rules = engine({"kind": "canary", "for": 60.0, "streams": ["canary"]})
    healthy = [canary(t, 0.9 if (t // 20) % 2 else 0.1, 0.2) for t in range(0, 300, 2)]
    assert not [e for s in healthy for e in rules.on_score(s)]
    failing = [canary(t, right_fake if (t // 20) % 2 else right_real, left) for t in range(300, 400, 2)]
    events = [e for s in failing for e in rules.on_score(s)]
    assert [(e.phase, e.after.kind) for e in events if e.phase is AlertPhase.OPENED] == [
        (AlertPhase.OPENED, AlertKind.CANARY)
    ]
    assert missing in events[0].after.summary


def test_the_canary_never_alarms_as_a_face() -> None:
    canary = {"kind": "canary", "streams": ["canary"]}
    settings = AlertSettings.model_validate({"rules": {"face": WINDOW, "canary": canary}})
    rules = RuleEngine(settings, hysteresis=0.05, new_id=lambda: "x")
    assert not [e for t in range(20) for e in rules.on_score(stream_score(t, 0.99, stream="canary"))]


def test_drift_needs_the_whole_fleet() -> None:
    def run(moving: int) -> list[AlertEvent]:
        rules = engine({"kind": "detector_drift", "threshold": 1.5})
        events = []
        for t in range(0, 1200, 2):
            for n in range(5):
                score = 0.6 if t >= 1000 and n < moving else 0.1
                events += rules.on_score(stream_score(t, score, stream=f"cam{n}"))
        return events

    assert run(moving=1) == []
    assert [(e.after.kind, e.after.stream) for e in run(moving=5)][:1] == [(AlertKind.DRIFT, "")]


def test_silenced_alerts_are_marked_and_told_when_the_silence_ends() -> None:
    window = {"start": "2023-11-14T22:00:00Z", "end": "2023-11-14T22:13:30Z", "streams": ["lobby"]}
    rules = engine(silences={"works": window})  # monotonic 0 is 22:13:20 UTC
    events = feed(rules, (0, 0.9), (1, 0.9), (9, 0.9), (10, 0.9))
    assert [(e.phase.value, e.after.silenced) for e in events] == [("opened", True), ("updated", False)]


def test_an_override_changes_one_stream_only() -> None:
    rules = engine(overrides={"hall": {"rule": {"for": 5.0, "severity": "info"}}})
    for t in range(5):
        assert rules.on_score(stream_score(t, 0.9, stream="hall")) == []
    (event,) = rules.on_score(stream_score(5, 0.9, stream="hall"))
    assert event.after.severity is Severity.INFO
    assert told(feed(rules, (0, 0.9), (1, 0.9))) == [("opened", 1)]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"overrides": {"hall": {"rule": {"fro": 1}}}}, "alerts.overrides.hall.rule.fro: unknown key"),
        ({"overrides": {"hall": {"rule": {"for": -1}}}}, "alerts.overrides.hall.rule.for: "),
        ({"silences": {"x": {"start": "noon", "end": "13:00"}}}, "alerts.silences.x: 'noon' is neither"),
        ({"silences": {"x": {"start": "12:00", "end": "2024-01-01T00:00Z"}}}, "alerts.silences.x: start and end"),
        ({"rules": {"c": {"kind": "canary"}}}, "alerts.rules.c.streams: "),
        ({"rules": {"c": {"kind": "window", "threshold": 40}}}, "alerts.rules.c.threshold: "),
        ({"overrides": {"hall": {"rule": {"threshold": 70}}}}, "alerts.overrides.hall.rule.threshold: "),
    ],
)
def test_unusable_settings_name_their_place(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match="^" + fault.replace(".", r"\.")):
        engine(**settings) if "rules" not in settings else RuleEngine(
            AlertSettings.model_validate(settings), hysteresis=0.05, new_id=lambda: "x"
        )


def test_restored_alerts_go_on_or_resolve() -> None:
    before = engine()
    (opened,) = feed(before, (0, 0.9), (1, 0.9))
    after = engine()
    now = instant(100)._replace(mono=7.0)  # another boot: the monotonic clock began anew
    gone = replace(opened.after, id="old", rule="no-longer")
    (resolved,) = after.restore([opened.after, gone], now)
    assert (resolved.after.id, resolved.after.active) == ("old", False)
    assert [a.id for a in after.active] == ["1"]
    assert after.on_tick(now.shifted(59)) == []
    (closed,) = after.on_tick(now.shifted(60))
    assert (closed.phase, closed.after.id, closed.after.opened_at.wall) == (
        AlertPhase.RESOLVED,
        "1",
        opened.after.opened_at.wall,
    )


def test_a_cooldown_outlives_a_restart() -> None:
    rule = {"kind": "window", "for": 0, "resolve_after": 0, "cooldown": 60.0}
    before = engine(rule=rule)
    _, resolved = feed(before, (0, 0.9), (1, 0.1))
    after = engine(rule=rule)
    assert after.longest_cooldown >= 60.0
    # Another boot 20 s later: the monotonic clock began anew, the wall clock tells how much of the cooldown is left.

    def at(second: float) -> Instant:
        return instant(second)._replace(mono=second - 14.0)

    assert after.restore([resolved.after], at(21)) == []
    assert after.on_score(replace(stream_score(0, 0.9), at=at(60))) == []
    (opened,) = after.on_score(replace(stream_score(0, 0.9), at=at(61.1)))
    assert opened.phase is AlertPhase.OPENED


def test_a_late_restoration_gives_way_to_what_is_open_now() -> None:
    (old,) = feed(engine(), (0, 0.9), (1, 0.9))
    after = engine()
    feed(after, (10, 0.9), (11, 0.9))
    (event,) = after.restore([replace(old.after, id="old")], instant(12))
    assert (event.after.id, event.after.labels["resolved"], len(after.active)) == ("old", "superseded", 1)


def test_a_restored_alert_is_not_opened_twice() -> None:
    before = engine()
    (opened,) = feed(before, (0, 0.9), (1, 0.9))
    after = engine()
    after.restore([opened.after], instant(10))
    # Faces are numbered anew by each run, so that the alert names none until one fires again.
    assert told(feed(after, (11, 0.9), (12, 0.9), (13, 0.9))) == [("updated", 12)]
    assert told(feed(after, (14, 0.1), (16, 0.1))) == [("resolved", 16)]


def test_the_end_of_the_service_leaves_alerts_to_the_next_start() -> None:
    rules = engine()
    feed(rules, (0, 0.9), (1, 0.9))
    assert rules.on_status(status(2, StreamState.STOPPED)) == []
    assert len(rules.active) == 1


def test_removing_a_stream_resolves_its_alerts() -> None:
    rules = engine()
    feed(rules, (0, 0.9), (1, 0.9))
    (event,) = rules.remove("lobby", instant(2))
    assert (event.phase, event.after.labels["resolved"]) == (AlertPhase.RESOLVED, "stream removed")
    assert rules.active == []


def test_a_review_stays_with_the_alert() -> None:
    rules = engine()
    (opened,) = feed(rules, (0, 0.9), (1, 0.9))
    rules.reviewed(replace(opened.after, review=Review.FALSE_ALARM, reviewed_by="ada"))
    (event,) = rules.remove("lobby", instant(2))
    assert (event.after.review, event.after.reviewed_by) == (Review.FALSE_ALARM, "ada")


def test_the_service_speaks_of_itself() -> None:
    rules = engine()
    (opened,) = rules.on_service(AlertKind.SINK_FAILING, "pager", instant(0), "connection refused")
    assert rules.on_service(AlertKind.SINK_FAILING, "pager", instant(1), "connection refused") == []
    assert opened.after.summary == "pager: connection refused"
    (resolved,) = rules.on_service(AlertKind.SINK_FAILING, "pager", instant(2), None)
    assert resolved.after.id == opened.after.id
