from __future__ import annotations

import numpy as np
import pytest

from streamwatch.training.metrics import (
    auc,
    expected_calibration_error,
    fit_temperature,
    grouped_auc,
    reliability,
    roc_points,
    sigmoid,
    threshold_at,
    trimmed_mean,
)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 1.0),
        ([1, 1, 0, 0], [1, 2, 3, 4], 0.0),
        ([0, 1, 0, 1], [1, 1, 1, 1], 0.5),
        ([0, 1, 0, 1], [1, 2, 3, 4], 0.75),
    ],
)
def test_auc_counts_pairs_in_order(labels: list[int], scores: list[float], expected: float) -> None:
    assert auc(labels, scores) == pytest.approx(expected)


def test_auc_needs_both_kinds() -> None:
    assert np.isnan(auc([1, 1], [0.2, 0.3]))


def test_auc_is_the_area_under_the_roc() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    scores = np.round(labels + rng.normal(0, 1, 300), 1)  # rounded: with ties
    alarmed, detected = roc_points(labels, scores)
    assert (alarmed[0], detected[0], alarmed[-1], detected[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(detected, alarmed) == pytest.approx(auc(labels, scores))


def test_the_interval_is_wider_for_fewer_groups() -> None:
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 100).tolist()
    scores = (np.array(labels) + rng.normal(0, 1, 200)).tolist()
    many = grouped_auc(labels, scores, [str(i // 2) for i in range(200)], rounds=300)
    few = grouped_auc(labels, scores, [str(i // 40) for i in range(200)], rounds=300)
    assert many.low < many.value < many.high
    assert many.value == few.value
    copies = grouped_auc(labels * 4, scores * 4, [str(i // 2) for i in range(200)] * 4, rounds=300)
    assert copies.high - copies.low == pytest.approx(many.high - many.low, rel=0.25)  # copies are no evidence


def test_temperature_recovers_the_scale_of_overconfident_logits() -> None:
    rng = np.random.default_rng(2)
    honest = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < sigmoid(honest)
    temperature, bias = fit_temperature(labels, 3 * honest + 1.5)
    assert temperature == pytest.approx(3, rel=0.08)
    assert bias == pytest.approx(-1.5, abs=0.2)
    calibrated = sigmoid((3 * honest + 1.5 + bias) / temperature)
    assert (
        expected_calibration_error(labels, calibrated) < 0.02 < expected_calibration_error(labels, sigmoid(3 * honest))
    )


def test_temperature_never_turns_the_order_round() -> None:
    temperature, _ = fit_temperature([1, 1, 0, 0], [-2, -1, 1, 2])
    assert temperature > 0


def test_temperature_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="both"):
        fit_temperature([1, 1], [0.0, 1.0])


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1])
def test_the_threshold_keeps_its_false_alarm_rate(rate: float) -> None:
    scores = np.random.default_rng(3).random(500)
    threshold = threshold_at(scores, rate)
    assert (scores >= threshold).mean() <= rate
    assert (scores >= threshold - 0.02).mean() > rate


def test_a_trimmed_mean_ignores_a_glitch() -> None:
    assert trimmed_mean([1.0] * 9 + [100.0]) == pytest.approx(1.0)
    assert np.isnan(trimmed_mean([]))


def test_reliability_bins_say_what_happened() -> None:
    bins = reliability([0, 1, 1, 1], [0.12, 0.18, 0.91, 1.0], bins=10)
    assert [mean for mean, _, _ in bins] == pytest.approx([0.15, 0.955])
    assert [(share, count) for _, share, count in bins] == [(0.5, 2), (1.0, 2)]
