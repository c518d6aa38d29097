"""What rules owe to bystanders, receivers, odd clocks and one another."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from streamwatch.alerts.rules import RuleEngine
from streamwatch.config import AlertSettings
from streamwatch.domain import AlertEvent, AlertKind, AlertPhase, StreamState
from tests.fakes.records import instant, status, stream_score

WINDOW = {"kind": "window", "for": 1.0, "cooldown": 0.0, "resolve_after": 2.0}


def engine(**settings: Any) -> RuleEngine:
    ids = map(str, itertools.count(1))
    chosen = AlertSettings.model_validate({"rules": {"face": WINDOW}, **settings})
    return RuleEngine(chosen, hysteresis=0.05, new_id=lambda: next(ids))


def feed(rules: RuleEngine, *timed: tuple[float, tuple[float | None, ...]]) -> list[AlertEvent]:
    return [event for mono, scores in timed for event in rules.on_score(stream_score(mono, *scores))]


def phases(events: list[AlertEvent]) -> list[tuple[str, float]]:
    return [(e.phase.value, e.after.updated_at.mono) for e in events]


def test_a_bystander_does_not_hold_anothers_alert_open() -> None:
    """Face 2 stays between release and threshold; the alert is of face 1, and ends with it."""
    rules = engine()
    (opened,) = feed(rules, (0, (0.9, 0.67)), (1, (0.9, 0.67)))
    assert (opened.after.track, opened.after.value) == (1, 0.9)
    events = feed(rules, (2, (0.2, 0.67)), (3, (0.2, 0.67)), (4, (0.2, 0.67)))
    assert phases(events) == [("resolved", 4)]
    assert "Face 2" not in opened.after.summary


def test_a_second_face_that_fires_holds_it_open() -> None:
    rules = engine()
    feed(rules, (0, (0.9, 0.1)), (1, (0.9, 0.1)))
    events = feed(rules, (2, (0.1, 0.9)), (3, (0.1, 0.9)), (4, (0.1, 0.67)), (9, (0.1, 0.67)))
    assert [(e.phase.value, e.after.labels["tracks"]) for e in events] == [("updated", "1,2")]
    assert phases(feed(rules, (10, (0.1, 0.1)), (12, (0.1, 0.1)))) == [("resolved", 12)]


def test_a_fired_face_that_is_unknown_for_a_moment_holds_it_open_among_others() -> None:
    rules = engine()
    feed(rules, (0, (0.9, 0.1)), (1, (0.9, 0.1)))
    assert feed(rules, (2, (None, 0.1)), (5, (None, 0.1)), (8, (0.9, 0.1))) == []


def out_of_sight(rules: RuleEngine, start: int, end: int, bystander: float = 0.1) -> list[AlertEvent]:
    """Face 1 is gone, face 2 stays."""
    events = []
    for t in range(start, end):
        score = stream_score(t, None, bystander)
        events += rules.on_score(replace(score, tracks=score.tracks[1:]))
        events += rules.on_tick(instant(t + 0.4))
    return events


@pytest.mark.parametrize("rule", [WINDOW, {**WINDOW, "kind": "cusum", "threshold": 20.0}], ids=["window", "cusum"])
def test_a_face_that_goes_out_of_sight_among_others_is_not_cleared(rule: dict[str, Any]) -> None:
    """As if it were alone: the alert stays open for 10 s. If it comes back in time, the alert is still the same."""
    rules = engine(rules={"face": rule})
    seen = [(t, (0.99, 0.1)) for t in range(8)]
    (opened,) = [e for e in feed(rules, *seen) if e.phase is AlertPhase.OPENED]
    assert out_of_sight(rules, 8, 12) == []
    feed(rules, *((t, (0.99, 0.1)) for t in range(12, 20)))
    assert [alert.id for alert in rules.active] == [opened.after.id]
    (resolved,) = out_of_sight(rules, 20, 60)
    assert (resolved.after.updated_at.mono, resolved.after.labels["resolved"]) == (29, "no longer seen")


def test_a_face_that_is_long_gone_holds_no_later_alert_open() -> None:
    rules = engine()
    feed(rules, (0, (0.9, 0.1)), (1, (0.9, 0.1)))
    gone = out_of_sight(rules, 2, 12)
    assert [e.after.labels["resolved"] for e in gone] == ["no longer seen"]
    later = out_of_sight(rules, 12, 16, 0.9) + out_of_sight(rules, 16, 20, 0.1)
    assert phases(later) == [("opened", 13), ("resolved", 18)]
    assert later[-1].after.labels["resolved"] == "cleared"


def test_the_bystander_rule_holds_for_accumulated_evidence_too() -> None:
    cusum = {"kind": "cusum", "threshold": 20.0, "resolve_after": 2.0, "cooldown": 0.0}
    rules = engine(rules={"face": cusum})
    feed(rules, *((t, (0.99, 0.6)) for t in range(8)))
    (alert,) = rules.active
    events = feed(rules, *((t, (0.01, 0.5)) for t in range(8, 24)))
    assert [e.phase for e in events if e.after.id == alert.id and e.phase is AlertPhase.RESOLVED]


def test_who_heard_of_an_alert_hears_of_its_end_in_a_maintenance_window() -> None:
    window = {"start": "2023-11-14T22:13:25Z", "end": "2023-11-14T23:00:00Z"}  # from monotonic 5 on
    rules = engine(silences={"works": window})
    events = feed(rules, (0, (0.9,)), (1, (0.9,)), (6, (0.9,)), (7, (0.1,)), (9, (0.1,)))
    assert [(e.phase.value, e.after.silenced) for e in events] == [
        ("opened", False),
        ("updated", True),
        ("resolved", False),
    ]
    # One that nobody heard of ends as quietly as it came.
    events = feed(rules, (20, (0.9,)), (21, (0.9,)), (23, (0.1,)), (25, (0.1,)))
    assert [(e.phase.value, e.after.silenced) for e in events] == [("opened", True), ("resolved", True)]


def test_an_alerts_wall_time_does_not_go_back_with_the_machines() -> None:
    rules = engine()
    (opened,) = feed(rules, (0, (0.9,)), (1, (0.9,)))
    back = [replace(stream_score(t, 0.1), at=instant(t)._replace(wall=instant(t).wall - 3600.0)) for t in (2.0, 4.0)]
    (resolved,) = [event for score in back for event in rules.on_score(score)]
    assert resolved.after.updated_at.wall >= opened.after.updated_at.wall
    assert resolved.after.resolved_at is not None
    assert resolved.after.resolved_at.wall >= opened.after.opened_at.wall


def drifting(rules: RuleEngine, streams: int = 5) -> list[AlertEvent]:
    """A quiet quarter of an hour, then the scores of all move up at once and stay there."""
    events = []
    for t in range(0, 1100, 2):
        for n in range(streams):
            events += rules.on_score(stream_score(t, 0.2 if t < 1000 else 0.9, stream=f"cam{n}"))
    return events


def test_a_codec_change_does_not_look_like_an_attack() -> None:
    """The faces' alerts open first, the drift is certain later: then they are marked, and what opens after it too."""
    drift = {"kind": "detector_drift", "threshold": 1.5}
    rules = engine(rules={"face": {**WINDOW, "for": 4.0}, "drift": drift})
    events = drifting(rules)
    opened = [e for e in events if e.phase is AlertPhase.OPENED and e.after.kind is AlertKind.DEEPFAKE]
    marked = {a.id for a in rules.active if a.labels.get("detector_drift") == "true"}
    assert len(opened) == 5
    assert marked == {e.after.id for e in opened}
    assert any(a.kind is AlertKind.DRIFT for a in rules.active)


