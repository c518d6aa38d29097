"""The proof of each alert: a clip, the worst and a typical face, every score of the window, who judged and with what;
hashed, chained from alert to alert, and signed. `vault` has the directory, `chain` the chain, `verify` the check,
`recent` what is kept before an alert.

Whatever is wrong with the directory, alerts go out: without evidence, and with an alert `storage` that says so. A chain
that does not hold is never continued.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streamwatch.alerts.bundle import Bundle
from streamwatch.alerts.recent import Recent, SeenFace
from streamwatch.alerts.vault import Vault, bundles_of
from streamwatch.config import EvidenceSettings
from streamwatch.domain import Alert, AlertEvent, AlertKind, AlertPhase, FrameScores, Instant, StreamScore
from streamwatch.errors import EvidenceInvalid, StorageError, StreamWatchError
from streamwatch.observer import NullObserver, Observer
from streamwatch.protocols import Clip, ClipInfo, ClipSource, Report

log = logging.getLogger(__name__)

CLOCK_LEAP = 3600.0
"""Seconds by which the wall clock may run ahead of the time that has passed since the start."""
MAX_PENDING = 32
"""Bundles in the making, each with its clip in memory; a further alert goes without, which is told."""
UPKEEP_EVERY = 3600.0
AGAIN_AFTER = 60.0
"""Seconds until a directory that has failed is tried again."""
LEAVE_WITHIN = 1.0
"""Seconds at the end for what an earlier run left: the next one takes up the rest."""


@dataclass(frozen=True, slots=True)
class EvidenceOptions:
    """What evidence needs to know of the service. `identity` says who judged a stream: versions, weights,
    configuration, clocks. `pictures`: whether a stream's pictures may be stored at all."""

    identity: Callable[[str], Mapping[str, Any]]
    pictures: Callable[[str], bool] = lambda stream: True


@dataclass(frozen=True, slots=True)
class _Pending:
    """A bundle in the making, and what held when its alert opened. `led`: the scores up to then."""

    alert: Alert
    pictures: bool
    identity: dict[str, Any]
    led: list[dict[str, Any]]


