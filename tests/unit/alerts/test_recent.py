"""What is kept of each stream before an alert: all scores of its window, and never more than time and rate allow."""

from __future__ import annotations

from dataclasses import replace

from streamwatch.alerts.recent import MARGIN, MAX_RATE, Recent
from streamwatch.domain import Instant
from tests.fakes.records import WALL, stream_score


def test_every_score_of_a_long_window_is_kept() -> None:
    recent = Recent(pre_roll=10.0, post_roll=5.0)
    for i in range(3500):
        recent.observe(replace(stream_score(i / 5, 0.9), seq=i, window=600.0), None, pictures=True)
    led = recent.led_to("lobby", WALL + 3499 / 5)
    assert [record["seq"] for record in led] == list(range(500, 3500))


def test_it_stays_bounded_whatever_the_clocks_do() -> None:
    recent = Recent(pre_roll=0.0, post_roll=0.0)
    for i in range(3000):  # both clocks stand still
        recent.observe(replace(stream_score(0, 0.9), seq=i, window=1.0), None, pictures=True)
    assert len(recent.scores("lobby", 0.0, WALL + 1e6)) == (1.0 + MARGIN) * MAX_RATE
    for i in range(300):  # the wall clock was set back by an hour
        at = Instant(100 + i / 5, WALL - 3600 + i / 5)
        recent.observe(replace(stream_score(0, 0.9), seq=i, at=at, window=1.0), None, pictures=True)
    assert len(recent.scores("lobby", 0.0, WALL + 1e6)) == (1.0 + MARGIN) * 5 + 1
