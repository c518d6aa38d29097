"""Recorded scores: the websocket's own messages, one a line, as `streamwatch tail --json > scores.jsonl` writes
them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

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


def read(paths: Sequence[Path]) -> Iterator[Record]:
    """Scores and states in the order of the files; other messages are skipped. Recorded times stand on both clocks.

    Raises ConfigError naming file and line.
    """
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield from _parse(line, f"{path}, line {number}")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text") from error


def _parse(line: str, where: str) -> Iterator[Record]:
    try:
        message = json.loads(line)
        kind = message["type"]
        if kind == "score":
            yield score_of(message)
        elif kind == "stream":
            yield StreamStatus(message["stream"], StreamState(message["state"]), _instant(message["at"]))
        elif kind == "snapshot":
            return
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where}: is no message of StreamWatch ({type(error).__name__}: {error})") from error


def score_of(message: Mapping[str, Any]) -> StreamScore:
    """A score message as the record that it was made from, as far as it tells. Raises KeyError, ValueError,
    TypeError."""
    reason = message["reason"]
    return StreamScore(
        stream=str(message["stream"]),
        seq=int(message["seq"]),
        at=_instant(message["captured_at"]),
        verdict=Verdict(message["verdict"]),
        reason=UnknownReason(reason) if reason else None,
        gate=message.get("gate"),
        score=_ratio(message["score"]),
        threshold=float(message["threshold"]),
        coverage=float(message["coverage"]),
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
        box=Box(*map(float, face["box"])),
        score=score,
        verdict=Verdict(face["verdict"]),
        reason=UnknownReason(reason) if reason else None,
        gate=face.get("gate"),
        coverage=float(face["coverage"]),
        quality=float(face["quality"]),
        confirmed=bool(face["confirmed"]),
        members=face.get("members", {}),
        logit=None if newest is None else float(newest),
    )


def _ratio(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= 1):
        raise ValueError(f"{number} is no score, 0 to 1")
    return number


def _instant(text: str) -> Instant:
    wall = datetime.fromisoformat(text).timestamp()
    return Instant(wall, wall)
