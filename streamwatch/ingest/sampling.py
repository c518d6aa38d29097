"""Which pictures are analysed, and how little must be decoded to get at them. Pure."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Literal

Skip = Literal["DEFAULT", "NONREF", "NONKEY"]


class Sampler:
    """Takes pictures on a regular grid of `fps` a second, which may be set from another thread.

    Times are seconds that normally rise; a jump starts a new grid.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.due: float | None = None
        self._last: float | None = None

    def take(self, t: float) -> bool:
        period = 1.0 / self.fps
        step = t - self._last if self._last is not None else 0.0
        jumped = self.due is not None and (step < 0 or t > self.due + max(1.0, 2 * period) or self.due > t + 2 * period)
        self._last = t
        if self.due is None or jumped:
            self.due = t + period
            return True
        # The picture nearest to the grid point: half the picture interval early is as good as half late.
        if t < self.due - min(step, period) / 2:
            return False
        self.due += period * max(1, int((t - self.due) / period) + 1) if t >= self.due else period
        return True

    def miss(self, t: float) -> bool:
        """For a picture at `t` that is not decoded: whether a sample is lost with it, the next one being due already.

        Until then a later picture can still stand for it.
        """
        period = 1.0 / self.fps
        late = 0.0 if self.due is None else t - self.due
        if self.due is None or not period <= late <= max(1.0, 2 * period):  # or a jump, which `take` will see
            return False
        self.due += period * int(late / period)
        return True


class FrameRate:
    """Pictures a second by the timestamps of packets; containers and session descriptions often lie.

    A change counts when two windows in a row tell it: a burst of losses looks like one, for a moment.
    """

    _WINDOW = 12
    _CHANGE = 1.2

    def __init__(self) -> None:
        self.value: float | None = None
        self._times: list[float] = []
        self._other: float | None = None

    def add(self, t: float) -> None:
        self._times.append(t)
        if len(self._times) < self._WINDOW:
            return
        # The median of the gaps in display order: a lost packet or a pause does not count.
        times = sorted(self._times)
        gaps = sorted(b - a for a, b in pairwise(times) if b > a)
        self._times.clear()
        if not gaps:
            return
        seen = round(1.0 / gaps[len(gaps) // 2], 2)
        if self.value is None or (self._other is not None and not self._changed(seen, self._other)):
            self.value, self._other = seen, None
        else:
            self._other = seen if self._changed(seen, self.value) else None

    def _changed(self, one: float, other: float) -> bool:
        return max(one, other) > self._CHANGE * min(one, other)


class Backlog:
    """Whether a live stream is read more slowly than it comes: then a read never has to wait, since more is queued."""

    _SPAN = 1.0
    _BUSY, _IDLE = 0.03, 0.3

    def __init__(self) -> None:
        self.behind = False
        self._began: float | None = None
        self._waited = 0.0

    def read(self, waited: float, now: float) -> None:
        """A read that waited so many seconds has ended at monotonic time `now`."""
        if self._began is None:
            self._began = now
            return
        self._waited += waited
        elapsed = now - self._began
        if elapsed >= self._SPAN:
            share = self._waited / elapsed
            self.behind = share < self._BUSY or (self.behind and share < self._IDLE)
            self._began, self._waited = now, 0.0


class SkipPolicy:
    """Chooses the decoder's `skip_frame` before each packet, from what the stream has shown so far.

    - NONKEY where the key pictures alone reach the rate, and from the last sample of a group of pictures to the next
      key picture, since nothing between is needed. Only where most groups, and the last one, are equally long (within
      20 %), and left at a key picture only: a decoder that skipped references cannot go on in the middle of a group.
    - NONKEY also while the reader is behind: reading on is cheap, and only so does it catch up.
    - NONREF where disposable pictures were seen and the others are at least twice the rate.
    """

    def __init__(self) -> None:
        self._keys: deque[float] = deque(maxlen=6)
        self._span: float | None = None
        self._seen = self._disposable = 0
        self._rate = FrameRate()
        self.mode: Skip = "DEFAULT"

    @property
    def keyframe_interval(self) -> float | None:
        """Seconds between key pictures, where that is regular."""
        return self._span

    @property
    def longest_group(self) -> float:
        """Seconds between key pictures at most, of the last few; infinite before there were two."""
        return max((b - a for a, b in pairwise(self._keys)), default=float("inf"))

    @property
    def fps(self) -> float | None:
        """The stream's own pictures a second, once known."""
        return self._rate.value

    def before(self, t: float, key: bool, sampler: Sampler, *, behind: bool = False) -> Skip:
        """The mode for the packet at `t`."""
        self._rate.add(t)
        if key:
            self._key(t)
            self.mode = "NONKEY" if behind else self._whole_group(sampler)
        elif behind or (self.mode != "NONKEY" and self._rest_is_idle(sampler)):
            self.mode = "NONKEY"
        return self.mode

    def decoded(self, bidirectional: bool) -> None:
        """One picture came out of the decoder; only where none were skipped do they say what the stream is made of."""
        if self.mode == "DEFAULT":
            self._seen += 1
            self._disposable += bidirectional

    def _key(self, t: float) -> None:
        self._keys.append(t)
        if len(self._keys) < 4:
            return
        # Most, not all: on a lossy network key pictures go missing too. But the last: a camera with a new rate
        # must not be sampled by the groups it had before.
        gaps = [b - a for a, b in pairwise(self._keys)]
        middle = sorted(gaps)[len(gaps) // 2]
        alike = [middle / 1.2 <= gap <= middle * 1.2 for gap in gaps]
        self._span = middle if middle > 0 and alike[-1] and sum(alike) >= 0.6 * len(gaps) else None

    def _whole_group(self, sampler: Sampler) -> Skip:
        if self._span is not None and sampler.fps * self._span <= 1.05:
            return "NONKEY"
        if self._seen >= 50 and self._disposable and self.fps is not None:
            references = self.fps * (1 - self._disposable / self._seen)
            return "NONREF" if references >= 2 * sampler.fps else "DEFAULT"
        return "DEFAULT"

    def _rest_is_idle(self, sampler: Sampler) -> bool:
        """No sample is due before the next key picture."""
        if self._span is None or sampler.due is None:
            return False
        return sampler.due >= self._keys[-1] + self._span - 0.02
