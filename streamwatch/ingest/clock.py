"""When was a picture captured? From its timestamp, the arrivals seen so far and the camera's own reports. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from streamwatch.domain import ClockSource, Instant

# Half-windows of the running minimum: long enough to bridge a key picture's slow arrival, short enough to follow a
# camera whose clock stood still or drifts.
_WINDOW = 3.0
# Timestamps that go back by more than this are a new time line; less is a late packet.
_BACKWARD = 0.5
# A sender report further than this from the arrivals says that the camera's wall clock is wrong.
_TRUST = 2.0


@dataclass(slots=True)
class CaptureClock:
    """Maps presentation times (seconds, any origin) to both of our clocks.

    A packet can be late but never early, so capture time + smallest delay is the smallest `arrival - pts` of the last
    seconds (two half-windows, so that it also rises again: that is the re-anchoring). Where the camera sends RTCP
    sender reports and its wall clock agrees with ours within two seconds, they replace that estimate.
    """

    skew: float | None = None
    """The camera's wall clock minus ours, seconds, by its last report; None without reports."""
    _last_pts: float | None = None
    _current: float = float("inf")
    _previous: float = float("inf")
    _began: float = float("-inf")
    _wall_offset: float | None = None

    def arrived(self, pts: float | None, now: Instant, reported: float | None = None) -> None:
        """A packet came; `reported` is the Unix time at which the camera says that it was captured."""
        if pts is None:
            return
        if self._last_pts is not None and pts < self._last_pts - _BACKWARD:
            self._current = self._previous = float("inf")
            self._wall_offset = None
        self._last_pts = pts
        if now.mono - self._began > _WINDOW:
            self._previous, self._current, self._began = self._current, float("inf"), now.mono
        self._current = min(self._current, now.mono - pts)
        if reported is not None:
            self._wall_offset = reported - pts
            self.skew = reported - (now.wall - (now.mono - pts - self._offset))

    def stamp(self, pts: float | None, now: Instant) -> tuple[Instant, ClockSource]:
        """The capture time of a picture that is in hand at `now`; never later than that."""
        if pts is None or self._offset == float("inf"):
            return now, ClockSource.ARRIVAL
        by_arrival = max(0.0, now.mono - (pts + self._offset))
        if self._wall_offset is not None:
            by_report = now.wall - (pts + self._wall_offset)
            if abs(by_report - by_arrival) <= _TRUST:
                return now.shifted(-max(0.0, by_report)), ClockSource.RTCP
        return now.shifted(-by_arrival), ClockSource.ARRIVAL

    @property
    def _offset(self) -> float:
        return min(self._current, self._previous)
