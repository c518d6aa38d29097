"""The proof of each alert: a clip, the worst and a typical face, every score of the window, who judged and with what;
hashed,
chained from alert to alert, and signed. `chain` has the chain, `verify` the check, `recent` what is kept before an
alert.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streamwatch.alerts.bundle import Bundle, Sealer
from streamwatch.alerts.recent import Recent
from streamwatch.config import EvidenceSettings
from streamwatch.domain import Alert, AlertEvent, AlertKind, AlertPhase, FrameScores, Instant, StreamScore
from streamwatch.errors import StorageError
from streamwatch.observer import NullObserver, Observer
from streamwatch.protocols import ClipInfo, ClipSource, Report

log = logging.getLogger(__name__)

CLOCK_LEAP = 3600.0
"""Seconds by which the wall clock may run ahead of the time that has passed since the start."""
MAX_PENDING = 32
"""Bundles in the making; a further alert goes without, and is counted."""


@dataclass(frozen=True, slots=True)
class EvidenceOptions:
    """What evidence needs to know of the service. `identity` says who judged a stream: versions, weights,
    configuration, clocks. `pictures`: whether a stream's pictures may be stored at all."""

    identity: Callable[[str], Mapping[str, Any]]
    pictures: Callable[[str], bool] = lambda stream: True


@dataclass(frozen=True, slots=True)
class _Pending:
    """A bundle in the making, and what held when its alert opened. `led`: the scores up to then; `wait`: seconds until
    it is sealed."""

    alert: Alert
    pictures: bool
    identity: dict[str, Any]
    led: list[dict[str, Any]]
    wait: float


class Evidence:
    """`observe` and `submit` are for the event loop and never block; `run` writes until cancelled."""

    def __init__(
        self,
        settings: EvidenceSettings,
        options: EvidenceOptions,
        clips: ClipSource | None = None,
        observer: Observer | None = None,
        report: Report | None = None,
    ) -> None:
        """Raises ConfigError for an unusable key, StorageError, EvidenceInvalid where the chain on the disk is
        broken."""
        self._settings = settings
        self._options = options
        self._clips = clips
        self._observer = observer or NullObserver()
        self._report = report or (lambda kind, name, problem: None)
        self._recent = Recent(settings.pre_roll, settings.post_roll)
        self._sealer = Sealer(settings)
        self._began = Instant(time.monotonic(), time.time())
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

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
        it is sealed now, so that the chain names every alert."""
        if alert.kind is AlertKind.DEEPFAKE and not self._sealer.known(alert.id):
            self._start(replace(alert, labels={**alert.labels, "interrupted": "true"}), wait=False)

    def _start(self, alert: Alert, *, wait: bool = True) -> None:
        if len(self._tasks) >= MAX_PENDING:
            log.error("evidence: too many alerts at once, none is kept for %s", alert.id)
            self._observer.history_lost("evidence", 1)
            return
        # Asked now: when the service ends, the stream and what it allows are gone before the last bundle is sealed.
        pictures, identity = self._pictures(alert.stream), dict(self._options.identity(alert.stream))
        led = self._recent.led_to(alert.stream, alert.opened_at.wall)
        pending = _Pending(alert, pictures, identity, led, self._settings.post_roll if wait else 0.0)
        task = asyncio.create_task(self._gather(pending), name=f"evidence {alert.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def directories(self, alert: str) -> list[Path]:
        """Where an alert's bundle lies, once it is sealed, and those of the faces that joined."""
        return self._sealer.directories(alert)

    async def run(self) -> None:
        """Removes what is too old or too much, once an hour; at the end seals at once what was waiting for its
        post-roll."""
        try:
            while True:
                await _to_the_end(self._retain())
                await asyncio.sleep(3600.0)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _retain(self) -> None:
        async with self._one_at_a_time:
            await self._guarded(asyncio.to_thread(self._sealer.retain, self._now()))

    async def _gather(self, pending: _Pending) -> None:
        """Waits for the post-roll, then seals. A cancellation (the service ends) seals what there is."""
        alert = pending.alert
        faces = self._recent.faces(alert.stream, _tracks(alert))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(pending.wait)
        later = self._recent.faces(alert.stream, _tracks(alert))
        if later and ("worst" not in faces or later["worst"].scored.logit > faces["worst"].scored.logit):
            faces = later
        await _to_the_end(self._seal(pending, faces))

    async def _seal(self, pending: _Pending, faces: Mapping[str, Any]) -> None:
        alert = pending.alert
        opened = alert.opened_at.wall
        bundle = Bundle(
            alert=alert,
            scores=[*pending.led, *self._recent.scores(alert.stream, opened, opened + self._settings.post_roll)],
            faces=faces if pending.pictures else {},
            identity=pending.identity,
            pictures=pending.pictures,
        )
        async with self._one_at_a_time:
            await self._guarded(self._write(bundle))

    async def _write(self, bundle: Bundle) -> None:
        if "supplements" in bundle.alert.labels:
            name = await asyncio.to_thread(self._sealer.free, bundle.alert.id)
            bundle = replace(bundle, alert=replace(bundle.alert, id=name))
        directory = await asyncio.to_thread(self._sealer.begin, bundle.alert.id)
        try:
            clip = await self._cut(bundle, directory)
            await asyncio.to_thread(self._sealer.seal, bundle, clip, directory)
            # A log that is kept elsewhere thereby keeps the heads, which `evidence verify --head` needs.
            log.info("evidence of %s sealed, head %s", bundle.alert.id, self._sealer.head)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, directory, True)
            raise
        await asyncio.to_thread(self._sealer.retain, self._now())

    def _now(self) -> float:
        """The wall time for what is to grow old; a clock that leaps ahead removes nothing."""
        return min(time.time(), self._began.wall + (time.monotonic() - self._began.mono) + CLOCK_LEAP)

    async def _cut(self, bundle: Bundle, directory: Path) -> ClipInfo | None:
        """A clip that cannot be cut leaves the rest of the evidence standing."""
        if self._clips is None or not bundle.pictures:
            return None
        opened = bundle.alert.opened_at.wall
        start, end = opened - self._settings.pre_roll, opened + self._settings.post_roll
        try:
            return await self._clips.cut(bundle.alert.stream, start, end, directory / "clip.mp4")
        except StorageError as error:
            log.error("evidence: no clip for %s: %s", bundle.alert.id, error)
            return None

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except (StorageError, OSError, ValueError) as error:
            log.error("evidence: %s", error)
            self._observer.history_lost("evidence", 1)
            self._report(AlertKind.STORAGE, "evidence", str(error))
        else:
            self._report(AlertKind.STORAGE, "evidence", None)

    def _pictures(self, stream: str) -> bool:
        return self._settings.store_frames != "never" and self._options.pictures(stream)


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
