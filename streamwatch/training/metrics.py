"""The figures: ranking, calibration and intervals. Pure numpy; labels are 1 for fake, scores rise with 'fake'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


FEWEST_GROUPS = 5
"""Groups with a fake, and groups with a real, below which resampling says nothing: it would draw the same few again."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; low and high are NaN where there is too little to resample. `groups` counts

    those that hold (a real, a fake)."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    groups: tuple[int, int] = (0, 0)

    def to_dict(self) -> dict[str, Any]:
        values = {"value": self.value, "low": self.low, "high": self.high}
        rounded = {key: None if np.isnan(number) else round(number, 4) for key, number in values.items()}
        return {**rounded, "groups": list(self.groups)}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The chance that a fake scores higher than a real (ties count half); NaN where one kind is missing, or a score is

    no number."""
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    fakes, reals = np.sort(values[truth]), np.sort(values[~truth])
    if not len(fakes) or not len(reals) or not np.isfinite(values).all():
        return float("nan")
    below = np.searchsorted(reals, fakes, "left")
    ties = np.searchsorted(reals, fakes, "right") - below
    return float((below + 0.5 * ties).sum() / (len(fakes) * len(reals)))


def grouped_auc(
    labels: Sequence[int], scores: Sequence[float], groups: Sequence[str], rounds: int = 2000, seed: int = 0
) -> Interval:
    """AUC with a percentile bootstrap that draws whole groups: clips that share footage are not independent."""
    truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    return _resampled(lambda rows: auc(truth[rows], values[rows]), truth, groups, rounds, seed)


def auc_gain(
    labels: Sequence[int],
    scores: npt.ArrayLike,
    others: npt.ArrayLike,
    groups: Sequence[str],
    rounds: int = 2000,
    seed: int = 0,
) -> Interval:
    """How much higher the AUC of `scores` is than that of `others`, both on the same draws of whole groups."""
    truth, values, before = np.asarray(labels), np.asarray(scores, np.float64), np.asarray(others, np.float64)
    return _resampled(
        lambda rows: auc(truth[rows], values[rows]) - auc(truth[rows], before[rows]), truth, groups, rounds, seed
    )


def _resampled(
    figure: Callable[[npt.NDArray[np.int64]], float],
    truth: npt.NDArray[np.int64],
    groups: Sequence[str],
    rounds: int,
    seed: int,
) -> Interval:
    names = np.asarray(groups)
    everything = np.arange(len(truth))
    kinds = (len(set(names[truth == 0].tolist())), len(set(names[truth == 1].tolist())))
    if min(kinds) < FEWEST_GROUPS:
        return Interval(figure(everything), groups=kinds)
    members = [np.flatnonzero(names == name) for name in sorted(set(groups))]
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(members), len(members)) for _ in range(rounds))
    drawn = [figure(np.concatenate([members[i] for i in draw])) for draw in draws]
    low, high = np.nanpercentile(drawn, (2.5, 97.5)) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Interval(figure(everything), float(low), float(high), kinds)


def sigmoid(logits: npt.ArrayLike) -> Doubles:
    """1 / (1 + exp(-x)), without overflow."""
    x = np.asarray(logits, np.float64)
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float64)


def expected_calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> float:
    """The mean gap between probability and frequency over equal-width bins, weighted by their counts."""
    gaps = [abs(seen - said) * count for said, seen, count in reliability(labels, probabilities, bins)]
    return float(sum(gaps) / max(1, len(np.asarray(labels))))


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> list[tuple[float, float, int]]:
    """For each bin that is not empty: mean probability, share of fakes, count."""
    truth, said = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    place = np.clip((said * bins).astype(int), 0, bins - 1)
    rows = [place == b for b in range(bins)]
    return [(float(said[r].mean()), float(truth[r].mean()), int(r.sum())) for r in rows if r.any()]


def fit_temperature(
    labels: npt.ArrayLike, logits: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[float, float]:
    """(temperature, bias) that minimise the log loss of sigmoid((logit + bias) / temperature).

    Newton's method on the equivalent slope and intercept (Platt scaling), lightly regularised; the slope stays
    positive, so that the order of scores is never turned round.
    """
    y, x = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if not len(x) or y.min() == y.max():
        raise ValueError("calibration needs both real and fake examples")
    w = w / w.sum()
    slope, intercept = 1.0, 0.0
    for _ in range(50):
        p = sigmoid(slope * x + intercept)
        slack = 1e-4
        gradient = np.array([(w * (p - y) * x).sum() + slack * (slope - 1), (w * (p - y)).sum() + slack * intercept])
        v = w * p * (1 - p)
        hessian = np.array([[(v * x * x).sum() + slack, (v * x).sum()], [(v * x).sum(), v.sum() + slack]])
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 1.0 / max(1e-9, float(np.abs(step).max())))
        slope, intercept = max(0.02, slope - float(step[0])), intercept - float(step[1])
        if float(np.abs(step).max()) < 1e-8:
            break
    return 1.0 / slope, intercept / slope


def threshold_at(real_scores: npt.ArrayLike, false_alarm_rate: float, weights: npt.ArrayLike | None = None) -> float:
    """The lowest threshold that at most this share of the real scores (of their `weights`) reaches."""
    scores = np.asarray(real_scores, np.float64)
    if not len(scores) or not 0 <= false_alarm_rate < 1:
        raise ValueError(f"need real scores and a rate in 0..1, got {len(scores)} and {false_alarm_rate}")
    heavy = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(heavy[order]) / heavy.sum()
    # The highest score that must stay below: with it, too many would be over.
    edge = scores[order][int(np.argmax(reached > false_alarm_rate + 1e-9))]
    return float(np.nextafter(edge, np.inf))


def trimmed_mean(values: npt.ArrayLike, trim: float = 0.1) -> float:
    """The mean without the lowest and highest `trim` share of the values; NaN of nothing."""
    ordered = np.sort(np.asarray(values, np.float64))
    cut = int(trim * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    return float(kept.mean()) if len(kept) else float("nan")


def roc_points(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """False-alarm and detection rates at every threshold, from (0, 0) to (1, 1)."""
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True) if len(values) else np.zeros(0, bool)
    hits, alarms = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    detected = np.append(0.0, hits / max(1, int(truth.sum())))
    alarmed = np.append(0.0, alarms / max(1, int((~truth).sum())))
    return np.asarray(alarmed, np.float64), np.asarray(detected, np.float64)
