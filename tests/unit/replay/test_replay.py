"""Replay and tuning on recorded scores: what is read, what would have opened, what the hours allow to promise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from streamwatch.cli import main
from streamwatch.config import DEFAULT_RULES, Config, load, parse
from streamwatch.domain import StreamScore
from streamwatch.replay.records import read, score_of
from streamwatch.replay.simulate import upper_bound
from streamwatch.replay.tune import Trial, Tuning, tune
from streamwatch.server.messages import score_message
from tests.fakes.records import stream_score


def message(score: StreamScore) -> dict[str, object]:
    from streamwatch.domain import StreamState

    return dict(score_message("e1", score.seq, score, StreamState.LIVE, score.at))


def record(path: Path, scores: Sequence[StreamScore]) -> Path:
    path.write_text("".join(json.dumps(message(s)) + "\n" for s in scores))
    return path


def test_a_message_comes_back_as_the_score_it_was_made_from() -> None:
    score = stream_score(12.5, 0.81, None)
    back = score_of(message(score))
    assert (back.stream, back.score, back.verdict, back.worst_track) == ("lobby", 0.81, score.verdict, 1)
    assert back.at.wall == score.at.wall
    assert [(t.track, t.score, t.confirmed) for t in back.tracks] == [(1, 0.81, True), (2, None, True)]
    assert back.tracks[0].logit == pytest.approx(score.tracks[0].logit, abs=1e-3)


def test_replay_tells_what_would_have_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [stream_score(t / 2, 0.9 if 200 <= t < 260 else 0.1) for t in range(800)]
    path = record(tmp_path / "scores.jsonl", scores)
    assert main(["replay", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (alert,) = said["alerts"]
    opened = datetime.fromtimestamp(stream_score(101).at.wall, UTC)
    assert (alert["rule"], alert["opened_at"]) == ("deepfake", opened.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert alert["seconds"] == pytest.approx(31.0, abs=0.6)  # 30 s, less a second's hold, plus two of release
    assert said["scored_hours"]["lobby"] == pytest.approx(399.5 / 3600)
    assert main(["replay", str(path)]) == 0
    assert "deepfake: 1 alerts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("not json", "line 2: is no message"),
        ('{"type": "score"}', "line 2: is no message"),
        (json.dumps({**message(stream_score(0, 0.5)), "score": 7}), "is no score, 0 to 1"),
        (json.dumps({**message(stream_score(0, 0.5)), "seq": math.inf}), "line 2: is no message"),
        (json.dumps({**message(stream_score(0, 0.5)), "threshold": math.nan}), "line 2: is no message"),
        (json.dumps({**message(stream_score(0, 0.5)), "stream": {}}), "line 2: is no message"),
        ('{"type": "stream", "stream": {}, "state": "live", "at": "2026-01-01T00:00:00Z"}', "line 2: is no message"),
        ('{"type": "stream", "stream": "a", "state": "live", "at": "0001-01-01T00:00:00"}', "line 2: is no message"),
        ("[" * 100_000, "line 2: is no message"),
    ],
)
def test_a_bad_line_is_named(line: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "scores.jsonl", [stream_score(0, 0.5)])
    path.write_text(path.read_text() + line + "\n")
    assert main(["replay", str(path)]) == 2
    assert fault in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "absent.jsonl")]) == 2
    assert "absent.jsonl: cannot be read" in capsys.readouterr().err


def test_other_messages_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('{"type": "heartbeat"}\n\n' + json.dumps(message(stream_score(0, 0.5))) + "\n")
    assert len(list(read([path]))) == 1


@pytest.mark.parametrize(("events", "expected"), [(0, 2.9957), (1, 4.7439), (10, 16.9622)])
def test_the_bound_is_garwoods(events: int, expected: float) -> None:
    """Against chi2.ppf(0.95, 2 n + 2) / 2."""
    assert upper_bound(events, 1.0) == pytest.approx(expected, abs=1e-3)
    assert upper_bound(events, 2.0) == pytest.approx(expected / 2, abs=1e-3)
    assert upper_bound(0, 0.0) == math.inf


def hours_of_reals(path: Path, hours: float) -> Path:
    """A score that wanders slowly, and rises to 0.75 for 20 s each quarter of an hour."""
    rng = np.random.default_rng(7)
    scores = []
    for t in range(int(hours * 3600 / 2)):
        high = t % 450 < 10
        scores.append(stream_score(2.0 * t, 0.75 if high else float(rng.uniform(0.05, 0.3))))
    return record(path, scores)


def test_tuning_finds_the_lowest_threshold_that_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = hours_of_reals(tmp_path / "scores.jsonl", hours=2.0)
    assert main(["rules", "tune", str(path), "--false-alarms-per-hour", "2"]) == 0
    out = capsys.readouterr().out
    assert "2.00 scored hours" in out
    assert "threshold: 0.76" in out


def test_tuning_promises_no_more_than_the_hours_prove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = hours_of_reals(tmp_path / "scores.jsonl", hours=1.0)
    assert main(["rules", "tune", str(path), "--false-alarms-per-hour", "0.05"]) == 1
    captured = capsys.readouterr()
    assert "at best 3 per hour (3/T, 95 %)" in captured.out
    assert "needs at least 60 scored hours" in captured.err
    assert "threshold:" not in captured.out


def spikes(hours: float) -> Iterator[StreamScore]:
    """Every quarter of an hour a single record at 0.9, which none that holds for a second minds, and one rise to 0.7
    for 20 s."""
    for t in range(int(hours * 1800)):
        score = 0.9 if t % 450 == 0 else 0.7 if 200 <= t % 450 < 210 else 0.1
        yield stream_score(2.0 * t, score)


OWN = {"severity": "info", "for": 5.0, "resolve_after": 20.0, "cooldown": 1800.0, "release": 0.05, "enabled": False}


@pytest.mark.parametrize("rule", [{}, OWN], ids=["default", "own"])
def test_what_is_printed_gives_what_was_promised(
    rule: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is printed: the rule in full, and the other rules are still there."""
    path = record(tmp_path / "scores.jsonl", list(spikes(0.5)))
    before, printed = tmp_path / "before.yaml", tmp_path / "printed.yaml"
    before.write_text(json.dumps({"alerts": {"rules": {"deepfake": rule}}}))
    promised = tune(lambda: read([path]), "deepfake", load(before, {}), 12.0).best
    assert promised is not None
    assert (promised.alarms > 0) == (rule is OWN)
    assert main(["rules", "tune", str(path), "--rules", str(before), "--false-alarms-per-hour", "12"]) == 0
    printed.write_text(capsys.readouterr().out)
    assert main(["replay", str(path), "--rules", str(printed), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    watched = said["rules"]["deepfake"]
    assert sum(alert["rule"] == "deepfake" for alert in said["alerts"]) == promised.alarms
    assert watched["scored_hours"] == promised.hours
    assert watched["in_alarm_hours"] == pytest.approx(promised.in_alarm * promised.hours)
    rules = load(printed, {}).alerts.rules
    assert rules["deepfake"].severity.value == rule.get("severity", "critical")
    assert {**rules, "deepfake": None} == {**load(None, {}).alerts.rules, "deepfake": None}


def test_a_stream_of_a_frame_in_ten_seconds_has_its_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "scores.jsonl", [stream_score(10.0 * t, 0.1) for t in range(721)])
    assert main(["replay", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scored_hours"]["lobby"] == pytest.approx(2.0, abs=0.01)
    assert main(["rules", "tune", str(path), "--false-alarms-per-hour", "2"]) == 0
    assert "2.00 scored hours of lobby" in capsys.readouterr().out


def days(tmp_path: Path) -> tuple[str, str]:
    """A fake on the first day, a longer one on the second."""
    first = [stream_score(2.0 * t, 0.9 if 100 <= t < 120 else 0.1) for t in range(300)]
    second = [stream_score(86_400 + 2.0 * t, 0.9 if 50 <= t < 90 else 0.1) for t in range(300)]
    return str(record(tmp_path / "day1.jsonl", first)), str(record(tmp_path / "day2.jsonl", second))


def test_the_order_of_the_files_does_not_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day1, day2 = days(tmp_path)
    said = []
    for files in ((day1, day2), (day2, day1)):
        assert main(["replay", *files, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert [round(alert["seconds"]) for alert in said[0]["alerts"]] == [40, 80]


def test_what_would_count_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day1, day2 = days(tmp_path)
    late = record(tmp_path / "late.jsonl", [stream_score(2.0 * t, 0.1) for t in range(250, 400)])
    both = tmp_path / "both.jsonl"
    both.write_text(Path(day2).read_text() + Path(day1).read_text())
    for files, fault in (
        ([day1, day1], f"{day1}, line 2: lobby is in {day1} too, at the same time"),
        ([day1, str(late)], f"{day1}, line 252: lobby is in {late} too, at the same time"),
        ([str(both)], f"{both}, line 301: lobby goes 86998 s back in time"),
    ):
        for command in (["replay", *files], ["rules", "tune", *files, "--false-alarms-per-hour", "9"]):
            assert main(command) == 2
            assert fault in capsys.readouterr().err


def test_recordings_of_other_streams_may_be_of_the_same_time(tmp_path: Path) -> None:
    lobby, _ = days(tmp_path)
    hall = record(tmp_path / "hall.jsonl", [stream_score(2.0 * t + 1.0, 0.1, stream="hall") for t in range(300)])
    times = [r.at.mono for r in read([Path(lobby), hall])]
    assert len(times) == 600
    assert times == sorted(times)


def test_a_stream_that_stands_still_may_speak_of_its_last_frame_in_the_next_file(tmp_path: Path) -> None:
    """Its messages have the frame's time, hours old, and their age."""

    def ticks(start: int, stop: int) -> list[dict[str, object]]:
        frame = stream_score(0.0, 0.1)
        return [{**message(frame), "age_ms": 1000 * t} for t in range(start, stop)]

    def write(name: str, start: int, stop: int) -> Path:
        others = [message(stream_score(float(t), 0.1, stream="hall")) for t in range(start, stop)]
        lines = [pair for both in zip(others, ticks(start, stop), strict=True) for pair in both]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    files = [write("b.jsonl", 100, 200), write("a.jsonl", 0, 100)]
    assert len(list(read(files))) == 400


def test_a_long_hold_off_runs_out_in_a_long_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("alerts: {rules: {stream-down: {for: 600}}}")
    at = {"type": "stream", "stream": "lobby"}
    lines = [
        {**at, "state": "reconnecting", "at": "2026-01-01T00:00:00Z"},
        {**at, "state": "live", "at": "2026-01-01T01:00:00Z"},
    ]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["replay", str(path), "--rules", str(config), "--json"]) == 0
    (alert,) = json.loads(capsys.readouterr().out)["alerts"]
    assert (alert["rule"], alert["opened_at"]) == ("stream-down", "2026-01-01T00:10:00Z")


def steady(stream: str, hours: float, score: float) -> Iterator[StreamScore]:
    return (stream_score(4.0 * t, score, stream=stream) for t in range(int(hours * 900)))


def test_tuning_refuses_a_threshold_at_which_the_alarm_never_ends() -> None:
    """A real person at a constant 0.55: any lower threshold opens one alarm, and it stays open."""
    tuning = tune(lambda: steady("lobby", 0.5, 0.55), "deepfake", Config(), 10.0)
    assert tuning.best is not None
    assert (tuning.best.threshold, tuning.best.alarms) == (0.56, 0)
    low = tuning.trials[0]
    assert (low.threshold < 0.55, low.alarms, low.in_alarm > 0.99) == (True, 1, True)
    assert low.bound < 10.0, "its alarms alone would let it pass"


def test_one_stream_in_alarm_for_ever_shows_among_hundreds() -> None:
    for_ever = Trial(0.3, 1, hours=200.0, in_alarm=1 / 200, streams=("lobby",))
    assert for_ever.bound < 0.05
    assert not for_ever.keeps_to(0.05)
    assert replace(for_ever, in_alarm=20 / 720_000).keeps_to(0.05)


def test_tuning_takes_a_short_alarm_where_one_is_allowed() -> None:
    def source() -> Iterator[StreamScore]:
        for t in range(450):
            yield stream_score(4.0 * t, 0.8 if t in (150, 151, 152) else 0.4)

    tuning = tune(source, "deepfake", Config(), 10.0)  # one alarm in half an hour leaves 9.5 possible
    assert tuning.best is not None
    # From 0.45 on downwards the release is no higher than 0.4: the alarm would open once, and stay.
    assert (tuning.best.threshold, tuning.best.alarms) == (0.46, 1)
    below = next(trial for trial in tuning.trials if trial.threshold == 0.45)
    assert (below.alarms, below.in_alarm > 0.6) == (1, True)


def test_tuning_counts_the_hours_of_the_rules_own_streams_alone() -> None:
    def source() -> Iterator[StreamScore]:
        yield from steady("lobby", 0.5, 0.1)
        yield from steady("hall", 1.0, 0.9)
        yield from steady("own", 0.5, 0.9)
        yield from steady("canary", 0.5, 0.9)

    def trial(**rule: object) -> Tuning:
        rules = {"deepfake": {"kind": "window", **rule}, "canary": {"kind": "canary", "streams": ["canary"]}}
        overrides = {"own": {"deepfake": {"threshold": 0.9}}}
        return tune(source, "deepfake", parse({"alerts": {"rules": rules, "overrides": overrides}}), 3.0)

    assert trial().trials[0].streams == ("hall", "lobby")
    tuning = trial(streams=["lobby"])
    assert (tuning.trials[0].streams, tuning.best) == (("lobby",), None)
    assert tuning.trials[0].hours == pytest.approx(0.5, abs=0.01)


def test_replay_gives_each_rule_its_own_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [*steady("lobby", 0.5, 0.1), *steady("hall", 1.0, 0.9), *steady("canary", 0.25, 0.9)]
    rules = {
        **{name: {"enabled": False} for name in DEFAULT_RULES},
        "lobby-only": {"kind": "window", "streams": ["lobby"]},
        "every": {"kind": "window", "threshold": 0.5},
        "drift": {"kind": "detector_drift"},
        "canary": {"kind": "canary", "streams": ["canary"]},
    }
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"alerts": {"rules": rules}}))
    path = str(record(tmp_path / "scores.jsonl", scores))
    assert main(["replay", path, "--rules", str(config), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["rules"]
    hours = {name: round(rule["scored_hours"], 1) for name, rule in said.items()}
    assert hours == {"lobby-only": 0.5, "every": 1.5, "drift": 1.5, "canary": 0.2}
    assert said["every"]["in_alarm_hours"] == pytest.approx(1.0, abs=0.01)
    assert main(["replay", path, "--rules", str(config)]) == 0
    out = capsys.readouterr().out
    assert "lobby-only: 0 alerts in 0.50 scored hours of its streams, 0.00 an hour, at most 6.00 (95 %)" in out
    assert "in alarm 66." in out


def test_tuning_wants_its_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "scores.jsonl", [stream_score(0, 0.5)])
    for arguments, fault in (
        (["--false-alarms-per-hour", "0", str(path)], "must be greater than 0"),
        (["--false-alarms-per-hour", "1"], "either files of scores or --history"),
        (["--false-alarms-per-hour", "1", "--rule", "stream-down", str(path)], "is no window or cusum rule"),
    ):
        assert main(["rules", "tune", *arguments]) == 2
        assert fault in capsys.readouterr().err
