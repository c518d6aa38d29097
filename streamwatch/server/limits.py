"""Rates, bounded in what they remember."""

from __future__ import annotations

from collections import OrderedDict, deque


class RateLimit:
    """At most `count` events of one key in `seconds`. Remembers the last `keys`; takes time from its caller."""

    def __init__(self, count: int, seconds: float, keys: int = 10_000) -> None:
        self._count = count
        self._seconds = seconds
        self._keys = keys
        self._events: OrderedDict[str, deque[float]] = OrderedDict()

    def allow(self, key: str, at: float) -> bool:
        """Counts the event when it is allowed."""
        events = self._events.setdefault(key, deque(maxlen=self._count))
        self._events.move_to_end(key)
        while len(self._events) > self._keys:
            self._events.popitem(last=False)
        if len(events) == self._count and at - events[0] < self._seconds:
            return False
        events.append(at)
        return True

    def retry_after(self, key: str, at: float) -> float:
        """Seconds until the key is allowed again."""
        events = self._events.get(key)
        return max(0.0, self._seconds - (at - events[0])) if events and len(events) == self._count else 0.0
