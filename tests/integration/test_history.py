"""The history on a real SQLite file: batches, thinning out, queries, the outbox, a database that goes away."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from streamwatch.config import HistorySettings
from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    Instant,
    Review,
    Severity,
    StreamState,
)
from streamwatch.errors import ConfigError, NotFound, StorageError
from streamwatch.history.rows import score_row
from streamwatch.history.store import History
from streamwatch.history.upkeep import Upkeep
from streamwatch.observer import NullObserver, ReviewCounts
from streamwatch.reviews import count_reviews
from tests.fakes.records import WALL, status, stream_score


def settings(path: Path, **changes: object) -> HistorySettings:
    url = SecretStr(f"sqlite+aiosqlite:///{path}")
    # The records' clock stands still in 2023: nothing of it is too old.
    ages = {"keep_scores_days": 1e6, "downsample_after_hours": 1e6}
    return HistorySettings.model_validate({"url": url, **ages, **changes})


@pytest.fixture
async def history(tmp_path: Path):  # type: ignore[no-untyped-def]
    store = History(settings(tmp_path / "deep" / "history.db"))
    await store.open()
    yield store
    await store.close()


def opened(name: str = "a1", at: float = 0.0, stream: str = "lobby") -> AlertEvent:
    alert = Alert(
        id=name,
        kind=AlertKind.DEEPFAKE,
        rule="deepfake",
        stream=stream,
        severity=Severity.CRITICAL,
        opened_at=Instant(WALL + at, WALL + at),
        updated_at=Instant(WALL + at, WALL + at),
        value=0.9,
        peak=0.9,
        threshold=0.7,
        summary="a face",
        track=3,
        labels={"tracks": "3"},
    )
    return AlertEvent(AlertPhase.OPENED, None, alert)


def resolved(event: AlertEvent, at: float) -> AlertEvent:
    moment = Instant(WALL + at, WALL + at)
    return AlertEvent(
        AlertPhase.RESOLVED, event.after, replace(event.after, updated_at=moment, resolved_at=moment, value=0.1)
    )


@dataclass(frozen=True)
class Wanted:
    stream: str | None = None
    active: bool | None = None
    kind: AlertKind | None = None
    review: Review | None = None
    since: float | None = None
    until: float | None = None
    before: tuple[float, str] | None = None
    limit: int = 50


async def test_scores_come_back_in_order(history: History) -> None:
    for t in (0, 1, 2):
        history.score(stream_score(t, 0.1 * t))
    history.score(stream_score(1, 0.9, stream="hall"))
    history.status(status(0, StreamState.LIVE))
    await history.flush()
    points = await history.scores.points("lobby", WALL, WALL + 2, limit=10)
    assert [(p.at - WALL, p.score) for p in points] == [(0, 0.0), (1, 0.1)]
    assert points[1].members == {"TimmV2": 0.1, "ViT": 0.1}
    newest = await history.scores.points("lobby", WALL, WALL + 10, limit=1)
    assert [p.at - WALL for p in newest] == [2]


async def test_a_row_that_the_database_refuses_is_lost_alone(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    for t, stream in enumerate(("lobby", "no text: \udcff", "lobby")):
        history.score(stream_score(t, 0.1 * t, stream=stream))
    await history.flush()
    assert [p.at - WALL for p in await history.scores.points("lobby", WALL, WALL + 10, limit=9)] == [0, 2]
    assert (history.statistics.written, history.statistics.lost, history.statistics.waiting) == (2, 1, 0)
    assert "a row of scores is lost" in caplog.text


async def test_thinning_keeps_extremes_and_the_worst_verdict(history: History) -> None:
    start = -(WALL % 60)  # the beginning of a minute
    for t in range(120):
        history.score(stream_score(start + t, 0.9 if t == 30 else 0.1))
    await history.flush()
    assert await history.upkeep.thin(WALL + start + 60) == 60
    points = await history.scores.points("lobby", 0, WALL + 1000, limit=1000)
    assert len(points) == 61
    first = points[0]
    assert (first.low, first.high, first.verdict) == (0.1, 0.9, "fake")
    assert first.score == pytest.approx((59 * 0.1 + 0.9) / 60)
    assert await history.upkeep.thin(WALL + start + 60) == 0


@pytest.mark.parametrize("piece", [1, 7, 70, 150, 10_000])
async def test_thinning_in_pieces_is_thinning(history: History, piece: int) -> None:
    """Whatever a piece is, each stream has one row for each minute, of all that was in it."""
    start = -(WALL % 60)
    for t in range(180):
        for stream, score in (("lobby", 0.1), ("hall", 0.5), ("gate", 0.9)):
            if stream != "hall" or t < 60:
                history.score(stream_score(start + t, score if t % 60 else 0.3, stream=stream))
    await history.flush()
    upkeep = Upkeep(history.scores._database, piece)
    assert await upkeep.thin(WALL + start + 150) == 2 * 120 + 60
    for stream, minutes, score in (("lobby", 2, 0.1), ("hall", 1, 0.5), ("gate", 2, 0.9)):
        points = await history.scores.points(stream, 0, WALL + start + 120, limit=1000)
        assert [p.at - WALL - start for p in points] == [60 * m for m in range(minutes)]
        assert [(p.low, p.high) for p in points] == [(min(score, 0.3), max(score, 0.3))] * minutes
        assert [p.score for p in points] == [pytest.approx((59 * score + 0.3) / 60)] * minutes
    assert len(await history.scores.points("lobby", 0, WALL + 1000, limit=1000)) == 2 + 60


async def test_what_is_old_is_forgotten_in_pieces(history: History) -> None:
    """Frames, what was thinned out, stream events and finished deliveries; not the alerts."""
    start = -(WALL % 60)
    for t in range(150):
        history.score(stream_score(start + t, 0.1))
    for t in (0, 10, 149):
        history.status(status(start + t, StreamState.LIVE))
    await history.flush()
    for name in ("a1", "a2"):
        await history.alerts.record(opened(name), ["hook"])
    for delivery, at in zip(await history.alerts.due("hook", time.time(), 9), (0, 149), strict=True):
        await history.alerts.delivered(delivery, WALL + start + at)
    upkeep = Upkeep(history.scores._database, 7)
    await upkeep.thin(WALL + start + 60)
    await upkeep.forget(WALL + start + 100)
    assert [p.at - WALL - start for p in await history.scores.points("lobby", 0, WALL + 1e3, 999)] == [*range(100, 150)]
    async with history.scores._database.reading() as connection:
        assert list((await connection.execute(text("SELECT at FROM stream_events"))).scalars()) == [WALL + start + 149]
    assert [len(await history.alerts.deliveries(name)) for name in ("a1", "a2")] == [0, 1]
    assert len(await history.alerts.active()) == 2


@pytest.mark.slow
async def test_a_long_thinning_keeps_no_writer_waiting(tmp_path: Path) -> None:
    """Two hundred thousand frames of a hundred streams; meanwhile scores and alerts are written."""
    store = History(settings(tmp_path / "history.db"))
    await store.open()
    rows = [
        score_row(stream_score(t / 10, 0.1, stream=f"cam{c}")) for t in range(2000) for c in range(100)
    ]  # 200 s at 10 frames a second
    for start in range(0, len(rows), 50_000):
        await store.scores.write({"scores": rows[start : start + 50_000]})
    thinning = asyncio.create_task(store.upkeep.thin(WALL + 1000))
    waits: list[float] = []
    while not thinning.done():
        began = time.monotonic()
        await store.alerts.record(opened(f"a{len(waits)}"), ["hook"])
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.05)
    assert await thinning == len(rows)
    await store.close()
    print(f"an alert is recorded within {max(waits):.2f} s at most while {len(rows)} frames are thinned out")
    assert max(waits) < 1.0


async def test_upkeep_that_fails_is_no_database_that_is_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done the next time, and rows are written all the while."""
    monkeypatch.setattr("streamwatch.history.store.UPKEEP_EVERY", 0.2)
    told: list[str | None] = []
    store = History(
        settings(tmp_path / "history.db", downsample_after_hours=1), report=lambda kind, name, what: told.append(what)
    )
    await store.open()
    async with store.scores._database.writing() as connection:
        await connection.execute(text("ALTER TABLE outbox RENAME TO away"))
    store.score(stream_score(0, 0.1))
    await store.flush()
    task = asyncio.create_task(store.run())
    async with asyncio.timeout(20):
        while "old scores have to wait" not in caplog.text:
            await asyncio.sleep(0.05)
        store.score(stream_score(300, 0.2))
        while store.statistics.written < 2:
            await asyncio.sleep(0.05)
        assert not store.statistics.down
        async with store.scores._database.writing() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO outbox"))
        caplog.clear()
        while len([p for p in await store.scores.points("lobby", 0, WALL + 1e3, 9) if p.low is not None]) < 2:
            await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
    assert set(told) == {None}


