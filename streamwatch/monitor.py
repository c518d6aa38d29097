"""One stream's life: its connection, its newest frame, its verdict. One TaskGroup."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from streamwatch.config import IngestSettings, ScoringSettings, StreamSettings
from streamwatch.domain import (
    ClockSource,
    DropReason,
    Frame,
    FrameScores,
    Image,
    Instant,
    StreamInfo,
    StreamScore,
    StreamState,
    StreamStatus,
    Verdict,
)
from streamwatch.errors import DeviceError, Expired, Overloaded
from streamwatch.ingest.source import SourceMaker
from streamwatch.ingest.supervisor import Supervisor
from streamwatch.latest import Latest
from streamwatch.observer import Observer
from streamwatch.protocols import Engine, FindOptions, ScorePublisher
from streamwatch.scoring.follow import FaceFollower
from streamwatch.scoring.stream import Levelling, StreamScoring

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between looks at a stream from which nothing comes."""
_OVERLOAD = frozenset({DropReason.BUDGET, DropReason.REPLACED, DropReason.EXPIRED, DropReason.QUEUE_FULL})
"""Frames that the machine had no time for."""
_SILENT = frozenset({StreamState.PAUSED, StreamState.STOPPED})


class Ring(Protocol):
    """Where packets and frames are kept for a while, for evidence. Never blocks; called from the source's thread."""

    def packet(self, stream: str, packet: Any, template: Any) -> None: ...
    def frame(self, stream: str, frame: Frame) -> None: ...


