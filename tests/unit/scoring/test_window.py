"""The window and the verdict: trimmed means, coverage, reasons to say nothing, hysteresis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamwatch.config import ScoringSettings
from streamwatch.domain import UnknownReason, Verdict, sigmoid
from streamwatch.scoring.verdicts import Counts, Levels, disagree, unknown_reason
from streamwatch.scoring.window import Rate, Sample, TrackWindow, WindowScore, trimmed_mean, trimmed_weights

finite = st.floats(-20, 20)


def test_the_trimmed_mean_by_hand() -> None:
    samples = [Sample(t, logit, 1.0, {"a": logit, "b": 0.0}) for t, logit in enumerate([0, 1, 2, 3, 100])]
    said = trimmed_mean(samples, 0.2)
    assert said.logit == pytest.approx(2.0)
    assert said.members == pytest.approx({"a": 2.0, "b": 0.0})
    assert trimmed_mean(samples, 0.0).logit == pytest.approx(21.2)
    # 0.1 of five is half a sample at either end.
    assert trimmed_mean(samples, 0.1).logit == pytest.approx((0.5 * 0 + 1 + 2 + 3 + 0.5 * 100) / 4)


def test_quality_weighs() -> None:
    good, bad = Sample(0, 4.0, 1.0, {}), Sample(1, -4.0, 0.25, {})
    assert trimmed_mean([good, bad], 0.0).logit == pytest.approx((4.0 - 1.0) / 1.25)


@given(st.lists(st.tuples(finite, st.floats(0.05, 1.0)), min_size=1, max_size=60), st.floats(0, 0.45))
def test_trimming_keeps_its_share_and_stays_within(pairs: list[tuple[float, float]], trim: float) -> None:
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    kept = trimmed_weights(values, weights, trim)
    assert kept.sum() == pytest.approx((1 - 2 * trim) * weights.sum(), rel=1e-6)
    assert (kept >= 0).all()
    assert (kept <= weights + 1e-9).all()
    mean = trimmed_mean([Sample(0, v, w, {}) for v, w in pairs], trim).logit
    assert values.min() - 1e-6 <= mean <= values.max() + 1e-6


@given(st.lists(finite, min_size=10, max_size=50), st.floats(-20, 20))
def test_one_glitch_in_ten_or_more_cannot_leave_the_others(values: list[float], glitch: float) -> None:
    """With a tenth cut off at either end a single frame never carries the mean beyond the rest."""
    mean = trimmed_mean([Sample(0, v, 1.0, {}) for v in [*values, glitch]], 0.1).logit
    assert min(values) - 1e-6 <= mean <= max(values) + 1e-6


def test_expected_frames_follow_the_rate() -> None:
    rate = Rate(2.0)
    assert rate.expected(0.0, 10.0) == 20.0
    rate.change(5.0, 10.0)
    assert rate.expected(0.0, 10.0) == 20.0
    assert rate.expected(6.0, 12.0) == 8.0 + 10.0
    rate.change(2.0, 12.0)
    assert rate.expected(9.0, 13.0) == 2.0 + 10.0 + 2.0


def test_coverage_counts_from_the_tracks_start() -> None:
    window = TrackWindow(100.0)
    for i in range(4):
        window.add(Sample(100.0 + i * 0.5, 0.0, 1.0, {}))
    assert window.coverage(102.0, 10.0, Rate(2.0)) == 1.0
    assert window.coverage(104.0, 10.0, Rate(2.0)) == 0.5
    window.prune(100.6)
    assert len(window.samples) == 2


def test_the_usual_gate_is_the_one_met_most_often_in_the_window() -> None:
    assert TrackWindow(100.0).usual_gate is None
    window = TrackWindow(100.0)
    for at, gate in ((100.0, "pose"), (101.0, "pose"), (102.0, "size"), (103.0, "sharpness"), (104.0, "size")):
        window.gate(at, gate)
    assert window.usual_gate == "pose"  # of two equals the one met first
    window.prune(100.5)
    assert window.usual_gate == "size"


@pytest.mark.parametrize(
    ("accepted", "gated", "coverage", "young", "reason"),
    [
        (10, 0, 1.0, False, None),
        (4, 0, 1.0, True, UnknownReason.WARMING_UP),
        (0, 0, 0.0, True, UnknownReason.WARMING_UP),
        (4, 0, 1.0, False, UnknownReason.WARMING_UP),  # a window that has just become shorter
        (0, 0, 0.0, False, UnknownReason.STALE),
        (4, 0, 0.2, False, UnknownReason.STALE),
        (1, 4, 1.0, True, UnknownReason.LOW_QUALITY),
        (1, 4, 0.2, False, UnknownReason.LOW_QUALITY),
        (6, 8, 0.4, False, UnknownReason.LOW_QUALITY),
        (6, 0, 0.4, False, UnknownReason.STALE),
    ],
)
def test_reasons(accepted: int, gated: int, coverage: float, young: bool, reason: UnknownReason | None) -> None:
    assert unknown_reason(Counts(accepted, gated, coverage, young), ScoringSettings()) is reason


@pytest.mark.parametrize(
    ("members", "limit", "expected"),
    [
        ({"a": -1.0, "b": 3.0}, 2.0, True),
        ({"a": -1.0, "b": 0.5}, 2.0, False),  # not far enough apart
        ({"a": 2.0, "b": 9.0}, 2.0, False),  # far apart, but both say fake
        ({"a": -9.0, "b": -2.0}, 2.0, False),  # both say real
        ({"a": -1.0, "b": 3.0}, None, False),  # not judged for this weight set
        ({"a": 3.0}, 0.0, False),
        ({"a": 1.3, "b": -3.5, "c": -2.8, "d": 0.8}, 3.7, False),  # real without any of them, too
        ({"a": 4.0, "b": -4.0, "c": -3.0, "d": -1.0}, 3.7, False),  # one alone is sure, and no three would follow it
        ({"a": 6.0, "b": -3.0, "c": 1.0, "d": 0.5}, 3.7, True),  # fake, but for the first
        ({"a": -6.0, "b": 2.5, "c": 3.0, "d": 3.5}, 3.7, True),  # real, but for the first
    ],
)
def test_disagreement(members: dict[str, float], limit: float | None, expected: bool) -> None:
    mean = sum(members.values()) / len(members)
    assert disagree(WindowScore(mean, members), 0.7, limit) is expected


def test_the_verdict_has_hysteresis() -> None:
    levels = Levels.of(0.7, ScoringSettings(hysteresis=0.05, suspect_margin=0.15))
    verdict, said = Verdict.UNKNOWN, []
    for score in (0.2, 0.56, 0.71, 0.66, 0.64, 0.51, 0.49, 0.54):
        verdict = levels.verdict(score, verdict)
        said.append(verdict.value)
    assert said == ["real", "suspect", "fake", "fake", "suspect", "suspect", "real", "real"]


@given(st.lists(st.floats(0.651, 0.699), min_size=2, max_size=50))
def test_no_flicker_within_the_hysteresis(scores: list[float]) -> None:
    """Once FAKE, a score that wanders between threshold and release never changes the verdict."""
    levels = Levels.of(0.7, ScoringSettings())
    verdict = levels.verdict(0.75, Verdict.UNKNOWN)
    for score in scores:
        verdict = levels.verdict(score, verdict)
        assert verdict is Verdict.FAKE


def test_a_window_score_is_a_probability() -> None:
    assert sigmoid(trimmed_mean([Sample(0, 2.0, 1.0, {})], 0.1).logit) == pytest.approx(0.8808, abs=1e-4)
