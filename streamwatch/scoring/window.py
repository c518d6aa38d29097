"""From face scores to a verdict: the sliding window of each track. Pure: no clock is read, time comes with the
records."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """One accepted face: calibrated logits and the weight of its quality."""

    at: float
    logit: float
    weight: float
    members: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WindowScore:
    """What a window says. Logits, not scores. `spread` is the distance of the highest from the lowest member."""

    logit: float
    members: Mapping[str, float]

    @property
    def spread(self) -> float:
        values = self.members.values()
        return max(values) - min(values) if len(self.members) > 1 else 0.0


def trimmed_weights(values: NDArray[np.float64], weights: NDArray[np.float64], trim: float) -> NDArray[np.float64]:
    """The weights that are left when the share `trim` of their sum is cut off at either end of the sorted values; a
    value that straddles the cut keeps a part. Their sum is (1 - 2 trim) of what it was."""
    order = np.argsort(values, kind="stable")
    upper = np.cumsum(weights[order])
    total = upper[-1]
    lower = upper - weights[order]
    kept = np.minimum(upper, (1.0 - trim) * total) - np.maximum(lower, trim * total)
    result = np.empty_like(weights)
    result[order] = np.maximum(kept, 0.0)
    return result


def trimmed_mean(samples: Sequence[Sample], trim: float) -> WindowScore:
    """The quality-weighted trimmed mean of the fused logits, and the members' over the same samples: a frame that is
    cut off for the ensemble is cut off for each of them. `samples` is not empty and its weights are positive."""
    values = np.array([s.logit for s in samples])
    weights = np.array([s.weight for s in samples])
    kept = trimmed_weights(values, weights, trim)
    kept /= kept.sum()
    names = tuple(samples[-1].members)
    members = {n: float(sum(k * s.members.get(n, s.logit) for k, s in zip(kept, samples, strict=True))) for n in names}
    return WindowScore(float(kept @ values), members)


class Rate:
    """The sampling rate over time, to know how many frames a stretch of time should have brought."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._changes: deque[tuple[float, float]] = deque([(-np.inf, fps)], maxlen=64)

    def change(self, fps: float, at: float) -> None:
        """From `at` on, `fps` frames a second are expected."""
        if fps != self.fps:
            self.fps = fps
            self._changes.append((at, fps))

    def expected(self, start: float, end: float) -> float:
        """Frames between two monotonic times."""
        total, until = 0.0, end
        for since, fps in reversed(self._changes):
            begin = max(start, since)
            if begin < until:
                total += (until - begin) * fps
                until = begin
            if since <= start:
                break
        return total


@dataclass(slots=True)
class TrackWindow:
    """The samples of one track, and when its face was seen but not good enough, with the gate that shut it out."""

    started: float
    samples: deque[Sample] = field(default_factory=deque)
    gated: deque[tuple[float, str]] = field(default_factory=deque)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)

    def gate(self, at: float, gate: str) -> None:
        self.gated.append((at, gate))

    @property
    def usual_gate(self) -> str | None:
        """The gate that shut out most of the refused faces; of equals the one met first."""
        counts = Counter(gate for _, gate in self.gated)
        return max(counts, key=lambda gate: counts[gate], default=None)

    def prune(self, before: float) -> None:
        while self.samples and self.samples[0].at <= before:
            self.samples.popleft()
        while self.gated and self.gated[0][0] <= before:
            self.gated.popleft()

    def coverage(self, now: float, length: float, rate: Rate) -> float:
        """Accepted over expected frames since the track began, at most one window back. One frame of grace: the
        sampler's phase is free."""
        expected = rate.expected(max(self.started, now - length), now)
        return min(1.0, len(self.samples) / max(1.0, expected))
