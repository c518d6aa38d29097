"""Scores and reviews out of a service's own history, as records to tune on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

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
from streamwatch.history.scores import ScorePoint
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
    """The unthinned scores of the last `days`, without what an operator has confirmed as fake. Every other alert is
    taken for a false one: so review first. Raises StorageError, ConfigError."""

    def __init__(self, settings: HistorySettings, days: float) -> None:
        self._settings = settings
        self._since = time.time() - days * 86_400.0

    def __call__(self) -> Iterator[Record]:
        with asyncio.Runner() as runner:
            history = History(self._settings)
            try:
                for stream in runner.run(history.scores.streams(self._since)):
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
                if point.low is None and not any(start <= point.at <= end for start, end in fakes):
                    seq += 1
                    yield _record(stream, seq, point)


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