def test_an_alert_of_long_before_the_drift_is_not_marked() -> None:
    drift = {"kind": "detector_drift", "threshold": 1.5}
    rules = engine(rules={"face": WINDOW, "drift": drift})
    for t in range(0, 800, 2):  # somebody is fake for a long time already
        rules.on_score(stream_score(t, 0.9, stream="old"))
    drifting(rules)
    (old,) = [a for a in rules.active if a.stream == "old"]
    assert "detector_drift" not in old.labels


def test_the_canary_tells_nothing_about_the_fleet() -> None:
    canaries = ["cam0", "cam1", "cam2", "cam3", "cam4"]
    rules = engine(
        rules={"drift": {"kind": "detector_drift"}, "canary": {"kind": "canary", "streams": canaries, "for": 9999}}
    )
    assert drifting(rules) == []


@pytest.mark.parametrize("state", [StreamState.PAUSED, StreamState.RECONNECTING])
def test_a_canary_that_is_not_live_says_nothing_of_the_detector(state: StreamState) -> None:
    rules = engine(rules={"canary": {"kind": "canary", "streams": ["c"], "for": 60.0}})
    for t in range(60):
        rules.on_score(stream_score(t, 0.9 if (t // 20) % 2 else 0.1, stream="c"))
    events = rules.on_status(status(60, state, "c"))
    events += [e for t in range(61, 400) for e in rules.on_tick(instant(t))]
    assert events == []
    rules.on_status(status(400, StreamState.LIVE, "c"))
    (alert,) = [e for t in range(401, 520) for e in rules.on_score(stream_score(t, 0.1, stream="c"))]
    assert "right face was not judged" in alert.after.summary


def test_labels_are_those_of_the_stream_when_the_alert_opens() -> None:
    sites = {"lobby": {"site": "hq"}}
    rules = RuleEngine(
        AlertSettings.model_validate({"rules": {"face": WINDOW}}),
        hysteresis=0.05,
        new_id=lambda: "1",
        labels=lambda stream: sites.get(stream, {}),
    )
    feed(rules, (0, (0.1,)))
    sites["lobby"] = {"site": "annex"}
    (event,) = feed(rules, (1, (0.9,)), (2, (0.9,)))
    assert event.after.labels["site"] == "annex"