class Pace(Protocol):
    """Shares the budget of analysed frames: told how each stream fares, it says how often to look."""

    def report(self, stream: str, suspicious: bool) -> None: ...
    def analysed(self, count: int = 1) -> None: ...
    def lost(self, count: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class MonitorServices:
    """What all monitors share."""

    engine: Engine
    publisher: ScorePublisher
    observer: Observer
    ring: Ring | None = None
    pace: Pace | None = None


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What holds for this stream: its own settings over the common ones. `deadline` is seconds."""

    stream: StreamSettings
    ingest: IngestSettings
    scoring: ScoringSettings
    threshold: float
    disagreement_p99: float | None
    deadline: float
    min_face: float
    detect_fps: float

    @property
    def sample_fps(self) -> float:
        return self.stream.sample_fps or self.ingest.sample_fps

    @property
    def find_options(self) -> FindOptions:
        return FindOptions(self.stream.max_faces, self.min_face, self.stream.roi, self.stream.ignore)


@dataclass(slots=True)
class MonitorCounters:
    """Since the monitor was made. `latencies` are seconds from capture to score, the newest ones; `quantisers` those of
    the newest sampled frames of this codec that told theirs."""

    decoded: int = 0
    sampled: int = 0
    scored_faces: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    reconnects: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    analysed_at: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    quantisers: deque[float] = field(default_factory=lambda: deque(maxlen=64))

    def measured_fps(self, now: float, span: float = 10.0) -> float:
        return sum(now - at <= span for at in self.analysed_at) / span

    def latency(self, quantile: float) -> float | None:
        if not self.latencies:
            return None
        ordered: Sequence[float] = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    @property
    def quantiser(self) -> float | None:
        """The median: a key picture is compressed less than those between."""
        known = self.quantisers.copy()  # the source's thread adds to it meanwhile
        return statistics.median(known) if known else None


class StreamMonitor:
    """Connects, samples, analyses, scores. Implements `protocols.Sink` for the source's thread.

    `run` returns once `stop` was called and everything has ended; cancelling it does the same. The other commands are
    synchronous and legal in every state.
    """

    def __init__(
        self,
        stream: str,
        settings: MonitorSettings,
        make_source: SourceMaker,
        services: MonitorServices,
        on_status: Callable[[StreamStatus], None] | None = None,
    ) -> None:
        self.stream = stream
        self.settings = settings
        self.info: StreamInfo | None = None
        self.counters = MonitorCounters()
        self.newest: FrameScores | None = None
        self.last_score: StreamScore | None = None
        self._services = services
        self._on_status = on_status
        self._loop = asyncio.get_running_loop()
        self._latest = Latest[Frame](self._loop, lambda count: self.dropped(DropReason.REPLACED, count))
        self._fps = settings.sample_fps
        self._degraded = self._failing = False
        self._scoring = StreamScoring(
            stream,
            settings.scoring,
            Levelling(settings.threshold, settings.disagreement_p99, self._fps),
        )
        self._follower = FaceFollower(settings.detect_fps)
        self._seq = 0
        self._published_at = time.monotonic()
        self.supervisor = Supervisor(
            stream, make_source, self, settings.ingest, self._status_changed, services.observer
        )
        if not settings.stream.enabled:
            self.supervisor.pause()

    def succeed(self, earlier: StreamMonitor) -> None:
        """Before `run`: goes on from a monitor of this stream that has ended. An open alert speaks of its faces by
        number."""
        self._seq = earlier._seq
        self._scoring.succeed(earlier._scoring)

    # --- commands ----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        self.supervisor.pause()

    def resume(self) -> None:
        self.supervisor.resume()

    def stop(self) -> None:
        self.supervisor.stop()

    @property
    def fps(self) -> float:
        """Analysed frames a second asked for now."""
        return self._fps

    def set_rate(self, fps: float) -> None:
        """Analysed frames a second from now on."""
        self._fps = fps
        self.supervisor.set_rate(fps)
        self._expect()

    def set_degraded(self, degraded: bool) -> None:
        """Says that the machine is overloaded and this stream is looked at less often than asked for."""
        if degraded != self._degraded:
            self._degraded = degraded
            self._status_changed(self.supervisor.status)

    @property
    def status(self) -> StreamStatus:
        status = self.supervisor.status
        return StreamStatus(
            status.stream,
            status.state,
            status.at,
            status.reason,
            status.detail,
            status.attempt,
            status.retry_at,
            self._degraded,
        )

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                analysing = group.create_task(self._analyse(), name=f"analyse {self.stream}")
                ticking = group.create_task(self._tick(), name=f"tick {self.stream}")
                await self.supervisor.run()
                self._latest.close()
                ticking.cancel()
                await analysing
        finally:
            self._latest.close()
            self.newest = None

    # --- Sink: called in the source's thread -------------------------------------------------------------------------

    def connected(self, info: StreamInfo) -> None:
        self._loop.call_soon_threadsafe(self._learn, info)

    def decoded(self, count: int = 1) -> None:
        self.counters.decoded += count
        self._services.observer.frames_decoded(self.stream, count)

    def offer(
        self,
        image: Image,
        captured_at: Instant,
        pts: float | None,
        clock: ClockSource,
        quantiser: float | None = None,
    ) -> None:
        self._seq += 1
        frame = Frame(self.stream, self._seq, captured_at, pts, image, clock, quantiser)
        self.counters.sampled += 1
        self._services.observer.frame_sampled(self.stream)
        self._services.observer.frame_received(self.stream, captured_at.wall, quantiser)
        if quantiser is not None:
            self.counters.quantisers.append(quantiser)
        self._latest.offer(frame)
        if self._services.ring is not None:
            self._services.ring.frame(self.stream, frame)

    def dropped(self, reason: DropReason, count: int = 1) -> None:
        self.counters.dropped[reason] += count
        self._services.observer.frames_dropped(self.stream, reason, count)
        # A recording that is read as fast as possible loses frames on the fastest machine.
        unpaced = not self.settings.stream.realtime
        if self._services.pace is not None and reason in _OVERLOAD and not unpaced:
            self._loop.call_soon_threadsafe(self._services.pace.lost, count)

    def packet(self, packet: Any, template: Any) -> None:
        if self._services.ring is not None:
            self._services.ring.packet(self.stream, packet, template)

    # --- in the loop -------------------------------------------------------------------------------------------------

    def _learn(self, info: StreamInfo) -> None:
        if self.info is not None and self.info.codec != info.codec:
            self.counters.quantisers.clear()
        self.info = info
        self._expect()
        self._services.publisher.status(self.status, info)

    def _expect(self) -> None:
        """A camera of one picture a second cannot give two: coverage is measured against what can come."""
        native = self.info.fps if self.info is not None else None
        self._scoring.set_rate(min(self._fps, native) if native else self._fps)

    def _status_changed(self, status: StreamStatus) -> None:
        if status.state is StreamState.RECONNECTING and status.retry_at is not None:
            self.counters.reconnects += 1
        if status.state in _SILENT:
            self.newest = self.last_score = None
        self._services.observer.stream_status(self.status)
        self._services.publisher.status(self.status, self.info)
        if self._on_status is not None:
            self._on_status(self.status)

    async def _analyse(self) -> None:
        while (frame := await self._latest.get()) is not None:
            if time.monotonic() - frame.captured_at.mono > self.settings.ingest.max_frame_age:
                self.dropped(DropReason.STALE)
                continue
            try:
                await self._score(frame)
                self._failing = False
            except Expired:
                self.dropped(DropReason.EXPIRED)
            except Overloaded:
                self.dropped(DropReason.QUEUE_FULL)
            except DeviceError as error:
                # The engine itself says that a device is gone; this stream goes on, UNKNOWN for want of scores.
                log.error("stream %s: frame %d was not scored: %s", self.stream, frame.seq, error)
                self.dropped(DropReason.EXPIRED)
            except Exception:
                # A fault of ours on one frame must not leave the stream unwatched: it goes on, and where the fault
                # stays, for want of scores it reads UNKNOWN and stale, which alarms.
                if not self._failing:  # once in a row: the log must not fill the disk
                    log.exception("stream %s: unexpected error on frame %d", self.stream, frame.seq)
                self._failing = True
                self.dropped(DropReason.FAILED)

    async def _score(self, frame: Frame) -> None:
        engine, observer = self._services.engine, self._services.observer
        deadline = time.monotonic() + self.settings.deadline
        begun = time.perf_counter()
        found = self._follower.follow(frame)
        if found is None:
            found = await engine.find(frame, self.settings.find_options, deadline)
            self._follower.detected(frame, found)
            begun = time.perf_counter()
        _, accepted = self._scoring.observe(frame, found)
        observer.stage("track", time.perf_counter() - begun)
        scored = await engine.score(frame, accepted, deadline) if accepted else ()
        if self.supervisor.status.state in _SILENT:
            return  # paused or stopped meanwhile: nothing of it may appear afterwards
        done = Instant(time.monotonic(), time.time())
        scores = FrameScores(frame, scored, done)
        begun = time.perf_counter()
        verdict = self._scoring.conclude(scores)
        observer.stage("window", time.perf_counter() - begun)
        self.newest = scores
        self.counters.scored_faces += len(scored)
        self.counters.latencies.append(done.mono - frame.captured_at.mono)
        self.counters.analysed_at.append(done.mono)
        observer.faces_scored(self.stream, len(scored))
        observer.capture_to_score(self.stream, done.mono - frame.captured_at.mono)
        if self._services.pace is not None:
            self._services.pace.analysed()
        self._publish(verdict, scores)

    async def _tick(self) -> None:
        """A stream that sends nothing still has a verdict: it turns UNKNOWN, and its age shows."""
        while True:
            await asyncio.sleep(TICK)
            quiet = time.monotonic() - self._published_at
            if quiet >= max(TICK, 1.5 / self._fps) and self.supervisor.status.state not in _SILENT:
                self._publish(self._scoring.tick(Instant(time.monotonic(), time.time())), None)

    def _publish(self, verdict: StreamScore, scores: FrameScores | None) -> None:
        self._published_at = time.monotonic()
        self.last_score = verdict
        self._services.observer.stream_scored(verdict)
        self._services.publisher.score(verdict, scores)
        if self._services.pace is not None:
            self._services.pace.report(self.stream, verdict.verdict in (Verdict.SUSPECT, Verdict.FAKE))


def drops(counters: MonitorCounters) -> Mapping[str, int]:
    # A copy, made in one step: the source's thread may count a reason for the first time meanwhile.
    return {reason.value: count for reason, count in dict(counters.dropped).items()}
