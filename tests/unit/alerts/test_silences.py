"""When a maintenance window holds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streamwatch.alerts.silences import parse_silences
from streamwatch.config import SilenceSettings


def covers(start: str, end: str, at: str, stream: str = "lobby", streams: tuple[str, ...] | None = None) -> bool:
    (silence,) = parse_silences({"works": SilenceSettings(start=start, end=end, streams=streams)})
    return silence.covers(stream, datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("start", "end", "at", "expected"),
    [
        ("02:00", "03:00", "2026-11-22T02:00", True),
        ("02:00", "03:00", "2026-11-22T02:59", True),
        ("02:00", "03:00", "2026-11-22T03:00", False),
        ("22:00", "06:00", "2026-11-22T23:30", True),  # over midnight
        ("22:00", "06:00", "2026-11-22T05:59", True),
        ("22:00", "06:00", "2026-11-22T12:00", False),
        ("2026-12-24T18:00:00+01:00", "2026-12-26T00:00:00+01:00", "2026-12-24T17:00", True),  # 18:00 there
        ("2026-12-24T18:00:00+01:00", "2026-12-26T00:00:00+01:00", "2026-12-24T16:59", False),
        ("2026-12-24T18:00:00Z", "2026-12-26T00:00:00Z", "2026-12-26T00:00", False),
    ],
)
def test_windows(start: str, end: str, at: str, expected: bool) -> None:
    assert covers(start, end, at) is expected


def test_only_the_named_streams() -> None:
    assert covers("00:00", "23:59", "2026-11-22T12:00", streams=("lobby",))
    assert not covers("00:00", "23:59", "2026-11-22T12:00", stream="hall", streams=("lobby",))
