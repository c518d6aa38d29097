"""From the nouns of domain.py to the wire: pure functions."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from streamwatch.domain import (
    Alert,
    AlertEvent,
    Instant,
    StreamInfo,
    StreamScore,
    StreamState,
    StreamStatus,
    TrackScore,
    Verdict,
)
from streamwatch.server.wire import (
    VERSION,
    AlertMessage,
    AlertRecord,
    ErrorMessage,
    FaceRecord,
    HeartbeatMessage,
    InfoRecord,
    RemovedMessage,
    ScoreMessage,
    StreamMessage,
)


def iso(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ratio(value: float | None) -> float | None:
    """Four digits; None for what is not a finite number, which JSON cannot say."""
    return round(value, 4) if value is not None and math.isfinite(value) else None


def score_message(epoch: str, seq: int, score: StreamScore, state: StreamState, now: Instant) -> ScoreMessage:
    known = score.verdict is not Verdict.UNKNOWN
    return {
        "v": VERSION,
        "epoch": epoch,
        "seq": seq,
        "type": "score",
        "stream": score.stream,
        "captured_at": iso(score.at.wall),
        "age_ms": age_ms(score.at, now),
        "state": state.value,
        "verdict": score.verdict.value,
        "score": ratio(score.score) if known else None,
        "threshold": round(score.threshold, 4),
        "reason": score.reason.value if score.reason else None,
        "gate": score.gate,
        "coverage": round(score.coverage, 4),
        "frame": list(score.frame_size) if score.frame_size else None,
        "worst": score.worst_track,
        "faces": [face_record(track) for track in score.tracks if track.visible],
    }


def age_ms(at: Instant, now: Instant) -> int:
    return max(0, round((now.mono - at.mono) * 1000))


def face_record(track: TrackScore) -> FaceRecord:
    return {
        "track": track.track,
        "box": [round(float(side), 1) for side in track.box],
        "score": ratio(track.score),
        "verdict": track.verdict.value,
        "reason": track.reason.value if track.reason else None,
        "gate": track.gate,
        "quality": round(track.quality, 4),
        "coverage": round(track.coverage, 4),
        "confirmed": track.confirmed,
        "members": {name: round(value, 4) for name, value in track.members.items()},
        "logit": None if track.logit is None else round(track.logit, 3),
    }


def stream_message(epoch: str, seq: int, name: str, status: StreamStatus, info: StreamInfo | None) -> StreamMessage:
    return {
        "v": VERSION,
        "epoch": epoch,
        "seq": seq,
        "type": "stream",
        "stream": status.stream,
        "name": name,
        "at": iso(status.at.wall),
        "state": status.state.value,
        "reason": status.reason.value if status.reason else None,
        "detail": status.detail,
        "attempt": status.attempt,
        "retry_at": iso(status.retry_at.wall) if status.retry_at else None,
        "degraded": status.degraded,
        "info": info_record(info) if info else None,
    }


def info_record(info: StreamInfo) -> InfoRecord:
    return {
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "fps": round(info.fps, 3) if info.fps else None,
        "transport": info.transport,
        "decoder": info.decoder,
    }


def removed_message(epoch: str, seq: int, stream: str, at: Instant) -> RemovedMessage:
    return {"v": VERSION, "epoch": epoch, "seq": seq, "type": "removed", "stream": stream, "at": iso(at.wall)}


def alert_record(alert: Alert) -> AlertRecord:
    return {
        "id": alert.id,
        "kind": alert.kind.value,
        "rule": alert.rule,
        "stream": alert.stream,
        "severity": alert.severity.value,
        "active": alert.active,
        "opened_at": iso(alert.opened_at.wall),
        "updated_at": iso(alert.updated_at.wall),
        "resolved_at": iso(alert.resolved_at.wall) if alert.resolved_at else None,
        "value": ratio(alert.value),
        "peak": ratio(alert.peak),
        "threshold": ratio(alert.threshold),
        "summary": alert.summary,
        "track": alert.track,
        "review": alert.review.value,
        "review_note": alert.review_note,
        "reviewed_by": alert.reviewed_by,
        "silenced": alert.silenced,
        "labels": dict(alert.labels),
    }


def alert_message(epoch: str, seq: int, event: AlertEvent) -> AlertMessage:
    return {
        "v": VERSION,
        "epoch": epoch,
        "seq": seq,
        "type": "alert",
        "stream": event.after.stream,
        "phase": event.phase.value,
        "before": alert_record(event.before) if event.before else None,
        "after": alert_record(event.after),
    }


def heartbeat_message(epoch: str, now: Instant) -> HeartbeatMessage:
    return {"v": VERSION, "epoch": epoch, "type": "heartbeat", "at": iso(now.wall)}


def error_message(epoch: str, code: str, message: str) -> ErrorMessage:
    return {"v": VERSION, "epoch": epoch, "type": "error", "code": code, "message": message}
