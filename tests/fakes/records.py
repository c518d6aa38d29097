"""Records for tests of the rules: plain values, made short."""

from __future__ import annotations

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

WALL = 1_700_000_000.0
"""Unix time of monotonic 0 in these records."""


def instant(mono: float) -> Instant:
    return Instant(mono, WALL + mono)


def track_score(score: float | None, track: int = 1, frame_logit: float | None = None) -> TrackScore:
    """A confirmed track; its newest frame says the same as its window unless told otherwise."""
    known = score is not None
    return TrackScore(
        track=track,
        box=Box(100.0, 100.0, 200.0, 220.0),
        score=score,
        verdict=Verdict.UNKNOWN if score is None else Verdict.FAKE if score >= 0.7 else Verdict.REAL,
        reason=None if known else UnknownReason.LOW_QUALITY,
        coverage=1.0,
        quality=1.0,
        confirmed=True,
        members={"TimmV2": score, "ViT": score} if score is not None else {},
        logit=frame_logit if frame_logit is not None else logit(score) if score is not None else None,
    )


def stream_score(
    mono: float,
    *scores: float | None,
    stream: str = "lobby",
    threshold: float = 0.7,
    reason: UnknownReason = UnknownReason.NO_FACE,
    scene_cut: bool = False,
) -> StreamScore:
    """One track for each score, numbered from 1; without a known one the verdict is UNKNOWN for `reason`."""
    tracks = tuple(track_score(s, i) for i, s in enumerate(scores, start=1))
    worst = max((t for t in tracks if t.score is not None), key=lambda t: t.score or 0.0, default=None)
    return StreamScore(
        stream=stream,
        seq=int(mono * 10),
        at=instant(mono),
        verdict=worst.verdict if worst else Verdict.UNKNOWN,
        reason=None if worst else reason,
        score=worst.score if worst else None,
        threshold=threshold,
        coverage=1.0 if worst else 0.0,
        tracks=tracks,
        worst_track=worst.track if worst else None,
        instant_logit=worst.logit if worst else None,
        scene_cut=scene_cut,
    )


def status(mono: float, state: StreamState, stream: str = "lobby") -> StreamStatus:
    return StreamStatus(stream, state, instant(mono))
