"""Replay and tuning on recorded scores: what is read, what would have opened, what the hours allow to promise."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from streamwatch.cli import main
from streamwatch.domain import StreamScore
from streamwatch.replay.records import read, score_of
from streamwatch.replay.simulate import upper_bound
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


def test_tuning_wants_its_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "scores.jsonl", [stream_score(0, 0.5)])
    for arguments, fault in (
        (["--false-alarms-per-hour", "0", str(path)], "must be greater than 0"),
        (["--false-alarms-per-hour", "1"], "either files of scores or --history"),
        (["--false-alarms-per-hour", "1", "--rule", "stream-down", str(path)], "is no window or cusum rule"),
    ):
        assert main(["rules", "tune", *arguments]) == 2
        assert fault in capsys.readouterr().err