class Evidence:
    """`observe`, `submit` and `interrupted` are for the event loop and never block; `run` writes until cancelled, and
    lets go of the directory then."""

    def __init__(
        self,
        settings: EvidenceSettings,
        options: EvidenceOptions,
        clips: ClipSource | None = None,
        observer: Observer | None = None,
        report: Report | None = None,
    ) -> None:
        """Raises ConfigError for what the settings say wrongly, ServerError where another process holds the directory.
        Whatever else is wrong with it `run` reports, and tries again."""
        self._settings = settings
        self._options = options
        self._clips = clips
        self._observer = observer or NullObserver()
        self._report = report or (lambda kind, name, problem: None)
        self._recent = Recent(settings.pre_roll, settings.post_roll)
        self._began = Instant(time.monotonic(), time.time())
        self._tasks: set[asyncio.Task[None]] = set()
        self._earlier: deque[_Pending] = deque()
        self._stirred = asyncio.Event()
        self._turn = asyncio.Lock()
        self._vault: Vault | None = None
        self._problem: str | None = None
        """what the directory failed of the last time"""
        try:
            self._open()
        except (StorageError, EvidenceInvalid) as error:
            self._say(str(error))

    def observe(self, score: StreamScore, scores: FrameScores | None) -> None:
        self._recent.observe(score, scores, self._pictures(score.stream))

    def forget(self, stream: str) -> None:
        self._recent.forget(stream)

    def submit(self, event: AlertEvent) -> None:
        """Starts a bundle for an alert of a face that opens, and another (`ALERT+TRACK`, or `ALERT+TRACK-2` where an
        earlier run took that name: each run numbers the faces anew) for each face that joins."""
        if event.after.kind is not AlertKind.DEEPFAKE or event.phase is AlertPhase.RESOLVED:
            return
        if event.phase is AlertPhase.OPENED:
            self._start(event.after)
            return
        known = set(_tracks(event.before)) if event.before is not None else set()
        for track in _tracks(event.after):
            if track not in known:
                labels = {**event.after.labels, "tracks": str(track), "supplements": event.after.id}
                name = f"{event.after.id}+{track}"
                self._start(replace(event.after, id=name, track=track, opened_at=event.after.updated_at, labels=labels))

    def interrupted(self, alert: Alert) -> None:
        """An alert of an earlier run, which may have ended before its bundle was sealed: then what little is known of
        it is sealed once the directory is there, so that the chain names every alert. Nothing that this run sees goes
        in: its tracks are other people."""
        if alert.kind is AlertKind.DEEPFAKE and not (self._vault is not None and self._vault.known(alert.id)):
            self._earlier.append(self._pending(replace(alert, labels={**alert.labels, "interrupted": "true"}), []))
            self._stirred.set()

    def _start(self, alert: Alert) -> None:
        if len(self._tasks) >= MAX_PENDING:
            self._lose(alert.id, "too many alerts at once")
            return
        led = self._recent.led_to(alert.stream, alert.opened_at.wall)
        task = asyncio.create_task(self._gather(self._pending(alert, led)), name=f"evidence {alert.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pending(self, alert: Alert, led: list[dict[str, Any]]) -> _Pending:
        # Asked now: when the service ends, the stream and what it allows are gone before the last bundle is sealed.
        return _Pending(alert, self._pictures(alert.stream), dict(self._options.identity(alert.stream)), led)

    def directories(self, alert: str) -> list[Path]:
        """Where an alert's bundle lies, once it is sealed, and those of the faces that joined. Raises StorageError."""
        return bundles_of(self._settings.directory, alert)

    async def run(self) -> None:
        """Removes what is too old or too much, once an hour, tries a directory that has failed again, and seals what
        an earlier run left; at the end seals at once what was waiting for its post-roll."""
        due = 0.0
        try:
            while True:
                if self._problem is not None or time.monotonic() >= due:
                    await _to_the_end(self._upkeep())
                    due = time.monotonic() + UPKEEP_EVERY
                self._stirred.clear()
                await self._seal_earlier()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_AFTER):
                        await self._stirred.wait()
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._seal_earlier(LEAVE_WITHIN)
            self.close()

    def close(self) -> None:
        """Lets go of the directory. `run` does so at its end."""
        if self._vault is not None:
            self._vault.close()
            self._vault = None

    def _open(self) -> Vault:
        """Blocking. Raises StreamWatchError."""
        if self._vault is None:
            self._vault = Vault(self._settings)
        return self._vault

    async def _upkeep(self) -> None:
        await self._guarded(lambda: asyncio.to_thread(self._look_after))

    def _look_after(self) -> None:
        vault = self._open()
        vault.retain(self._now())
        vault.probe()

    async def _seal_earlier(self, within: float = float("inf")) -> None:
        """While the directory is well: until then they wait."""
        until = time.monotonic() + within
        while self._earlier and self._vault is not None and time.monotonic() < until:
            pending = self._earlier.popleft()
            if not self._vault.known(pending.alert.id):
                await _to_the_end(self._seal(_bundle(pending, [], {}), None))

    async def _gather(self, pending: _Pending) -> None:
        """Waits for the post-roll, then seals. A cancellation (the service ends) seals what there is."""
        alert, opened = pending.alert, pending.alert.opened_at.wall
        start, end = opened - self._settings.pre_roll, opened + self._settings.post_roll
        faces = self._recent.faces(alert.stream, _tracks(alert))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(self._settings.post_roll)
        later = self._recent.faces(alert.stream, _tracks(alert))
        if later and ("worst" not in faces or later["worst"].scored.logit > faces["worst"].scored.logit):
            faces = later
        bundle = _bundle(pending, self._recent.scores(alert.stream, opened, end), faces)
        # Before its turn comes: while a slow disk takes what is ahead, the ring would forget it.
        clip = self._clips.select(alert.stream, start, end) if self._clips is not None and bundle.pictures else None
        await _to_the_end(self._seal(bundle, clip))

    async def _seal(self, bundle: Bundle, clip: Clip | None) -> None:
        if await self._guarded(lambda: self._write(bundle, clip), bundle.alert.id):
            await self._guarded(lambda: asyncio.to_thread(self._retain))

    def _retain(self) -> None:
        self._open().retain(self._now())

    async def _write(self, bundle: Bundle, clip: Clip | None) -> None:
        vault = await asyncio.to_thread(self._open)
        if "supplements" in bundle.alert.labels:
            name = await asyncio.to_thread(vault.free, bundle.alert.id)
            bundle = replace(bundle, alert=replace(bundle.alert, id=name))
        directory = await asyncio.to_thread(vault.begin, bundle.alert.id)
        try:
            written = await _written(clip, directory, bundle.alert.id)
            await asyncio.to_thread(vault.seal, bundle, written, directory)
            # A log that is kept elsewhere thereby keeps the heads, which `evidence verify --head` needs.
            log.info("evidence of %s sealed, head %s", bundle.alert.id, vault.head)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, directory, True)
            raise

    def _now(self) -> float:
        """The wall time for what is to grow old; a clock that leaps ahead removes nothing."""
        return min(time.time(), self._began.wall + (time.monotonic() - self._began.mono) + CLOCK_LEAP)

    async def _guarded(self, work: Callable[[], Awaitable[None]], alert: str | None = None) -> bool:
        """In its turn. Whether it was done; if not, the evidence of `alert` is lost."""
        async with self._turn:
            try:
                await work()
            except (StreamWatchError, OSError, ValueError) as error:
                self.close()  # whatever is there the next time is read and checked anew
                self._say(str(error))
                if alert is not None:
                    self._lose(alert, str(error))
                else:
                    self._report(AlertKind.STORAGE, "evidence", str(error))
                return False
            if self._problem is not None:
                log.warning("evidence: %s can be written again", self._settings.directory)
            self._problem = None
            self._report(AlertKind.STORAGE, "evidence", None)
            return True

    def _say(self, problem: str) -> None:
        """Once: it may last."""
        if problem != self._problem:
            log.error("evidence: %s; alerts go on without, tried again every %g s", problem, AGAIN_AFTER)
        self._problem = problem

    def _lose(self, alert: str, why: str) -> None:
        log.error("evidence: none is kept for %s: %s", alert, why)
        self._observer.history_lost("evidence", 1)
        self._report(AlertKind.STORAGE, "evidence", f"none is kept for {alert}: {why}")

    def _pictures(self, stream: str) -> bool:
        return self._settings.store_frames != "never" and self._options.pictures(stream)


def _bundle(pending: _Pending, scores: list[dict[str, Any]], faces: Mapping[str, SeenFace]) -> Bundle:
    """`scores` are those since its alert opened."""
    faces = faces if pending.pictures else {}
    return Bundle(pending.alert, [*pending.led, *scores], faces, pending.identity, pending.pictures)


async def _written(clip: Clip | None, directory: Path, alert: str) -> ClipInfo | None:
    """A clip that cannot be written leaves the rest of the evidence standing."""
    if clip is None:
        return None
    try:
        return await clip.write(directory / "clip.mp4")
    except StorageError as error:
        log.error("evidence: no clip for %s: %s", alert, error)
        return None


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for work that writes in a thread, cancelled or not: the thread would go on behind the back of who comes
    next."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


def _tracks(alert: Alert) -> list[int]:
    return [int(t) for t in alert.labels.get("tracks", "").split(",") if t]
