"""What was last received of one stream, as encoded pictures in a bounded memory. Pure but for the lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# A step between two timestamps beyond this (seconds) is another time line.
_JUMP = 10.0
_BACK = 2.0


@dataclass(frozen=True, slots=True)
class Kept:
    """One encoded picture. `pts` is in seconds, `wall` its arrival in Unix seconds."""

    data: bytes
    pts: float
    key: bool
    wall: float


@dataclass(slots=True)
class Segment:
    """Pictures that one decoder can read one after another; `origin` is what a muxer needs to know of their stream."""

    origin: Any
    pictures: deque[Kept] = field(default_factory=deque)
    """Begins at a key picture."""
    keys: deque[float] = field(default_factory=deque)
    """When its key pictures arrived, so that nobody has to look for them: a group may be long."""


class PacketRing:
    """Bounded by time and bytes; gives way by whole groups of pictures, so that it always begins at a key picture."""

    def __init__(self, seconds: float, limit: int) -> None:
        self._seconds = seconds
        self._limit = limit
        self._lock = threading.Lock()
        self._segments: deque[Segment] = deque()
        self.size = 0
        """bytes held"""
        self.evicted = 0
        """pictures that gave way, or could not be kept"""

    def __len__(self) -> int:
        with self._lock:
            return sum(len(segment.pictures) for segment in self._segments)

    def add(self, picture: Kept, origin: Any) -> None:
        """`origin` is compared by identity: another one begins a new segment."""
        with self._lock:
            segment = self._segment(picture, origin)
            if not segment.pictures and not picture.key:
                self.evicted += 1
                return
            segment.pictures.append(picture)
            if picture.key:
                segment.keys.append(picture.wall)
            self.size += len(picture.data)
            while self._segments and (self.size > self._limit or self._expired(picture.wall)):
                self._evict_group()

    def select(self, start: float, end: float) -> Segment | None:
        """The segment that covers most of wall times `start` to `end`, from the key picture before `start`; a copy."""
        with self._lock:
            chosen = max(self._segments, key=lambda segment: _overlap(segment, start, end), default=None)
            if chosen is None or _overlap(chosen, start, end) < 0:
                return None
            pictures = [picture for picture in chosen.pictures if picture.wall <= end]
        first = max((i for i, picture in enumerate(pictures) if picture.key and picture.wall <= start), default=0)
        return Segment(chosen.origin, deque(pictures[first:])) if pictures else None

    def _segment(self, picture: Kept, origin: Any) -> Segment:
        newest = self._segments[-1] if self._segments else None
        if newest is not None and newest.origin is origin:
            step = picture.pts - newest.pictures[-1].pts if newest.pictures else 0.0
            if -_BACK < step < _JUMP:
                return newest
        self._segments.append(Segment(origin))
        return self._segments[-1]

    def _expired(self, now: float) -> bool:
        """The oldest group ended before the time that is kept."""
        oldest = self._segments[0]
        if len(oldest.keys) > 1:
            return oldest.keys[1] < now - self._seconds
        return len(self._segments) > 1 and (not oldest.pictures or oldest.pictures[-1].wall < now - self._seconds)

    def _evict_group(self) -> None:
        oldest = self._segments[0]
        if oldest.keys:
            oldest.keys.popleft()
        while oldest.pictures:
            gone = oldest.pictures.popleft()
            self.size -= len(gone.data)
            self.evicted += 1
            if oldest.pictures and oldest.pictures[0].key:
                return
        self._segments.popleft()


def decode_times(pts: Sequence[int]) -> list[int]:
    """Decoding times for pictures that are given in decoding order by their presentation times (all different).

    Rising, and never later than the presentation: the sorted presentation times, moved back by the greatest delay that
    the reordering needs.
    """
    ordered = sorted(pts)
    delay = max((a - b for a, b in zip(ordered, pts, strict=True)), default=0)
    return [t - delay for t in ordered]


def distinct(pictures: Sequence[Kept], rate: int) -> list[tuple[Kept, int]]:
    """Pictures with their presentation times, in ticks of 1/rate from the earliest; without those that repeat one."""
    earliest = min((picture.pts for picture in pictures), default=0.0)
    seen: set[int] = set()
    result = []
    for picture in pictures:
        ticks = round((picture.pts - earliest) * rate)
        if ticks not in seen:
            seen.add(ticks)
            result.append((picture, ticks))
    return result


def _overlap(segment: Segment, start: float, end: float) -> float:
    """Seconds; negative where there is none."""
    if not segment.pictures:
        return -1.0
    return min(end, segment.pictures[-1].wall) - max(start, segment.pictures[0].wall)
