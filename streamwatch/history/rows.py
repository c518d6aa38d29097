"""Domain records to rows and back. Rows know wall times only: an `Instant` that comes back has its wall time on both
clocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    Instant,
    Review,
    Severity,
    StreamScore,
    StreamStatus,
)
from streamwatch.protocols import Delivery

Row = dict[str, Any]


def score_row(score: StreamScore) -> Row:
    worst = next((t for t in score.tracks if t.track == score.worst_track), None)
    return {
        "stream": score.stream,
        "at": score.at.wall,
        "minute": int(score.at.wall // 60),
        "span": 0,
        "verdict": score.verdict.value,
        "reason": score.reason.value if score.reason else None,
        "score": score.score,
        "low": score.score,
        "high": score.score,
        "threshold": score.threshold,
        "coverage": score.coverage,
        "samples": 1,
        "members": {name: round(value, 4) for name, value in worst.members.items()} if worst else {},
    }


def status_row(status: StreamStatus) -> Row:
    return {
        "stream": status.stream,
        "at": status.at.wall,
        "state": status.state.value,
        "reason": status.reason.value if status.reason else None,
        "detail": status.detail,
        "attempt": status.attempt,
    }


def alert_row(alert: Alert) -> Row:
    """Also the JSON of an alert in its events."""
    return {
        "id": alert.id,
        "kind": alert.kind.value,
        "rule": alert.rule,
        "stream": alert.stream,
        "severity": alert.severity.value,
        "opened_at": alert.opened_at.wall,
        "updated_at": alert.updated_at.wall,
        "resolved_at": alert.resolved_at.wall if alert.resolved_at else None,
        "value": alert.value,
        "peak": alert.peak,
        "threshold": alert.threshold,
        "summary": alert.summary,
        "track": alert.track,
        "silenced": alert.silenced,
        "labels": dict(alert.labels),
        "review": alert.review.value,
        "review_note": alert.review_note,
        "reviewed_by": alert.reviewed_by,
    }


def alert_of(row: Mapping[str, Any]) -> Alert:
    resolved = row["resolved_at"]
    return Alert(
        id=row["id"],
        kind=AlertKind(row["kind"]),
        rule=row["rule"],
        stream=row["stream"],
        severity=Severity(row["severity"]),
        opened_at=_instant(row["opened_at"]),
        updated_at=_instant(row["updated_at"]),
        resolved_at=None if resolved is None else _instant(resolved),
        value=row["value"],
        peak=row["peak"],
        threshold=row["threshold"],
        summary=row["summary"],
        track=row["track"],
        silenced=bool(row["silenced"]),
        labels=row["labels"],
        review=Review(row["review"]),
        review_note=row["review_note"],
        reviewed_by=row["reviewed_by"],
    )


def delivery_of(row: Mapping[str, Any]) -> Delivery:
    """From a row of the outbox joined with its alert event."""
    before = row["before"]
    event = AlertEvent(AlertPhase(row["phase"]), alert_of(before) if before else None, alert_of(row["after"]))
    return Delivery(
        id=row["id"],
        sink=row["sink"],
        event=event,
        sequence=row["sequence"],
        attempts=row["attempts"],
        next_attempt=row["next_attempt"],
        created_at=row["created_at"],
    )


def _instant(wall: float) -> Instant:
    return Instant(wall, wall)
