"""A bounded, drop-oldest, counted hand-over from a thread (or task) to one task."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Holds at most `capacity` items; the oldest gives way to the newest, and `on_replaced(count)` counts it.

    `offer` and `close` may be called from any thread and never block. `get` belongs to one task of `loop`; cancelling
    it loses nothing, since an item leaves only in the same step in which `get` returns it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_replaced: Callable[[int], None], capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._loop = loop
        self._on_replaced = on_replaced
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._lock = threading.Lock()
        self._ready = asyncio.Event()
        self._closed = False

    def offer(self, item: T) -> bool:
        """False when the hand-over is closed (the item is then not taken)."""
        with self._lock:
            if self._closed:
                return False
            replaced = len(self._items) >= self._capacity
            if replaced:
                self._items.popleft()
            self._items.append(item)
        if replaced:
            self._on_replaced(1)
        self._wake()
        return True

    async def get(self) -> T | None:
        """The oldest item held; None once closed and empty."""
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                if self._closed:
                    return None
                self._ready.clear()
            await self._ready.wait()

    def close(self) -> None:
        """No more items will come; what is held can still be taken."""
        with self._lock:
            self._closed = True
        self._wake()

    def __len__(self) -> int:
        return len(self._items)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._ready.set)
