"""One thread per device: its detector and its ensemble both run on it, so that they never compete for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from streamwatch.errors import DeviceError, StreamWatchError
from streamwatch.inference.batcher import Batch, Batcher

log = logging.getLogger(__name__)

FAILING = 5
"""Failed batches in a row after which a device counts as not working."""
Handler = Callable[[Sequence[Any]], Sequence[Any]]
"""The payloads of a lane's batch to their results, in order."""


class DeviceWorker:
    """Takes batches for one device until the batcher closes.

    `build` runs on the thread itself, after torch's thread count was set there; it loads and warms the networks and
    returns a handler for each lane. An error in a handler fails that batch alone; what is not an Exception ends the
    thread, closes the batcher, and is raised again by `join`.
    """

    def __init__(
        self, name: str, build: Callable[[], Mapping[str, Handler]], batcher: Batcher, threads: int = 0
    ) -> None:
        self.name = name
        self._build = build
        self._batcher = batcher
        self._threads = threads
        self._ready: Future[None] = Future()
        self._error: BaseException | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=f"device-{name}", daemon=False)

    def start(self) -> Future[None]:
        """Done when the device is warm; carries the error where it could not be made ready."""
        self._ready.set_running_or_notify_cancel()  # who stops waiting does not stop the loading
        self._thread.start()
        return self._ready

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def working(self) -> bool:
        """Its thread lives, and not all of its newest batches failed."""
        return self.alive and self._failures < FAILING

    def join(self) -> None:
        """Waits for the thread, after the batcher was closed. Raises what ended it, unless `start` has told already."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            if self._threads:
                torch.set_num_threads(self._threads)
            handlers = self._build()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while (batch := self._batcher.take()) is not None:
                self._work(batch, handlers[batch.lane])
        except BaseException as error:
            self._error = error
            stopped = DeviceError(f"the device {self.name} has failed: {error!r}")
            stopped.__cause__ = error
            self._batcher.close(stopped)

    def _work(self, batch: Batch, handler: Handler) -> None:
        try:
            results = handler(batch.payloads)
        except StreamWatchError as error:
            self._batcher.fail(batch, error)
        except Exception as error:
            if self._failures == 0:  # once in a row: a device that is gone fails with every batch
                log.exception("%s: a %s batch of %d failed", self.name, batch.lane, len(batch.items))
            self._failures += 1
            what = f"a {batch.lane} batch of {len(batch.items)} failed"
            failure = DeviceError(f"{self.name}: {what}: {_first_line(error)}")
            failure.__cause__ = error
            self._batcher.fail(batch, failure)
        except BaseException as error:
            self._batcher.fail(batch, DeviceError(f"the device {self.name} has failed: {error!r}"))
            raise
        else:
            self._failures = 0
            self._batcher.finish(batch, results)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
