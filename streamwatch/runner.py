"""Runs the service in the foreground: signals, a duration, and what goes on beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from streamwatch.app import Service
from streamwatch.errors import StreamWatchError

log = logging.getLogger(__name__)


async def run_until_stopped(
    service: Service,
    started: Callable[[], None],
    beside: Callable[[], Awaitable[None]] | None = None,
    duration: float | None = None,
) -> None:
    """Runs the service until SIGINT, SIGTERM or `duration` seconds after its start.

    SIGHUP reads the configuration file again; where there is none, the terminal was closed, and the service ends.
    `started` is called once it serves; `beside` runs as long as it does.
    """
    main = asyncio.current_task()
    assert main is not None
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:  # the second Ctrl-C must not interrupt the tidy end that the first one began
            stopping = True
            main.cancel()

    def hangup() -> None:
        _reload(service) if service.reloadable else stop()

    with _signals({signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: hangup}):
        try:
            async with service:
                started()
                other = asyncio.create_task(_beside(beside), name="beside")
                try:
                    await asyncio.sleep(duration if duration is not None else float("inf"))
                finally:
                    other.cancel()
                    await asyncio.wait([other])
        except asyncio.CancelledError:
            if not stopping:
                raise
            main.uncancel()


async def _beside(work: Callable[[], Awaitable[None]] | None) -> None:
    if work is not None:
        await work()


@contextlib.contextmanager
def _signals(handlers: dict[signal.Signals, Callable[[], None]]) -> Any:
    loop = asyncio.get_running_loop()
    installed = []
    for number, handler in handlers.items():
        with contextlib.suppress(NotImplementedError, RuntimeError):  # not on Windows, not outside the main thread
            loop.add_signal_handler(number, handler)
            installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


_reloading: set[asyncio.Task[None]] = set()


def _reload(service: Service) -> None:
    async def reload() -> None:
        try:
            await service.control.reload()
        except StreamWatchError as error:
            log.error("the configuration was not read again, the old one holds: %s", error)

    task = asyncio.create_task(reload(), name="reload")
    _reloading.add(task)  # the loop keeps only weak references to tasks
    task.add_done_callback(_reloading.discard)
