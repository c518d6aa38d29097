"""Recorded scores: the websocket's own messages, one a line, as `streamwatch tail --json > scores.jsonl` writes
them."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from streamwatch.config import SLUG
from streamwatch.domain import (
    Box,
    Instant,
    StreamScore,
    StreamState,
    StreamStatus,
    TrackScore,
    UnknownReason,
    Verdict,
    logit,
)
from streamwatch.errors import ConfigError

Record = StreamScore | StreamStatus
BACK = 10.0
"""Seconds by which a score may be older than one before it. More is another recording, or a clock that was set back."""


def read(paths: Sequence[Path]) -> Iterator[Record]:
    """Scores and states of all files, in order of time whatever the order of the files; other messages are skipped.
    Recorded times stand on both clocks.

    Raises ConfigError naming file and line: of what is no message, and where a stream's time goes back or is told by
    two files, since it would count twice.
    """
    order = _Order(paths)
    for _, place, record in heapq.merge(*map(_file, range(len(paths)), paths), key=lambda line: line[0]):
        if isinstance(record, StreamScore):
            order.check(record, place)
        yield record


@dataclass(frozen=True, slots=True)
class _Place:
    """The number of a file among those given, and of a line in it."""

    file: int
    line: int


class _Order:
    """Whether each stream's records follow one another."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._newest: dict[str, float] = {}
        self._files: dict[str, list[int]] = {}
        """those that told of the stream, the newest last"""

    def check(self, score: StreamScore, place: _Place) -> None:
        """Raises ConfigError."""
        stream, at = score.stream, score.at.mono
        newest = self._newest.setdefault(stream, at)
        files = self._files.setdefault(stream, [place.file])
        where = f"{self._paths[place.file]}, line {place.line}: {stream}"
        if at < newest - BACK:
            back = f"{where} goes {newest - at:.0f} s back in time"
            raise ConfigError(f"{back}: its recordings must follow one another, each in a file of its own")
        if place.file in files[:-1]:
            raise ConfigError(f"{where} is in {self._paths[files[-1]]} too, at the same time: it would count twice")
        if place.file != files[-1]:
            files.append(place.file)
        self._newest[stream] = max(newest, at)


def _file(number: int, path: Path) -> Iterator[tuple[float, _Place, Record]]:
    """With the time at which each was said: a stream that stands still speaks of its last frame for hours."""
    said = float("-inf")
    try:
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                if text.strip() and (parsed := _parse(text, f"{path}, line {line}")) is not None:
                    record, age = parsed
                    said = max(said, record.at.mono + age)
                    yield said, _Place(number, line), record
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error


def _parse(text: str, where: str) -> tuple[Record, float] | None:
    """And its age when it was said, seconds. None for another message. Raises ConfigError."""
    try:
        message = json.loads(text)
        kind = message["type"]
        if kind == "score":
            return score_of(message), _number(message.get("age_ms", 0)) / 1000.0
        if kind == "stream":
            return StreamStatus(_slug(message["stream"]), StreamState(message["state"]), _instant(message["at"])), 0.0
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: is no message of StreamWatch ({type(error).__name__}: {error})") from error
    return None


def score_of(message: Mapping[str, Any]) -> StreamScore:
    """A score message as the record that it was made from, as far as it tells. Raises KeyError, ValueError,
    TypeError, OverflowError."""
    reason = message["reason"]
    return StreamScore(
        stream=_slug(message["stream"]),
        seq=int(message["seq"]),
        at=_instant(message["captured_at"]),
        verdict=Verdict(message["verdict"]),
        reason=UnknownReason(reason) if reason else None,
        gate=message.get("gate"),
        score=_ratio(message["score"]),
        threshold=_number(message["threshold"]),
        coverage=_number(message["coverage"]),
        tracks=tuple(_track(face) for face in message["faces"]),
        worst_track=message.get("worst"),
    )


def _track(face: Mapping[str, Any]) -> TrackScore:
    score = _ratio(face["score"])
    reason = face.get("reason")
    # Messages of before the field `logit` have the window's score alone; the fast rule then sees a smoothed frame.
    newest = face["logit"] if "logit" in face else logit(score) if score is not None else None
    return TrackScore(
        track=int(face["track"]),
        box=Box(*map(_number, face["box"])),
        score=score,
        verdict=Verdict(face["verdict"]),
        reason=UnknownReason(reason) if reason else None,
        gate=face.get("gate"),
        coverage=_number(face["coverage"]),
        quality=_number(face["quality"]),
        confirmed=bool(face["confirmed"]),
        members=dict(face.get("members", {})),
        logit=None if newest is None else _number(newest),
    )


def _ratio(value: Any) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} is no score, 0 to 1")
    return number


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no number")
    return number


def _slug(value: Any) -> str:
    if not (isinstance(value, str) and SLUG.match(value)):
        raise ValueError("the stream has no name that a stream may bear")
    return value


def _instant(text: str) -> Instant:
    wall = datetime.fromisoformat(text).timestamp()
    return Instant(wall, wall)
