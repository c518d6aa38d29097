from __future__ import annotations

import math

import pytest

from streamwatch.domain import Box, Face, FaceScore, Quality, UnknownReason, Verdict, logit, sigmoid
from streamwatch.scan.aggregate import Rules, Tally

FINE = Quality(1.0)
BLURRED = Quality(0.0, "sharpness")
SEED = Rules(0.3, seed=True)


def face(x: float = 100, height: float = 100, **members: float) -> FaceScore:
    box = Box(x, 50, x + height, 50 + height)
    values = members or {"A": 0.0}
    return FaceScore(Face(box, 0.9), sum(values.values()) / len(values), values)


def seed_video(*frames: dict[str, float]) -> Tally:
    tally = Tally(SEED)
    for members in frames:
        tally.add([face(**members)] if members else [], [FINE] if members else [])
    return tally


def test_the_seeds_video_formula_spelled_out() -> None:
    """mean over models ( sigmoid( mean over frames (logit) ) ), over the frames that have a face."""
    judged = seed_video({"V2": -3.0, "ViT": 2.0}, {}, {"V2": 1.0, "ViT": 0.0}).judge_video()
    expected = (1 / (1 + math.exp(1.0)) + 1 / (1 + math.exp(-1.0))) / 2
    assert judged.score == pytest.approx(expected)
    assert judged.members == pytest.approx({"V2": sigmoid(-1.0), "ViT": sigmoid(1.0)})


def test_the_seeds_published_clip() -> None:
    """V2 .0122, V2ST .6192, ViT .1459, ViTST .1692 gave .2366, 'real'."""
    scores = {"TimmV2": 0.0122, "TimmV2ST": 0.6192, "ViT": 0.1459, "ViTST": 0.1692}
    judged = seed_video({name: logit(score) for name, score in scores.items()}).judge_video()
    assert judged.score == pytest.approx(0.2366, abs=1e-4)
    assert judged.verdict is Verdict.REAL


@pytest.mark.parametrize(
    ("score", "video", "image"),
    [
        (0.2999, Verdict.REAL, Verdict.REAL),
        (0.3, Verdict.FAKE, Verdict.REAL),  # a video is real below 0.3, an image up to it
        (0.30005, Verdict.FAKE, Verdict.REAL),  # cut to four decimals first
        (0.3001, Verdict.FAKE, Verdict.FAKE),
        (3e-5, Verdict.REAL, Verdict.REAL),  # what the seed read as fake: 3e-05
        (0.99999, Verdict.FAKE, Verdict.FAKE),
    ],
)
def test_the_seeds_thresholds(score: float, video: Verdict, image: Verdict) -> None:
    # A hair above, so that the score's way through its logit and back does not fall below the limit.
    tally = seed_video({"ViT": logit(score) + 1e-9})
    assert tally.judge_video().verdict is video
    assert tally.judge_image().verdict is image


def test_no_face_is_unknown_and_never_real() -> None:
    for tally in (seed_video({}, {}), Tally(Rules(0.5))):
        for judged in (tally.judge_video(), tally.judge_image()):
            assert (judged.verdict, judged.score, judged.reason) == (Verdict.UNKNOWN, None, UnknownReason.NO_FACE)


def test_the_worst_person_decides_and_faces_are_not_mixed() -> None:
    tally = Tally(Rules(0.7))
    for step in range(6):
        people = tally.add([face(100 + 5 * step, A=-2.0), face(500, A=2.0)], [FINE, FINE])
        assert people == [0, 1]
    judged = tally.judge_video()
    assert (judged.verdict, judged.person) == (Verdict.FAKE, 1)
    assert judged.score == pytest.approx(sigmoid(2.0))
    assert [row["person"] for row in tally.people()] == [1, 0]


def test_one_stray_face_does_not_decide_over_a_whole_video() -> None:
    tally = Tally(Rules(0.7))
    for step in range(10):
        stray = [face(700, 60, A=6.0)] if step == 4 else []
        tally.add([face(A=-1.0), *stray], [FINE] * (1 + len(stray)))
    assert tally.judge_video().verdict is Verdict.REAL


def test_gated_faces_do_not_count_and_are_named_as_the_reason() -> None:
    tally = Tally(Rules(0.7))
    tally.add([face(A=5.0)], [BLURRED])
    judged = tally.judge_video()
    assert (judged.verdict, judged.reason) == (Verdict.UNKNOWN, UnknownReason.LOW_QUALITY)
    for _ in range(4):
        tally.add([face(A=-2.0)], [FINE])
    assert tally.judge_video().verdict is Verdict.REAL


def test_better_faces_weigh_more() -> None:
    tally = Tally(Rules(0.7))
    for _ in range(3):
        tally.add([face(A=3.0)], [Quality(1.0)])
        tally.add([face(A=-3.0)], [Quality(0.2)])
    assert tally.judge_video().score == pytest.approx(sigmoid(3.0), abs=0.2)
    assert (tally.judge_video().score or 0) > 0.7


@pytest.mark.parametrize(("value", "verdict"), [(0.9, Verdict.FAKE), (0.65, Verdict.SUSPECT), (0.2, Verdict.REAL)])
def test_verdicts_by_threshold(value: float, verdict: Verdict) -> None:
    tally = Tally(Rules(0.7))
    tally.add([face(A=logit(value))], [FINE])
    assert tally.judge_image().verdict is verdict


def test_members_that_contradict_each_other_give_no_verdict() -> None:
    tally = Tally(Rules(0.5, disagreement=3.0))
    for _ in range(4):
        tally.add([face(A=-3.0, B=3.5)], [FINE])
    judged = tally.judge_video()
    assert (judged.verdict, judged.reason) == (Verdict.UNKNOWN, UnknownReason.DISAGREEMENT)


def test_a_face_that_jumps_or_changes_size_is_another_person() -> None:
    tally = Tally(Rules(0.5))
    assert tally.add([face(100)], [FINE]) == [0]
    assert tally.add([face(160)], [FINE]) == [0]
    assert tally.add([face(400)], [FINE]) == [1]
    assert tally.add([face(400, 250)], [FINE]) == [2]
    assert tally.add([face(405), face(165)], [FINE, FINE]) == [1, 0]