async def test_the_outbox_keeps_the_order_of_each_alert(history: History) -> None:
    store = history.alerts
    first, second = opened("a1"), opened("a2", 1)
    await store.record(first, ["hook", "log"])
    await store.record(resolved(first, 5), ["hook", "log"])
    await store.record(second, ["hook"])
    now = time.time()
    due = await store.due("hook", now, 10)
    assert [(d.event.after.id, d.event.phase) for d in due] == [("a1", AlertPhase.OPENED), ("a2", AlertPhase.OPENED)]
    await store.failed(due[0], "refused", next_attempt=now + 60)
    await store.delivered(due[1], now)
    assert await store.due("hook", now, 10) == []  # a1's resolution waits behind its opening
    (again,) = await store.due("hook", now + 61, 10)
    assert (again.attempts, again.event.phase) == (1, AlertPhase.OPENED)
    await store.failed(again, "gone", next_attempt=None)
    (last,) = await store.due("hook", now + 61, 10)
    assert (last.event.phase, last.event.before) == (AlertPhase.RESOLVED, replace(first.after))
    states = [(d.sink, d.state) for d in await store.deliveries("a1")]
    assert states == [("hook", "dead"), ("hook", "pending"), ("log", "pending"), ("log", "pending")]


async def test_alerts_by_page_and_filter(history: History) -> None:
    for i in range(7):
        event = opened(f"a{i}", at=i // 2, stream="lobby" if i % 2 else "hall")
        await history.alerts.record(event, [])
        if i < 3:
            await history.alerts.record(resolved(event, 10 + i), [])
    seen: list[str] = []
    before = None
    while page := await history.alerts.query(Wanted(before=before, limit=3)):
        seen += [a.id for a in page]
        before = (page[-1].opened_at.wall, page[-1].id)
    assert seen == ["a6", "a5", "a4", "a3", "a2", "a1", "a0"]
    assert [a.id for a in await history.alerts.query(Wanted(active=False, stream="hall"))] == ["a2", "a0"]
    assert [a.id for a in await history.alerts.active()] == ["a3", "a4", "a5", "a6"]
    assert await history.alerts.query(Wanted(kind=AlertKind.CANARY)) == []


async def test_a_review_survives_what_the_rules_say_later(history: History) -> None:
    event = opened()
    await history.alerts.record(event, [])
    reviewed = await history.alerts.review("a1", Review.FALSE_ALARM, "a film", "ada")
    assert (reviewed.review, reviewed.review_note, reviewed.reviewed_by) == (Review.FALSE_ALARM, "a film", "ada")
    await history.alerts.record(resolved(event, 5), [])
    after = await history.alerts.alert("a1")
    assert (after.review, after.active) == (Review.FALSE_ALARM, False)
    assert await history.alerts.review_counts(0) == {"lobby": {Review.FALSE_ALARM: 1}}
    with pytest.raises(NotFound, match="no alert 'nope'"):
        await history.alerts.review("nope", Review.CONFIRMED, "", "ada")


async def test_reviews_are_counted_anew_for_the_observer(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of faces alone, of the last 30 days, each under its newest review."""
    monkeypatch.setattr("streamwatch.reviews.EVERY", 0.02)
    told: list[ReviewCounts] = []

    class Listener(NullObserver):
        def reviews(self, counts: ReviewCounts) -> None:
            told.append(counts)

    async def now(counts: ReviewCounts) -> None:
        async with asyncio.timeout(10):
            while not told or told[-1] != counts:
                await asyncio.sleep(0.02)

    fresh = time.time() - WALL
    down = replace(opened("down", fresh).after, kind=AlertKind.STREAM_DOWN)
    old = opened("old", fresh - 31 * 86_400.0)
    for event in (opened("a1", fresh), old, replace(opened(), after=down)):
        await history.alerts.record(event, [])
        await history.alerts.review(event.after.id, Review.FALSE_ALARM, "", "ada")
    counting = asyncio.create_task(count_reviews(history.alerts, Listener()))
    await now({"lobby": {Review.FALSE_ALARM: 1}})
    await history.alerts.review("a1", Review.CONFIRMED, "", "ada")
    await now({"lobby": {Review.CONFIRMED: 1}})
    counting.cancel()


async def test_the_database_goes_away_and_comes_back(tmp_path: Path) -> None:
    """Rows wait, up to the bound; the oldest are lost, counted and told; then everything goes on by itself."""
    (tmp_path / "blocked").write_text("a file where the directory should be")
    with pytest.raises(StorageError, match="cannot be made"):
        History(settings(tmp_path / "blocked" / "history.db"))

    told: list[str | None] = []
    store = History(settings(tmp_path / "history.db", buffer=100), report=lambda kind, name, what: told.append(what))
    await store.open()
    database = store.scores._database
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE scores RENAME TO away"))
    for t in range(150):
        store.score(stream_score(t, 0.1))
    assert not await store._try()
    assert store.statistics.lost == 50
    assert (store.statistics.waiting, store.statistics.down) == (100, True)
    assert told[-1] is not None and "scores" in told[-1]
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO scores"))
    assert await store._try()
    assert (store.statistics.waiting, store.statistics.written) == (0, 100)
    assert told[-1:] == [None]
    points = await store.scores.points("lobby", 0, WALL + 1000, limit=1000)
    assert [p.at - WALL for p in points] == list(range(50, 150))
    await store.close()


async def test_a_database_that_comes_late_is_opened_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_text("this is no database, yet")
    store = History(settings(path))
    with pytest.raises(StorageError, match="not a database"):
        await store.open()
    store.score(stream_score(0, 0.5))
    assert not await store._try()
    assert not store.statistics.open
    await store.close()
    path.unlink()
    assert await store._try()
    await store.ready()
    assert (store.statistics.open, store.statistics.written) == (True, 1)
    await store.close()


async def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    store = History(settings(tmp_path / "history.db"))
    await store.open()
    task = asyncio.create_task(store.run())
    await asyncio.sleep(0)
    store.score(stream_score(0, 0.5))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(await store.scores.points("lobby", 0, WALL + 10, limit=10)) == 1
    await store.close()


async def test_the_migrations_make_the_tables_of_the_schema(history: History) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import Connection

    from streamwatch.history.schema import metadata

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with history.scores._database.reading() as connection:
        assert await connection.run_sync(differences) == []


def test_a_url_that_is_none() -> None:
    for url in ("nonsense", "mysql://user:secret@host/db", ""):
        with pytest.raises(ConfigError, match=r"^history\.url") as caught:
            History(HistorySettings(url=SecretStr(url)))
        assert "secret" not in str(caught.value)
