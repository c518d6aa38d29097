"""Scores and reviews out of a service's own history, as records to tune on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from streamwatch.config import HistorySettings
from streamwatch.domain import (
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
        self._since = time.time() - days * 86_400.0
        self._wanted = wanted
        self.thinned_hours = 0.0
        """scored hours that the last reading left out, since one row a minute is all that is kept of them"""

    def __call__(self) -> Iterator[Record]:
        self.thinned_hours = 0.0
        with asyncio.Runner() as runner:
            history = History(self._settings)
            try:
                for stream in filter(self._wanted, runner.run(history.scores.streams(self._since))):
                    yield from self._stream(runner, history, stream)
            finally:
                runner.run(history.close())

    def _stream(self, runner: asyncio.Runner, history: History, stream: str) -> Iterator[Record]:
        fakes = [
            (a.opened_at.wall - MARGIN, (a.resolved_at or a.updated_at).wall + MARGIN)
            for a in runner.run(history.alerts.query(_Confirmed(stream)))
        ]
        until, seq = time.time(), 0
        pages: list[list[ScorePoint]] = []
        while page := runner.run(history.scores.points(stream, self._since, until, PAGE)):
            pages.append(page)
            until = page[0].at
        for page in reversed(pages):
            for point in page:
                if any(start <= point.at <= end for start, end in fakes):
                    continue
                if point.low is not None:
                    self.thinned_hours += THIN_SPAN / 3600.0
                    continue
                seq += 1
                yield _record(stream, seq, point)


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
