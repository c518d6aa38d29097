"""Monitors on the real camera with the real engine and the bundled weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from streamwatch.camera import Camera
from streamwatch.config import IngestSettings, ScoringSettings, StreamSettings
from streamwatch.demo.clip import encode
from streamwatch.demo.finder import bundled_finder
from streamwatch.demo.scene import Scene, load_portraits
from streamwatch.domain import (
    AlertEvent,
    DropReason,
    Face,
    FaceScore,
    Frame,
    FrameScores,
    StreamInfo,
    StreamScore,
    StreamState,
    StreamStatus,
    Verdict,
)
from streamwatch.errors import Conflict, NotFound
from streamwatch.fleet import Fleet
from streamwatch.inference.engine import EngineSettings, LocalEngine
from streamwatch.ingest.source import SourceContext, make_source
from streamwatch.monitor import MonitorServices, MonitorSettings, StreamMonitor
from streamwatch.observer import NullObserver
from streamwatch.protocols import Engine, FindOptions

FAST = IngestSettings(backoff_initial=0.1, backoff_cap=0.3, open_timeout=3.0, read_timeout=2.0, sample_fps=4.0)


@dataclass
class Page:
    """Keeps what the monitors publish."""

    scores: list[tuple[StreamScore, FrameScores | None]] = field(default_factory=list)
    statuses: list[StreamStatus] = field(default_factory=list)

    def score(self, score: StreamScore, scores: FrameScores | None) -> None:
        self.scores.append((score, scores))

    def status(self, status: StreamStatus, info: StreamInfo | None) -> None:
        self.statuses.append(status)

    def alert(self, event: AlertEvent) -> None:
        raise AssertionError("monitors raise no alerts")

    def states(self, stream: str) -> list[StreamState]:
        return [status.state for status in self.statuses if status.stream == stream]

    def with_faces(self, stream: str) -> list[StreamScore]:
        return [score for score, scores in self.scores if score.stream == stream and scores and scores.faces]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    scene = Scene(load_portraits(bundled_finder()), seed=1)
    path = tmp_path_factory.mktemp("clip") / "people.mp4"
    encode((scene.frame(index / 25) for index in range(50)), path)
    yield path


@pytest.fixture
async def services() -> AsyncIterator[MonitorServices]:
    async with LocalEngine(EngineSettings(), NullObserver()) as engine:
        yield MonitorServices(engine, Page(), NullObserver())


def maker(services: MonitorServices) -> Callable[[str, StreamSettings], StreamMonitor]:
    context = SourceContext()

    def make(stream: str, settings: StreamSettings) -> StreamMonitor:
        wanted = MonitorSettings(settings, FAST, ScoringSettings(), 0.7, None, 5.0, 24.0, 5.0)
        return StreamMonitor(stream, wanted, lambda: make_source(stream, settings, FAST, context), services)

    return make


async def nothing(stream: str) -> None:
    return


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_camera_is_scored_lost_and_found_again(clip: Path, services: MonitorServices) -> None:
    page = services.publisher
    assert isinstance(page, Page)
    async with Camera([clip]) as camera, Fleet(maker(services), nothing) as fleet:
        port = camera.port
        monitor = await fleet.add("lobby", StreamSettings.model_validate({"url": camera.url}))
        await until(lambda: len(page.with_faces("lobby")) >= 3)
        assert monitor.status.state is StreamState.LIVE
        assert monitor.info is not None
        assert (monitor.info.width, monitor.info.height) == (1280, 720)
        assert monitor.newest is not None

        await camera.stop()
        await until(lambda: monitor.status.state is StreamState.RECONNECTING)
        seen, last = len(page.with_faces("lobby")), page.with_faces("lobby")[-1].seq
        async with Camera([clip], port=port):
            await until(lambda: monitor.status.state is StreamState.LIVE)
            await until(lambda: len(page.with_faces("lobby")) > seen + 1)
            assert page.with_faces("lobby")[-1].seq > last
    assert page.states("lobby")[-1] is StreamState.STOPPED


async def test_one_stream_changes_and_the_others_go_on(clip: Path, services: MonitorServices) -> None:
    page = services.publisher
    assert isinstance(page, Page)
    async with Camera([clip]) as camera, Fleet(maker(services), nothing) as fleet:
        url = {"url": camera.url}
        await fleet.reconcile({"a": StreamSettings.model_validate(url), "b": StreamSettings.model_validate(url)})
        await until(lambda: page.with_faces("a") and page.with_faces("b"))
        untouched, statuses = fleet["a"], len(page.states("a"))
        numbers = {track.track for score in page.with_faces("b") for track in score.tracks}
        difference = await fleet.reconcile(
            {
                "a": StreamSettings.model_validate(url),
                "b": StreamSettings.model_validate({**url, "sample_fps": 1.0}),
                "c": StreamSettings.model_validate({**url, "enabled": False}),
            }
        )
        assert (difference.added, difference.changed, difference.removed) == (("c",), ("b",), ())
        assert fleet["a"] is untouched
        assert fleet["b"].fps == 1.0
        seen = len(page.with_faces("b"))
        await until(lambda: len(page.with_faces("b")) > seen)
        later = {track.track for track in page.with_faces("b")[-1].tracks}
        assert min(later) > max(numbers), "no face gets a number that another has had"
        await until(lambda: fleet["c"].status.state is StreamState.PAUSED)
        count = len(page.with_faces("a"))
        await until(lambda: len(page.with_faces("a")) > count)
        assert page.states("a")[statuses:] == []

        await fleet.change("a", StreamSettings.model_validate({**url, "enabled": False}))
        await until(lambda: untouched.status.state is StreamState.PAUSED)
        assert fleet["a"] is untouched  # pausing needs no new monitor
        with pytest.raises(Conflict):
            await fleet.add("a", StreamSettings.model_validate(url))
        await fleet.remove("a")
        assert "a" not in fleet
        with pytest.raises(NotFound):
            await fleet.remove("a")


async def test_a_dead_camera_is_retried_with_its_reason(services: MonitorServices) -> None:
    page = services.publisher
    assert isinstance(page, Page)
    async with Fleet(maker(services), nothing) as fleet:
        await fleet.add("dead", StreamSettings.model_validate({"url": "rtsp://user:hunter2@127.0.0.1:9/none"}))
        await until(lambda: page.states("dead").count(StreamState.RECONNECTING) >= 3)
        said = [status for status in page.statuses if status.reason is not None]
        assert said[0].reason is not None and said[0].reason.value == "connection_failed"
        assert not any("hunter2" in status.detail for status in page.statuses)
        assert fleet["dead"].counters.reconnects >= 2


class Faulty:
    """The real engine with a fault of ours in it, as long as `broken`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.broken = True

    async def find(self, frame: Frame, options: FindOptions, deadline: float) -> tuple[Face, ...]:
        if self.broken:
            raise ValueError("nobody thought of this")
        return await self._engine.find(frame, options, deadline)

    async def score(self, frame: Frame, faces: Sequence[Face], deadline: float) -> tuple[FaceScore, ...]:
        return await self._engine.score(frame, faces, deadline)


async def test_a_fault_of_ours_on_a_frame_leaves_no_stream_unwatched(
    clip: Path, services: MonitorServices, caplog: pytest.LogCaptureFixture
) -> None:
    page, engine = services.publisher, Faulty(services.engine)
    assert isinstance(page, Page)
    make = maker(replace(services, engine=engine))
    async with Camera([clip]) as camera, Fleet(make, nothing) as fleet:
        await fleet.add("a", StreamSettings.model_validate({"url": camera.url}))
        await until(lambda: fleet["a"].counters.dropped[DropReason.FAILED] >= 3)
        assert caplog.text.count("unexpected error on frame") == 1  # not once a frame
        await until(lambda: [score for score, _ in page.scores if score.verdict is Verdict.UNKNOWN])
        engine.broken = False
        await until(lambda: page.with_faces("a"))
