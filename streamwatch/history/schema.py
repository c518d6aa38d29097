"""The tables. Times are Unix seconds (wall). What is written here is created by the migrations; a test compares the
two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
# SQLite gives only an INTEGER primary key its numbers.
_Id = BigInteger().with_variant(Integer, "sqlite")

scores = Table(
    "scores",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("stream", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("minute", BigInteger, nullable=False),
    Column("span", Integer, nullable=False),  # seconds that the row stands for; 0: one frame
    Column("verdict", String(16), nullable=False),
    Column("reason", String(16)),
    Column("score", Double),
    Column("low", Double),
    Column("high", Double),
    Column("threshold", Double, nullable=False),
    Column("coverage", Double, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("members", JSON, nullable=False),
    Index("ix_scores_stream_at", "stream", "at"),
    Index("ix_scores_span_at", "span", "at"),
)

events = Table(
    "stream_events",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("stream", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(32)),
    Column("detail", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Index("ix_stream_events_stream_at", "stream", "at"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("rule", String(64), nullable=False),
    Column("stream", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("resolved_at", Double),
    Column("value", Double, nullable=False),
    Column("peak", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("summary", Text, nullable=False),
    Column("track", Integer),
    Column("silenced", Boolean, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("review", String(16), nullable=False),
    Column("review_note", Text, nullable=False),
    Column("reviewed_by", String(200), nullable=False),
    Index("ix_alerts_opened_at_id", "opened_at", "id"),
    Index("ix_alerts_resolved_at", "resolved_at"),
)

alert_events = Table(
    "alert_events",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("alert_id", String(64), ForeignKey("alerts.id", ondelete="CASCADE"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("at", Double, nullable=False),
    Column("before", JSON),
    Column("after", JSON, nullable=False),
    UniqueConstraint("alert_id", "sequence"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("sink", String(64), nullable=False),
    Column("alert_id", String(64), ForeignKey("alerts.id", ondelete="CASCADE"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("state", String(16), nullable=False),  # pending, delivered, dead
    Column("attempts", Integer, nullable=False),
    Column("next_attempt", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("error", Text, nullable=False),
    UniqueConstraint("sink", "alert_id", "sequence"),
    Index("ix_outbox_sink_state", "sink", "state"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("alert_id", String(64), ForeignKey("alerts.id", ondelete="CASCADE"), nullable=False),
    Column("at", Double, nullable=False),
    Column("review", String(16), nullable=False),
    Column("note", Text, nullable=False),
    Column("by", String(200), nullable=False),
    Index("ix_reviews_alert_id", "alert_id"),
)
