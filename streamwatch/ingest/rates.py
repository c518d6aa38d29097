"""Who is looked at how often: one budget of analysed frames a second, shared fairly. Pure.

`share` is the rule; `Rates` keeps what it needs to know. The caller applies what it returns to the supervisors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

# Less than this is no watching: below it streams would only take turns at seeing nothing.
_FLOOR = 0.1
# A rate changes only when it would by more than this share: each change costs the decoder's rhythm.
_HYSTERESIS = 0.1


@dataclass(frozen=True, slots=True)
class Wish:
    """What a stream asks for, in analysed frames a second."""

    base: float
    burst: float
    suspicious: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What it gets. `degraded`: less than its base rate."""

    fps: float
    degraded: bool


def share(wishes: Mapping[str, Wish], budget: float | None) -> dict[str, Share]:
    """Max-min fair: first the base rates of all streams, then what is left for the bursts of the suspicious ones.

    Where not even the base rates fit, every stream gets the same, or its base rate where that is less; so shedding
    falls evenly, and one fast stream cannot starve slow ones. None: no limit.
    """
    if budget is None:
        return {name: Share(_wanted(wish), False) for name, wish in wishes.items()}
    base = _level({name: wish.base for name, wish in wishes.items()}, budget)
    left = budget - sum(base.values())
    extra = {name: max(0.0, wish.burst - base[name]) for name, wish in wishes.items() if wish.suspicious}
    bonus = _level(extra, max(0.0, left))
    result = {}
    for name, wish in wishes.items():
        fps = max(base[name] + bonus.get(name, 0.0), min(_FLOOR, wish.base))
        result[name] = Share(fps, fps < wish.base * (1 - 1e-6))
    return result


def _wanted(wish: Wish) -> float:
    return max(wish.base, wish.burst) if wish.suspicious else wish.base


def _level(demands: Mapping[str, float], budget: float) -> dict[str, float]:
    """Water-filling: the smallest demands are met in full, the others get an equal level."""
    given: dict[str, float] = {}
    left, waiting = budget, len(demands)
    for name, demand in sorted(demands.items(), key=lambda item: (item[1], item[0])):
        given[name] = min(demand, max(0.0, left) / waiting)
        left -= given[name]
        waiting -= 1
    return given


class Capacity:
    """How many frames a second the machine can analyse: what it managed under overload, then more by little steps.

    `update` about once a second with the frames that were analysed, and those lost for want of capacity. Judged over
    `span` updates, so that one burst (a camera's opening, a cold cache) sheds nothing. `limit` is None until the
    first such loss: as long as nothing is lost there is nothing to share out.
    """

    def __init__(self, *, span: int = 4, tolerance: float = 0.1, increase: float = 0.05) -> None:
        self.limit: float | None = None
        self._tolerance, self._increase = tolerance, increase
        self._past: deque[tuple[float, float]] = deque(maxlen=span)

    def update(self, asked: float, analysed: float, lost: float) -> float | None:
        """All three in frames a second since the last call; `asked` is the sum of the rates given out."""
        self._past.append((analysed, lost))
        if len(self._past) < (self._past.maxlen or 1):
            return self.limit
        done = sum(done for done, _ in self._past) / len(self._past)
        missed = sum(missed for _, missed in self._past) / len(self._past)
        if missed > self._tolerance * (done + missed):
            self.limit = max(_FLOOR, 0.9 * done)
            self._past.clear()  # the next judgement is of the new limit
        elif self.limit is not None and asked >= self.limit * 0.9:
            # The constant part brings a machine that was choked back within seconds, not minutes.
            self.limit += self._increase * (self.limit + 2.0)
        return self.limit


class Rates:
    """The wishes of all streams under one budget. `report` and the like only note; `plan` says what changes."""

    def __init__(self, budget: float | None = None) -> None:
        self.budget = budget
        self._wishes: dict[str, Wish] = {}
        self._given: dict[str, Share] = {}

    def add(self, stream: str, base: float, burst: float) -> None:
        self._wishes[stream] = Wish(base, max(base, burst))

    def remove(self, stream: str) -> None:
        self._wishes.pop(stream, None)
        self._given.pop(stream, None)

    def report(self, stream: str, suspicious: bool) -> None:
        """Unknown streams are passed over: a report may cross a removal."""
        wish = self._wishes.get(stream)
        if wish is not None:
            self._wishes[stream] = replace(wish, suspicious=suspicious)

    @property
    def asked(self) -> float:
        """The sum of the rates given out."""
        return sum(given.fps for given in self._given.values())

    def plan(self) -> dict[str, Share]:
        """The streams whose share changed enough to be told."""
        changes = {}
        for stream, new in share(self._wishes, self.budget).items():
            old = self._given.get(stream)
            if old is None or old.degraded != new.degraded or abs(new.fps - old.fps) > _HYSTERESIS * old.fps:
                self._given[stream] = changes[stream] = new
        return changes
