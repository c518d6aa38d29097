"""The time in which a stream had a score, at any rate: what false alarms are counted against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from streamwatch.alerts.readings import ScoredTime
from tests.fakes.records import stream_score


def seconds(times: Iterable[float], window: float | None = None, unknown: frozenset[float] = frozenset()) -> float:
    spent = ScoredTime(5.0)
    scores = (replace(stream_score(at, None if at in unknown else 0.1), window=window) for at in times)
    return sum(spent.add(score, score.at.mono) for score in scores)


@pytest.mark.parametrize("step", [0.2, 2.0, 6.0, 10.0, 50.0])
def test_a_stream_is_scored_at_any_rate(step: float) -> None:
    times = [step * i for i in range(101)]
    assert seconds(times, window=max(10.0, 10 * step)) == pytest.approx(100 * step)
    # Recordings do not tell the window: the first step shows how often to expect one.
    assert seconds(times) >= 99 * step - 1e-9


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        pytest.param([0, 2, 4, 64, 66, 68], 8.0, id="a pause"),
        pytest.param([0, 2, 4, 14, 16, 18], 8.0, id="one long step among short ones is no interval"),
        pytest.param([0, 2, 4, 3, 5], 5.0, id="a record that came late"),
        pytest.param([0, 1, 2, 0, 1, 2], 2.0, id="told twice"),
    ],
)
def test_what_is_no_scored_time(times: list[float], expected: float) -> None:
    assert seconds(times) == pytest.approx(expected)


def test_time_without_a_score_does_not_count() -> None:
    assert seconds([0, 2, 4, 6, 8], unknown=frozenset({4})) == 4.0
