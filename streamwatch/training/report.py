"""What an evaluation says: a tree of figures for JSON, the same as text, and two plots."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a server has no display

import matplotlib.pyplot as plt
import numpy as np

from streamwatch.inference.weights import Fusion
from streamwatch.training.faces import DatasetError
from streamwatch.training.metrics import (
    Interval,
    auc,
    expected_calibration_error,
    grouped_auc,
    reliability,
    roc_points,
    sigmoid,
    trimmed_mean,
)
from streamwatch.training.scored import ScoredClip, false_alarms, fused_logits

SIZES = ((0.0, 96.0), (96.0, 160.0), (160.0, float("inf")))


def clip_figures(
    clips: Sequence[ScoredClip], names: Sequence[str], threshold: float, fusion: Fusion = "logit_mean"
) -> dict[str, Any]:
    """Video AUC pooled, per method, by face size and by source; members and ensembles without one of them."""
    fused = [scored.logit for scored in clips]
    finite = np.isfinite(fused)
    if not finite.all():
        wrong = clips[int(np.argmin(finite))].clip.name
        raise DatasetError(f"{wrong}: its score is no number; the weights are damaged or not calibrated")
    methods = sorted({scored.clip.method for scored in clips if scored.clip.label == 1})
    sources = sorted({scored.clip.source for scored in clips if scored.clip.label == 1})
    threshold_logit = float(np.log(threshold / (1 - threshold)))
    caught = [logit >= threshold_logit for logit, scored in zip(fused, clips, strict=True) if scored.clip.label == 1]
    alarms = false_alarms(clips, threshold_logit)
    labels = [scored.clip.label for scored in clips]
    return {
        "clips": {"real": labels.count(0), "fake": labels.count(1)},
        "pooled": _auc(clips, fused).to_dict(),
        "by_method": {method: _auc_of(clips, fused, _against(method, "method")).to_dict() for method in methods},
        "by_source": {source: _auc_of(clips, fused, _within(source)).to_dict() for source in sources},
        "by_face_size": {
            f"{low:.0f}-{high:.0f} px": _auc_of(clips, fused, _sized(low, high)).to_dict() for low, high in SIZES
        },
        "members": {name: _auc(clips, _member_logits(clips, [i], fusion)).to_dict() for i, name in enumerate(names)},
        "without": {
            name: _auc(clips, _member_logits(clips, [j for j in range(len(names)) if j != i], fusion)).to_dict()
            for i, name in enumerate(names)
            if len(names) > 1
        },
        "fakes_over_threshold": f"{sum(caught)} of {len(caught)}",
        "false_alarms": str(alarms),
        "coverage": round(float(np.mean([scored.coverage for scored in clips])), 4),
        "calibration_error": round(expected_calibration_error(labels, sigmoid(fused)), 4),
    }


def _member_logits(clips: Sequence[ScoredClip], columns: Sequence[int], fusion: Fusion) -> list[float]:
    return [trimmed_mean(fused_logits(scored.members[:, list(columns)], fusion)) for scored in clips]


def _auc(clips: Sequence[ScoredClip], scores: Sequence[float]) -> Interval:
    labels = [scored.clip.label for scored in clips]
    return grouped_auc(labels, scores, [scored.clip.group for scored in clips])


def _auc_of(clips: Sequence[ScoredClip], scores: Sequence[float], wanted: Callable[[ScoredClip], bool]) -> Interval:
    rows = [index for index, scored in enumerate(clips) if wanted(scored)]
    if not rows:
        return Interval(float("nan"))
    return _auc([clips[i] for i in rows], [scores[i] for i in rows])


def _against(method: str, _: str) -> Callable[[ScoredClip], bool]:
    return lambda scored: scored.clip.label == 0 or scored.clip.method == method


def _within(source: str) -> Callable[[ScoredClip], bool]:
    return lambda scored: scored.clip.source == source


def _sized(low: float, high: float) -> Callable[[ScoredClip], bool]:
    return lambda scored: low <= float(np.median(scored.heights)) < high


def held_out_figures(
    labels: np.ndarray,
    members: np.ndarray,
    fused: np.ndarray,
    bins: Sequence[str],
    names: Sequence[str],
    fusion: Fusion = "logit_mean",
) -> dict[str, Any]:
    """Image AUC on held-out pseudo-fakes and calibration error, by quality bin and by member."""
    places = np.asarray(bins)
    chosen = {name: places == name for name in sorted(set(bins))}
    return {
        "images": len(labels),
        "auc": round(auc(labels, fused), 4),
        "members": {name: round(auc(labels, members[:, i]), 4) for i, name in enumerate(names)},
        "without": {
            name: round(auc(labels, fused_logits(np.delete(members, i, axis=1), fusion)), 4)
            for i, name in enumerate(names)
            if len(names) > 1
        },
        "by_compression": auc_by(labels, fused, bins),
        "calibration_error": round(expected_calibration_error(labels, sigmoid(fused)), 4),
        "calibration_error_by_compression": {
            name: round(expected_calibration_error(labels[rows], sigmoid(fused[rows])), 4)
            for name, rows in chosen.items()
        },
    }


def auc_by(labels: np.ndarray, fused: np.ndarray, bins: Sequence[str]) -> dict[str, float]:
    """AUC within each bin; `bins` names that of each row."""
    places = np.asarray(bins)
    return {name: round(auc(labels[places == name], fused[places == name]), 4) for name in sorted(set(bins))}


def as_text(figures: dict[str, Any], indent: int = 0) -> str:
    """The tree of figures, one to a line; intervals as `0.80 [0.70, 0.90] (groups with a real: 12, with a fake: 9)`."""
    lines = []
    for key, value in figures.items():
        if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
            numbers = ["-" if value[k] is None else f"{value[k]:.3f}" for k in ("value", "low", "high")]
            among = " (groups with a real: {}, with a fake: {})".format(*value["groups"]) if "groups" in value else ""
            lines.append(f"{'  ' * indent}{key}: {numbers[0]} [{numbers[1]}, {numbers[2]}]{among}")
        elif isinstance(value, dict):
            lines += [f"{'  ' * indent}{key}:", as_text(value, indent + 1)]
        else:
            lines.append(f"{'  ' * indent}{key}: {value}")
    return "\n".join(lines)


def write_report(figures: dict[str, Any], folder: Path) -> None:
    """`evaluation.json` in the folder; what could not be measured is null."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(figures), indent=2, allow_nan=False)
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Curve = tuple[str, Sequence[int], Sequence[float]]
"""A name, labels and logits."""


def plot_roc(curves: Sequence[Curve], path: Path) -> None:
    """Detection over false-alarm rate, a line for each curve, as a PNG."""
    figure, axes = plt.subplots(figsize=(5, 5))
    for name, labels, scores in curves:
        alarmed, detected = roc_points(labels, scores)
        axes.plot(alarmed, detected, label=f"{name} (AUC {auc(labels, scores):.3f})", drawstyle="steps-post")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    axes.set(xlabel="false-alarm rate", ylabel="detection rate", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right")
    _save(figure, path)


def plot_reliability(curves: Sequence[Curve], path: Path) -> None:
    """The share of fakes over the score, as a PNG; the size of a point is its count."""
    figure, axes = plt.subplots(figsize=(5, 5))
    for name, labels, scores in curves:
        points = np.array(reliability(labels, sigmoid(scores)))
        error = expected_calibration_error(labels, sigmoid(scores))
        axes.plot(points[:, 0], points[:, 1], linewidth=0.7)
        axes.scatter(
            points[:, 0], points[:, 1], s=8 + 120 * points[:, 2] / len(labels), label=f"{name} (ECE {error:.3f})"
        )
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    axes.set(xlabel="score", ylabel="share of fakes", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
