"""Scores and reviews out of a service's own history, as records to tune on."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from streamwatch.config import HistorySettings
from streamwatch.domain import (
    Alert,
    AlertKind,
    Box,
    Instant,
    Review,
    StreamScore,
    TrackScore,
    UnknownReason,
    Verdict,
)
from streamwatch.errors import ConfigError
from streamwatch.history.scores import THIN_SPAN, ScorePoint
from streamwatch.history.store import History
from streamwatch.replay.records import Record

PAGE = 20_000
SPAN = 3600.0
"""Seconds that are read of all streams before what follows them."""
MARGIN = 30.0
"""Seconds before and after a confirmed alert that are left out too."""


@dataclass(frozen=True, slots=True)
class _Confirmed:
    stream: str | None
    review: Review = Review.CONFIRMED
    kind: AlertKind = AlertKind.DEEPFAKE
    active: bool | None = None
    since: float | None = None
    until: float | None = None
    before: tuple[float, str] | None = None
    limit: int = 10_000


class Past:
    """The unthinned scores of the last `days` of the streams that are `wanted`, without what an operator has confirmed
    as fake. Every other alert is taken for a false one: so review first. Raises StorageError, ConfigError."""

    def __init__(self, settings: HistorySettings, days: float, wanted: Callable[[str], bool]) -> None:
        _must_be_there(settings)
        self._settings = settings
        self._until = time.time()  # so that each reading gives the same
        self._since = self._until - days * 86_400.0
        self._wanted = wanted
        self.thinned_hours = 0.0
        """scored hours that the last reading left out, since one row a minute is all that is kept of them"""

    def __call__(self) -> Iterator[Record]:
        """In order of time."""
        self.thinned_hours = 0.0
        with asyncio.Runner() as runner:
            history = History(self._settings)
            try:
                yield from self._read(runner, history)
            finally:
                runner.run(history.close())

    def _read(self, runner: asyncio.Runner, history: History) -> Iterator[Record]:
        streams = list(filter(self._wanted, runner.run(history.scores.streams(self._since))))
        fakes = {stream: [_span(a) for a in runner.run(history.alerts.query(_Confirmed(stream)))] for stream in streams}
        numbers: Counter[str] = Counter()
        for step in range(math.ceil((self._until - self._since) / SPAN)):
            start = self._since + step * SPAN
            end = min(start + SPAN, self._until)
            points = [(s, point) for s in streams for point in _points(runner, history, s, start, end)]
            for stream, point in sorted(points, key=lambda pair: pair[1].at):
                if any(begin <= point.at <= over for begin, over in fakes[stream]):
                    continue
                if point.low is not None:
                    self.thinned_hours += THIN_SPAN / 3600.0
                    continue
                numbers[stream] += 1
                yield _record(stream, numbers[stream], point)


def _span(alert: Alert) -> tuple[float, float]:
    """Between which wall times the stream showed a fake. One whose alert is open still does, whenever it was last
    told."""
    end = alert.resolved_at.wall if alert.resolved_at is not None else math.inf
    return alert.opened_at.wall - MARGIN, end + MARGIN


def _points(runner: asyncio.Runner, history: History, stream: str, since: float, until: float) -> list[ScorePoint]:
    pages: list[list[ScorePoint]] = []
    while page := runner.run(history.scores.points(stream, since, until, PAGE)):
        pages.append(page)
        until = page[0].at
    return [point for page in reversed(pages) for point in page]


def _must_be_there(settings: HistorySettings) -> None:
    """SQLite makes a file that is not there, and an empty history would say nothing of the mistake."""
    try:
        url = make_url(settings.url.get_secret_value())
    except (ArgumentError, ValueError):
        return  # the history itself says so
    path = url.database or ""
    if url.drivername.startswith("sqlite") and not path.startswith("file:") and not Path(path).is_file():
        raise ConfigError(f"history.url: {path or 'memory'}: there is no such database")


def _record(stream: str, seq: int, point: ScorePoint) -> StreamScore:
    """The history keeps the stream's score, not its tracks: the worst one stands for all."""
    verdict = Verdict(point.verdict)
    reason = UnknownReason(point.reason) if point.reason else None
    coverage, box = point.coverage or 0.0, Box(0.0, 0.0, 1.0, 1.0)
    track = TrackScore(1, box, point.score, verdict, reason, coverage, 1.0, True, point.members)
    return StreamScore(
        stream=stream,
        seq=seq,
        at=Instant(point.at, point.at),
        verdict=verdict,
        reason=reason,
        score=point.score,
        threshold=point.threshold or 1.0,
        coverage=coverage,
        tracks=(track,) if point.score is not None else (),
        worst_track=1 if point.score is not None else None,
    )
