from __future__ import annotations

import numpy as np
import pytest

from streamwatch.training.metrics import (
    auc,
    auc_gain,
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


def test_a_gain_is_drawn_for_both_at_once() -> None:
    """Two scores that share their noise differ by less than either's interval is wide."""
    rng = np.random.default_rng(5)
    labels = [0, 1] * 40
    groups = [f"g{i // 2}" for i in range(80)]
    worse = np.array(labels) + rng.normal(0, 1.0, 80)
    better = worse + 0.3 * np.array(labels)
    gain, alone = auc_gain(labels, better, worse, groups), grouped_auc(labels, better.tolist(), groups)
    assert gain.value == pytest.approx(auc(labels, better) - auc(labels, worse)) and gain.low > 0
    assert gain.high - gain.low < 0.5 * (alone.high - alone.low)
    same = auc_gain(labels, worse, worse, groups)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


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


def test_few_groups_give_no_interval() -> None:
    """Resampling one pair of clips draws the same pair again and again: that is no certainty."""
    alone = grouped_auc([0, 1], [0.1, 0.9], ["a", "a"])
    assert alone.value == 1.0 and np.isnan(alone.low) and np.isnan(alone.high) and alone.groups == (1, 1)
    one_fake = grouped_auc([0] * 20 + [1], [*np.linspace(0, 1, 20), 0.5], [str(i) for i in range(20)] + ["f"])
    assert np.isnan(one_fake.low) and one_fake.groups == (20, 1)
    assert one_fake.to_dict()["low"] is None and one_fake.to_dict()["groups"] == [20, 1]
    enough = grouped_auc([0, 1] * 5, [0.1, 0.9] * 5, [str(i // 2) for i in range(10)], rounds=50)
    assert (enough.low, enough.high, enough.groups) == (1.0, 1.0, (5, 5))


def test_a_score_that_is_no_number_ranks_nothing() -> None:
    assert np.isnan(auc([0, 1], [1, float("nan")])) and np.isnan(auc([0, 1], [float("nan"), 1]))


def test_a_threshold_counts_weights() -> None:
    scores = [0.1, 0.2, 0.3, 0.9]
    assert threshold_at(scores, 0.25) == pytest.approx(0.3)
    assert threshold_at(scores, 0.25, [1, 1, 1, 3]) == pytest.approx(0.9)
    assert threshold_at(scores, 0.5, [1, 1, 1, 3]) == pytest.approx(0.3) and threshold_at(scores, 0.0) > 0.9
