"""Maintenance windows: between which moments alerts are recorded but delivered to no one. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from streamwatch.config import SilenceSettings
from streamwatch.errors import ConfigError

_DAILY = re.compile(r"^([01]\d|2[0-3]):([0-5]\d)$")
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Silence:
    """`daily`: start and end are seconds of the UTC day, and the window may span midnight. Else Unix seconds."""

    streams: tuple[str, ...] | None
    start: float
    end: float
    daily: bool

    def covers(self, stream: str, wall: float) -> bool:
        if self.streams is not None and stream not in self.streams:
            return False
        moment = wall % _DAY if self.daily else wall
        if self.daily and self.start > self.end:
            return moment >= self.start or moment < self.end
        return self.start <= moment < self.end


def parse_silences(settings: Mapping[str, SilenceSettings]) -> tuple[Silence, ...]:
    """Raises ConfigError with one fault for each unusable window."""
    silences, faults = [], []
    for name, window in settings.items():
        try:
            (start, daily), (end, end_daily) = _moment(window.start), _moment(window.end)
        except ValueError as error:
            faults.append(f"alerts.silences.{name}: {error}")
            continue
        if daily != end_daily:
            faults.append(f"alerts.silences.{name}: start and end must both be dates or both be HH:MM")
        elif start == end or (start > end and not daily):
            faults.append(f"alerts.silences.{name}: the end must come after the start")
        else:
            silences.append(Silence(window.streams, start, end, daily))
    if faults:
        raise ConfigError(*faults)
    return tuple(silences)


def _moment(text: str) -> tuple[float, bool]:
    daily = _DAILY.match(text)
    if daily:
        return int(daily[1]) * 3600.0 + int(daily[2]) * 60.0, True
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an ISO 8601 date and time nor HH:MM") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} needs an offset, such as +01:00 or Z")
    return moment.timestamp(), False
