"""What waits for one websocket client: bounded, latest wins, fair to every stream. Pure: no clock, no await."""

from __future__ import annotations

from dataclasses import dataclass

Payload = str | bytes


@dataclass(slots=True)
class _Waiting:
    payload: Payload
    skipped: int = 0


class Outbox:
    """Streams take turns; a turn hands out all that waits for one stream, in the order in which it was put, so that
    `seq` rises strictly whatever was replaced. A payload with a key takes the place of the waiting one with the same
    key and counts it in `skipped`; payloads without a key (alerts) are never replaced, and there are at most `limit`.
    """

    def __init__(self, limit: int = 256) -> None:
        self._lanes: dict[str, dict[str | int, _Waiting]] = {}
        self._limit = limit
        self._unkeyed = 0
        self._count = 0

    def put(self, stream: str, key: str | None, payload: Payload) -> bool:
        """False when it is full of what may not be replaced; the payload is then not taken."""
        if key is None:
            if self._unkeyed >= self._limit:
                return False
            self._unkeyed += 1
            self._count += 1
        lane = self._lanes.setdefault(stream, {})
        replaced = lane.pop(key, None) if key is not None else None
        lane[key if key is not None else self._count] = _Waiting(payload, replaced.skipped + 1 if replaced else 0)
        return True

    def take(self) -> list[Payload]:
        """One stream's turn; empty when nothing waits."""
        for stream in self._lanes:
            lane = self._lanes.pop(stream)
            self._unkeyed -= sum(isinstance(key, int) for key in lane)
            return [_finished(waiting) for waiting in lane.values()]
        return []

    def forget(self, streams: set[str]) -> None:
        """Drops what waits for these streams (the client no longer wants them)."""
        for stream in streams:
            self._unkeyed -= sum(isinstance(key, int) for key in self._lanes.pop(stream, ()))

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())


def _finished(waiting: _Waiting) -> Payload:
    """The JSON text with its count of skipped messages; written in only now, since text is shared by all clients."""
    if waiting.skipped and isinstance(waiting.payload, str):
        return f'{waiting.payload[:-1]},"skipped":{waiting.skipped}}}'
    return waiting.payload
