from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamwatch.domain import Box, Instant, logit, sigmoid


@given(st.floats(-700, 700))
def test_sigmoid_stays_in_its_range(x: float) -> None:
    assert 0.0 <= sigmoid(x) <= 1.0
    assert sigmoid(x) == pytest.approx(1.0 - sigmoid(-x))


@given(st.floats(1e-6, 1 - 1e-6))
def test_logit_is_the_inverse(score: float) -> None:
    assert sigmoid(logit(score)) == pytest.approx(score, rel=1e-9)


def test_logit_of_the_ends_is_finite() -> None:
    assert logit(0.0) == -20.0
    assert logit(1.0) == 20.0
    assert math.isfinite(logit(1e-300))


def test_small_nouns() -> None:
    assert Box(1, 2, 4, 8).width == 3
    assert Box(1, 2, 4, 8).height == 6
    assert Instant(1.0, 100.0).shifted(0.5) == Instant(1.5, 100.5)
