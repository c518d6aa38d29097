"""All monitors of the service: added, changed and removed one by one, so that a change to one touches no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from streamwatch.config import StreamSettings
from streamwatch.errors import Conflict, NotFound
from streamwatch.monitor import StreamMonitor

log = logging.getLogger(__name__)

MakeMonitor = Callable[[str, StreamSettings], StreamMonitor]

# A change of these needs no new connection.
_LIGHT = frozenset({"enabled", "name", "labels"})


@dataclass(frozen=True, slots=True)
class Difference:
    """Ids of streams that a reconciliation added, changed and removed."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Fleet:
    """Owns the monitors and their tasks. `async with` it; leaving stops all of them.

    A monitor that fails unexpectedly is logged and leaves the others running: its task's error is not the fleet's.
    """

    def __init__(self, make_monitor: MakeMonitor, on_removed: Callable[[str], Awaitable[None]]) -> None:
        self._make_monitor = make_monitor
        self._on_removed = on_removed
        self._monitors: dict[str, StreamMonitor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._lock:
            for monitor in self._monitors.values():
                monitor.stop()
            await asyncio.gather(*(self._ended(stream) for stream in list(self._tasks)))

    def __getitem__(self, stream: str) -> StreamMonitor:
        try:
            return self._monitors[stream]
        except KeyError:
            raise NotFound(f"there is no stream {stream!r}") from None

    def __contains__(self, stream: str) -> bool:
        return stream in self._monitors

    @property
    def monitors(self) -> Mapping[str, StreamMonitor]:
        return dict(sorted(self._monitors.items()))

    async def add(self, stream: str, settings: StreamSettings) -> StreamMonitor:
        """Raises Conflict where the id is taken, ConfigError for settings that no source can be made from."""
        async with self._lock:
            if stream in self._monitors:
                raise Conflict(f"there is a stream {stream!r} already")
            return self._start(stream, settings)

    async def change(self, stream: str, settings: StreamSettings) -> StreamMonitor:
        """A new connection only where one is needed. Raises NotFound, ConfigError (the old settings then hold)."""
        async with self._lock:
            monitor = self[stream]
            changed = {
                name for name in StreamSettings.model_fields
                if getattr(settings, name) != getattr(monitor.settings.stream, name)
            }  # fmt: skip
            if changed <= _LIGHT:
                monitor.settings = replace(monitor.settings, stream=settings)
                if "enabled" in changed:
                    (monitor.resume if settings.enabled else monitor.pause)()
                return monitor
            fresh = self._make_monitor(stream, settings)  # may raise: before the old one is given up
            monitor.stop()
            await self._ended(stream)
            fresh.succeed(monitor)
            return self._run(stream, fresh)

    async def remove(self, stream: str) -> None:
        """Legal in every state; returns when it has stopped. Raises NotFound."""
        async with self._lock:
            self[stream].stop()
            await self._ended(stream)
            await self._on_removed(stream)

    async def reconcile(self, wanted: Mapping[str, StreamSettings]) -> Difference:
        """Makes the fleet what `wanted` says; streams that did not change go on untouched."""
        removed = tuple(sorted(self._monitors.keys() - wanted.keys()))
        added = tuple(sorted(wanted.keys() - self._monitors.keys()))
        changed = tuple(
            stream for stream in sorted(wanted.keys() & self._monitors.keys())
            if self._monitors[stream].settings.stream != wanted[stream]
        )  # fmt: skip
        for stream in removed:
            await self.remove(stream)
        for stream in changed:
            await self.change(stream, wanted[stream])
        for stream in added:
            await self.add(stream, wanted[stream])
        return Difference(added, changed, removed)

    def _start(self, stream: str, settings: StreamSettings) -> StreamMonitor:
        return self._run(stream, self._make_monitor(stream, settings))

    def _run(self, stream: str, monitor: StreamMonitor) -> StreamMonitor:
        self._monitors[stream] = monitor
        self._tasks[stream] = asyncio.create_task(monitor.run(), name=f"monitor {stream}")
        self._tasks[stream].add_done_callback(lambda task: self._report(stream, task))
        return monitor

    async def _ended(self, stream: str) -> None:
        await asyncio.wait([self._tasks.pop(stream)])
        self._monitors.pop(stream, None)

    def _report(self, stream: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("stream %s: its monitor failed", stream, exc_info=error)
