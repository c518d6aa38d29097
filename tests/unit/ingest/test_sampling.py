from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamwatch.ingest.sampling import Backlog, FrameRate, Sampler, SkipPolicy


@given(st.integers(1, 60), st.floats(0.5, 30))
def test_the_rate_is_met_where_the_stream_can_give_it(native: int, fps: float) -> None:
    sampler = Sampler(fps)
    taken = sum(sampler.take(index / native) for index in range(native * 20))
    wanted = 20 * min(fps, native)
    assert taken == pytest.approx(wanted, abs=max(2.0, 0.06 * wanted))


def test_gaps_in_the_pictures_do_not_lead_to_bursts() -> None:
    sampler = Sampler(2.0)
    assert [sampler.take(t) for t in (0.0, 0.25, 7.0, 7.04, 7.3, 7.5)] == [True, False, True, False, False, True]


def test_a_jump_back_begins_a_new_grid() -> None:
    sampler = Sampler(1.0)
    assert sampler.take(100.0)
    assert sampler.take(3.0)
    assert not sampler.take(3.5)


def test_a_raised_rate_holds_at_once() -> None:
    sampler = Sampler(0.1)
    assert sampler.take(0.0)
    sampler.fps = 5.0
    assert [sampler.take(t) for t in (0.04, 0.08, 0.24)] == [True, False, True]


@pytest.mark.parametrize("fps", [1, 25, 29.97, 120])
def test_the_frame_rate_is_measured_in_spite_of_loss_and_reordering(fps: float) -> None:
    rate = FrameRate()
    order = [0, 3, 1, 2, 6, 4, 5, 9, 8, 12, 10, 11, 15, 13, 14]
    for index in order:
        rate.add(index / fps)
    assert rate.value == pytest.approx(fps, rel=0.01)


def test_a_new_frame_rate_counts_when_it_stays() -> None:
    rate, t = FrameRate(), 0.0
    for fps, value in ((25, 25.0), (10, 25.0), (25, 25.0), (10, 25.0), (10, 10.0), (10, 10.0)):
        for _ in range(12):
            t += 1 / fps
            rate.add(t)
        assert rate.value == pytest.approx(value, rel=0.01)


def test_a_group_of_another_length_is_not_cut_short() -> None:
    sampler, policy = Sampler(5.0), SkipPolicy()
    for key in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
        policy.before(key, True, sampler)
        sampler.take(key)
    assert policy.keyframe_interval is None, "the last group was twice as long"
    policy.before(4.0, True, sampler)
    assert policy.keyframe_interval is None


def run(
    fps: float, *, sampling: float, gop: float, seconds: float = 12.0, b_pictures: bool = False
) -> tuple[int, int, int]:
    """(pictures, of them decoded, of them sampled) with a decoder that obeys the policy."""
    sampler, policy, total, decoded, sampled = Sampler(sampling), SkipPolicy(), 0, 0, 0
    per_group = round(gop * fps)
    for index in range(int(seconds * fps)):
        key, disposable = index % per_group == 0, b_pictures and index % 2 == 1
        mode = policy.before(index / fps, key, sampler)
        total += 1
        if (mode == "NONKEY" and not key) or (mode == "NONREF" and disposable):
            continue
        decoded += 1
        policy.decoded(disposable)
        sampled += sampler.take(index / fps)
    return total, decoded, sampled


def test_key_pictures_alone_where_they_suffice() -> None:
    total, decoded, sampled = run(25, sampling=1.0, gop=1.0, seconds=30)
    assert sampled == pytest.approx(30, abs=1)
    assert decoded < total * 0.2


def test_the_rest_of_a_group_is_not_decoded_after_its_last_sample() -> None:
    total, decoded, sampled = run(25, sampling=2.0, gop=1.0, seconds=30)
    assert sampled == pytest.approx(60, abs=2)
    assert decoded < total * 0.65


def test_disposable_pictures_are_skipped_where_the_others_suffice() -> None:
    total, decoded, sampled = run(30, sampling=5.0, gop=60.0, b_pictures=True, seconds=58)
    assert sampled == pytest.approx(5 * 58, rel=0.02)
    assert total * 0.45 < decoded <= total


def test_every_picture_where_every_picture_is_wanted() -> None:
    total, decoded, sampled = run(25, sampling=25.0, gop=1.0)
    assert total == decoded == sampled


def test_irregular_groups_are_decoded_whole() -> None:
    sampler, policy = Sampler(0.5), SkipPolicy()
    for t, key in [(0.0, True), (0.5, False), (1.0, True), (4.0, True), (4.2, True), (4.3, False)]:
        assert policy.before(t, key, sampler) == "DEFAULT"
        sampler.take(t)
    assert policy.keyframe_interval is None


def test_a_key_picture_that_went_missing_changes_nothing() -> None:
    sampler, policy = Sampler(1.0), SkipPolicy()
    for second in (0, 1, 2, 4, 5, 6):
        mode = policy.before(float(second), True, sampler)
        sampler.take(float(second))
    assert policy.keyframe_interval == 1.0
    assert mode == "NONKEY"


def test_a_reader_that_is_behind_reads_on_without_decoding() -> None:
    sampler, policy = Sampler(25.0), SkipPolicy()
    assert policy.before(0.0, True, sampler) == "DEFAULT"
    assert policy.before(0.04, False, sampler, behind=True) == "NONKEY"
    assert policy.before(0.08, False, sampler) == "NONKEY", "until the next key picture"
    assert policy.before(1.0, True, sampler) == "DEFAULT"


def test_reads_that_never_wait_mean_a_backlog() -> None:
    backlog, now = Backlog(), 0.0
    for _ in range(60):  # decoding takes 0.05 s, and the next packet is there already
        now += 0.05
        backlog.read(0.0001, now)
    assert backlog.behind
    for _ in range(60):  # caught up: each read waits for the camera
        now += 0.04
        backlog.read(0.035, now)
    assert not backlog.behind


def test_the_opening_burst_is_no_backlog() -> None:
    backlog, now = Backlog(), 0.0
    for index in range(100):
        waited = 0.0 if index < 25 else 0.036
        now += waited + 0.004
        backlog.read(waited, now)
        assert not backlog.behind


def test_what_is_skipped_costs_the_samples_that_were_due() -> None:
    """25 pictures a second of which one is decoded every 0.48 s: each of five samples a second is taken or missed."""
    sampler, taken, missed = Sampler(5.0), 0, 0
    for i in range(25 * 12):
        if i % 12 == 0:
            taken += sampler.take(i / 25)
        else:
            missed += sampler.miss(i / 25)
    assert taken == 25, "every picture that is decoded is of use"
    assert 54 <= taken + missed <= 61


def test_a_jump_of_time_is_no_miss() -> None:
    sampler = Sampler(5.0)
    assert not sampler.miss(3.0)
    assert sampler.take(3.0)
    assert not any(sampler.miss(t) for t in (1.0, 3.1, 3.3, 500.0))
    assert sampler.take(500.0)


def test_the_longest_group_of_pictures() -> None:
    policy, sampler = SkipPolicy(), Sampler(5.0)
    assert policy.longest_group == float("inf")
    for t in (0.0, 1.0, 4.0):
        policy.before(t, True, sampler)
    assert policy.longest_group == 3.0
