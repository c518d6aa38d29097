"""One stream from faces to its verdict, as the monitor drives it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from streamwatch.config import ScoringSettings
from streamwatch.domain import Box, Face, FaceScore, Frame, FrameScores, Image, StreamScore, UnknownReason, Verdict
from streamwatch.scoring.stream import Levelling, StreamScoring
from tests.fakes.records import instant

PORTRAIT: Image = np.asarray(data.astronaut(), dtype=np.uint8)
FACE = Box(172.0, 68.0, 276.0, 190.0)
SMALL = Box(172.0, 68.0, 202.0, 108.0)
# Two people side by side, on one picture.
PAIR: Image = np.concatenate([PORTRAIT, PORTRAIT[:, ::-1]], axis=1)
OTHER = Box(512 + 236.0, 68.0, 512 + 340.0, 190.0)


class Driver:
    """Feeds frames at a rate: `logits` are what the ensemble says of each face, in the order of `boxes`."""

    def __init__(self, fps: float = 2.0, p99: float | None = None, **changes: float) -> None:
        self.scoring = StreamScoring("lobby", ScoringSettings.model_validate(changes), Levelling(0.7, p99, fps))
        self.fps = fps
        self.now = 0.0
        self.seq = 0

    def frame(self, boxes: Iterable[Box], logits: Iterable[float], spread: float = 0.0) -> StreamScore:
        self.now += 1 / self.fps
        self.seq += 1
        frame = Frame("lobby", self.seq, instant(self.now), None, PAIR)
        tagged, todo = self.scoring.observe(frame, [Face(box, 0.9) for box in boxes])
        said = dict(zip((f.track for f in tagged), logits, strict=True))
        scores = []
        for face in todo:
            logit = said[face.track]
            scores.append(FaceScore(face, logit, {"a": logit - spread / 2, "b": logit + spread / 2}))
        return self.scoring.conclude(FrameScores(frame, tuple(scores), instant(self.now + 0.1)))

    def frames(self, count: int, boxes: Iterable[Box], logits: Iterable[float], spread: float = 0.0) -> StreamScore:
        boxes, logits = list(boxes), list(logits)
        return [self.frame(boxes, logits, spread) for _ in range(count)][-1]


def test_a_verdict_needs_five_frames() -> None:
    driver = Driver()
    early = driver.frames(4, [FACE], [3.0])
    assert (early.verdict, early.reason, early.score) == (Verdict.UNKNOWN, UnknownReason.WARMING_UP, None)
    score = driver.frames(1, [FACE], [3.0])
    assert (score.verdict, score.reason, score.worst_track) == (Verdict.FAKE, None, 1)
    assert score.score == pytest.approx(0.9526, abs=1e-4)
    assert (score.coverage, score.instant_logit, score.threshold) == (1.0, 3.0, 0.7)


def test_no_face_is_not_real() -> None:
    driver = Driver()
    assert driver.frames(10, [], []).reason is UnknownReason.NO_FACE
    driver.frames(10, [FACE], [-3.0])
    gone = driver.frames(6, [], [])
    assert (gone.verdict, gone.reason, gone.score) == (Verdict.UNKNOWN, UnknownReason.NO_FACE, None)


def test_two_people_are_never_mixed() -> None:
    driver = Driver()
    score = driver.frames(10, [FACE, OTHER], [-3.0, 3.0])
    assert [(t.track, t.verdict) for t in score.tracks] == [(1, Verdict.REAL), (2, Verdict.FAKE)]
    assert (score.worst_track, score.verdict) == (2, Verdict.FAKE)
    # Both are gone long enough; nothing of the fake one clings to who comes next.
    driver.frames(6, [], [])
    after = driver.frames(6, [OTHER], [-3.0])
    assert (after.verdict, after.worst_track) == (Verdict.REAL, 3)


def test_a_small_face_is_low_quality_not_real() -> None:
    score = Driver().frames(10, [SMALL], [3.0])
    assert (score.verdict, score.reason, score.score) == (Verdict.UNKNOWN, UnknownReason.LOW_QUALITY, None)
    assert (score.gate, score.tracks[0].gate) == ("size", "size")


def test_the_gate_is_named_while_it_is_the_reason() -> None:
    driver = Driver()
    assert driver.frames(10, [FACE], [3.0]).gate is None
    small = driver.frames(30, [SMALL], [3.0])  # somebody else, far away; the first face is gone by then
    assert (small.reason, small.gate) == (UnknownReason.LOW_QUALITY, "size")
    stale = driver.scoring.tick(instant(driver.now + 5.0))
    assert (stale.reason, stale.gate) == (UnknownReason.STALE, None)


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_counts_as_none(nonsense: float) -> None:
    driver = Driver()
    driver.frames(8, [FACE], [3.0])
    score = driver.frames(2, [FACE], [nonsense])
    assert score.verdict is Verdict.FAKE
    assert score.coverage == pytest.approx(0.8, abs=0.1)
    assert score.score == pytest.approx(0.9526, abs=1e-4)
    assert score.tracks[0].logit is None
    assert driver.frames(30, [FACE], [nonsense]).verdict is Verdict.UNKNOWN


def test_stale_after_some_seconds_without_a_frame() -> None:
    driver = Driver()
    driver.frames(10, [FACE], [3.0])
    fresh = driver.scoring.tick(instant(driver.now + 1.0))
    assert fresh.verdict is Verdict.FAKE
    stale = driver.scoring.tick(instant(driver.now + 5.0))
    assert (stale.verdict, stale.reason, stale.score) == (Verdict.UNKNOWN, UnknownReason.STALE, None)
    assert stale.seq == driver.seq


def test_a_stream_that_never_delivered_is_stale_too() -> None:
    scoring = Driver().scoring
    assert scoring.tick(instant(0.0)).reason is UnknownReason.WARMING_UP
    assert scoring.tick(instant(5.0)).reason is UnknownReason.STALE


def test_frames_that_were_never_scored_lower_the_coverage() -> None:
    driver = Driver()
    driver.frames(12, [FACE], [3.0])
    for _ in range(12):  # the engine is overloaded: observed, never concluded
        driver.now += 0.5
        driver.seq += 1
        driver.scoring.observe(Frame("lobby", driver.seq, instant(driver.now), None, PAIR), [Face(FACE, 0.9)])
    score = driver.frames(1, [FACE], [3.0])
    assert score.coverage < 0.5
    assert (score.verdict, score.reason) == (Verdict.UNKNOWN, UnknownReason.STALE)


@pytest.mark.parametrize("fps", [2.0, 0.25])
def test_a_face_that_is_never_scored_warms_up_for_one_window_and_is_stale_then(fps: float) -> None:
    driver = Driver(fps)
    window = max(10.0, 10 / fps)
    said = [(driver.now, driver.frame([FACE], [float("nan")]).reason) for _ in range(round(3 * window * fps))]
    early = {reason for at, reason in said if at <= window - 1 / fps}
    late = {reason for at, reason in said if at > window + 1 / fps}
    assert (early, late) == ({UnknownReason.WARMING_UP}, {UnknownReason.STALE})
    assert driver.frames(10, [FACE], [3.0]).verdict is Verdict.FAKE


def test_scores_that_all_expire_make_a_stream_stale() -> None:
    driver = Driver()
    for _ in range(60):  # the engine refuses each: observed, never concluded
        driver.now, driver.seq = driver.now + 0.5, driver.seq + 1
        driver.scoring.observe(Frame("lobby", driver.seq, instant(driver.now), None, PAIR), [Face(FACE, 0.9)])
        score = driver.scoring.tick(instant(driver.now + 0.2))
    assert score.reason is UnknownReason.STALE


def test_ever_new_faces_do_not_warm_up_for_ever() -> None:
    """No face stays long enough to be confirmed: the stream is not being scored, however young each of them is."""
    driver = Driver(confirm_hits=8)
    for i in range(80):
        score = driver.frame([FACE if i % 12 < 6 else OTHER], [3.0])
    assert score.reason is UnknownReason.STALE


def test_a_stream_that_comes_back_warms_up_anew() -> None:
    driver = Driver()
    driver.frames(3, [FACE], [3.0])
    driver.now += 60.0
    assert driver.scoring.tick(instant(driver.now)).reason is UnknownReason.STALE
    assert driver.frame([FACE], [3.0]).reason is UnknownReason.WARMING_UP


def test_members_that_disagree_give_no_verdict() -> None:
    score = Driver(p99=2.0).frames(10, [FACE], [1.0], spread=4.0)
    assert (score.verdict, score.reason, score.score) == (Verdict.UNKNOWN, UnknownReason.DISAGREEMENT, None)
    assert Driver(p99=5.0).frames(10, [FACE], [1.0], spread=4.0).verdict is Verdict.FAKE


def test_at_low_rates_the_window_grows_to_ten_frames() -> None:
    driver = Driver(fps=0.5)
    driver.frames(5, [FACE], [-3.0])
    score = driver.frames(5, [FACE], [3.0])
    assert score.score == pytest.approx(0.5, abs=0.01)  # all ten frames of 20 s count
    assert score.window == 20.0


def test_a_scene_cut_begins_anew() -> None:
    driver = Driver()
    driver.frames(10, [FACE], [3.0])
    driver.now += 0.5
    frame = Frame("lobby", 99, instant(driver.now), None, np.full_like(PAIR, 10))
    driver.scoring.observe(frame, [])
    score = driver.scoring.conclude(FrameScores(frame, (), instant(driver.now)))
    assert (score.scene_cut, score.tracks, score.verdict) == (True, (), Verdict.UNKNOWN)
    assert driver.frame([], []).verdict is not Verdict.REAL


def test_a_burst_raises_what_is_expected() -> None:
    driver = Driver()
    driver.frames(20, [FACE], [3.0])
    driver.scoring.set_rate(4.0)
    driver.fps = 4.0
    score = driver.frames(20, [FACE], [3.0])
    assert score.coverage == pytest.approx(1.0, abs=0.05)
    driver.fps = 2.0  # promised four, delivers two
    assert driver.frames(20, [FACE], [3.0]).coverage == pytest.approx(0.5, abs=0.05)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["none", "one", "two"]), st.floats(-8, 8), st.floats(-0.2, 2.0)), max_size=25)
)
def test_whatever_comes_the_verdict_is_sound(steps: list[tuple[str, float, float]]) -> None:
    """Time never goes back, a score is given exactly where there is a verdict, and REAL needs a confirmed, scored
    face."""
    driver = Driver()
    last = float("-inf")
    for faces, logit, pause in steps:
        driver.now = max(0.0, driver.now + pause - 0.5)
        boxes = {"none": [], "one": [FACE], "two": [FACE, OTHER]}[faces]
        for score in (driver.frame(boxes, [logit] * len(boxes)), driver.scoring.tick(instant(driver.now + 0.1))):
            assert score.at.mono >= last
            last = score.at.mono
            assert (score.score is None) == (score.verdict is Verdict.UNKNOWN) == (score.reason is not None)
            assert score.score is None or 0.0 <= score.score <= 1.0
            assert 0.0 <= score.coverage <= 1.0
            if score.score is not None:
                worst = next(t for t in score.tracks if t.track == score.worst_track)
                assert worst.confirmed
                assert worst.score == max(t.score for t in score.tracks if t.confirmed and t.score is not None)


def test_two_faces_at_the_threshold_do_not_make_the_streams_verdict_flicker() -> None:
    """One is still FAKE by its hysteresis, the other SUSPECT, and which has the higher score changes all the time."""
    driver = Driver(fps=5.0, window=2.0)
    driver.frames(60, [FACE, OTHER], [1.4, -1.4])
    near = math.log(0.67 / 0.33)
    wave = [0.05 * math.sin(step / 9) for step in range(240)]
    scores = [driver.frame([FACE, OTHER], [near + height, near - height]) for height in wave][80:]
    assert {tuple(t.verdict for t in score.tracks) for score in scores} == {(Verdict.FAKE, Verdict.SUSPECT)}
    assert {score.verdict for score in scores} == {Verdict.FAKE}
    assert {score.worst_track for score in scores} == {1}
