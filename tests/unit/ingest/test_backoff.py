from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from streamwatch.config import IngestSettings
from streamwatch.domain import FailureReason
from streamwatch.ingest.backoff import Backoff

SETTINGS = IngestSettings(backoff_initial=0.5, backoff_cap=30.0, backoff_auth=60.0)


@given(st.integers(), st.integers(1, 200))
def test_delays_double_up_to_the_cap_with_jitter_on_the_upper_half(seed: int, attempts: int) -> None:
    backoff = Backoff(SETTINGS, random.Random(seed))
    for attempt in range(attempts):
        whole = min(30.0, 0.5 * 2.0**attempt)
        assert whole / 2 <= backoff.next(FailureReason.CONNECTION_FAILED) <= whole


def test_two_cameras_do_not_come_back_together() -> None:
    delays = {Backoff(SETTINGS, random.Random(seed)).next(FailureReason.TIMEOUT) for seed in range(20)}
    assert len(delays) == 20


def test_wrong_credentials_wait_longer_and_do_not_jitter_below_it() -> None:
    backoff = Backoff(SETTINGS)
    delays = [backoff.next(FailureReason.AUTH_FAILED) for _ in range(6)]
    assert delays == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_a_stable_run_resets_it() -> None:
    backoff = Backoff(SETTINGS)
    for _ in range(10):
        backoff.next(FailureReason.ENDED)
    backoff.reset()
    assert backoff.next(FailureReason.ENDED) <= 0.5
    assert backoff.attempt == 1
