from __future__ import annotations

import pytest

from streamwatch.domain import ClockSource, Instant
from streamwatch.ingest.clock import CaptureClock

WALL = 1_700_000_000.0


def at(mono: float) -> Instant:
    return Instant(mono, WALL + mono)


def test_without_a_timestamp_arrival_is_all_there_is() -> None:
    clock = CaptureClock()
    clock.arrived(None, at(5))
    assert clock.stamp(None, at(5)) == (at(5), ClockSource.ARRIVAL)


def test_the_opening_burst_is_not_taken_for_live() -> None:
    """A server that sends its last second at once: the oldest picture of it is a second old."""
    clock = CaptureClock()
    for index in range(26):
        clock.arrived(index * 0.04, at(100.0 + index * 0.001))
    captured, _ = clock.stamp(0.0, at(100.03))
    assert captured.mono == pytest.approx(100.025 - 1.0, abs=1e-6)


def test_jitter_does_not_move_capture_times() -> None:
    clock = CaptureClock()
    delays = [0.0, 0.2, 0.05, 0.3, 0.0, 0.1]
    stamps = []
    for index, delay in enumerate(delays):
        now = at(10 + index * 0.5 + delay)
        clock.arrived(index * 0.5, now)
        stamps.append(clock.stamp(index * 0.5, now)[0].mono)
    assert stamps == pytest.approx([10 + index * 0.5 for index in range(6)])


def test_a_slow_camera_clock_is_followed() -> None:
    """200 ppm over an hour are 0.7 s: without re-anchoring every frame would look that old."""
    clock = CaptureClock()
    for second in range(3600):
        now = at(second * 1.0002)
        clock.arrived(float(second), now)
    captured, _ = clock.stamp(3599.0, now)
    assert now.mono - captured.mono < 0.01


def test_a_clock_that_stood_still_is_anchored_again() -> None:
    clock = CaptureClock()
    for second in range(10):
        clock.arrived(float(second), at(float(second)))
    for second in range(10, 20):  # the camera froze for half a minute and goes on where it was
        now = at(second + 30.0)
        clock.arrived(float(second), now)
    captured, _ = clock.stamp(19.0, now)
    assert now.mono - captured.mono < 0.01


def test_timestamps_that_jump_back_begin_a_new_line() -> None:
    clock = CaptureClock()
    clock.arrived(1000.0, at(50.0))
    clock.arrived(3.0, at(50.5))
    captured, _ = clock.stamp(3.0, at(50.6))
    assert captured.mono == pytest.approx(50.5)


def test_sender_reports_give_the_camera_s_own_time() -> None:
    clock = CaptureClock()
    for index in range(5):
        clock.arrived(index * 0.2, at(20.4 + index * 0.2), reported=WALL + 20.0 + index * 0.2)
    captured, source = clock.stamp(0.8, at(21.25))
    assert source is ClockSource.RTCP
    assert captured.mono == pytest.approx(20.8)
    assert captured.wall == pytest.approx(WALL + 20.8)
    assert clock.skew == pytest.approx(-0.4)


@pytest.mark.parametrize("wrong", [-3600.0, 3600.0, 5.0])
def test_a_wrong_camera_clock_is_not_believed(wrong: float) -> None:
    clock = CaptureClock()
    clock.arrived(1.0, at(20.0), reported=WALL + 20.0 + wrong)
    captured, source = clock.stamp(1.0, at(20.1))
    assert source is ClockSource.ARRIVAL
    assert captured.mono == pytest.approx(20.0)


def test_nothing_is_captured_in_the_future() -> None:
    clock = CaptureClock()
    clock.arrived(1.0, at(20.0), reported=WALL + 21.0)
    assert clock.stamp(1.0, at(20.0))[0].mono == 20.0
