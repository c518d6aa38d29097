"""Faces carried by their motion, on a real portrait that moves as told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from streamwatch.domain import Box, Face, Frame, Image
from streamwatch.scoring.follow import FaceFollower
from streamwatch.scoring.tracks import FaceTracker, iou
from tests.fakes.records import instant

PORTRAIT: Image = np.asarray(data.astronaut(), dtype=np.uint8)
BOX = Box(172.0, 68.0, 276.0, 190.0)
KEYPOINTS = np.array([[205, 110], [243, 108], [225, 130], [225, 152], [182, 118], [268, 112]], np.float32)


def moved(shift: tuple[float, float], zoom: float = 1.0, size: int = 1) -> tuple[Image, Box]:
    """The portrait scaled about its face and shifted, `size` times as large, and where its face is then."""
    middle = np.array([(BOX.x0 + BOX.x1) / 2, (BOX.y0 + BOX.y1) / 2])
    offset = middle * (1 - zoom) + shift
    matrix = np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]]) * size
    image = cv2.warpAffine(PORTRAIT, matrix, (512 * size, 512 * size), borderMode=cv2.BORDER_REFLECT)
    corners = np.array([[BOX.x0, BOX.y0], [BOX.x1, BOX.y1]]) * zoom + offset
    return np.asarray(image, np.uint8), Box(*(corners * size).ravel().tolist())


def frame(image: Image, at: float) -> Frame:
    return Frame("lobby", round(at * 100), instant(at), None, image)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("step", "zoom"),
    [((0.0, 0.0), 1.0), ((6.0, -3.0), 1.0), ((-12.0, 8.0), 1.0), ((2.0, 1.0), 1.05), ((0.0, 0.0), 0.94)],
)
def test_a_face_is_followed_where_it_goes(step: tuple[float, float], zoom: float, size: int) -> None:
    follower = FaceFollower(5.0)
    image, box = moved((0.0, 0.0), size=size)
    follower.detected(frame(image, 0.0), [Face(box, 0.9, KEYPOINTS * size)])
    for i in range(1, 5):
        image, truth = moved((step[0] * i, step[1] * i), zoom**i, size)
        followed = follower.follow(frame(image, i * 0.04))
        assert followed is not None
        (face,) = followed
        assert iou(face.box, truth) > 0.93
        assert (face.detected, face.confidence) == (False, 0.9)
    assert face.keypoints is not None
    eye = (KEYPOINTS[0] - (BOX.x0, BOX.y0)) / (BOX.width, BOX.height)
    where = (truth.x0 + eye[0] * truth.width, truth.y0 + eye[1] * truth.height)
    assert np.hypot(*(face.keypoints[0] - where)) < 0.04 * truth.height


def test_the_detector_looks_when_it_is_due() -> None:
    follower = FaceFollower(5.0)
    assert follower.follow(frame(PORTRAIT, 0.0)) is None
    asked = []
    for i in range(50):  # two seconds at 25 frames/s
        at = frame(PORTRAIT, i * 0.04)
        if follower.follow(at) is None:
            asked.append(i)
            follower.detected(at, [Face(BOX, 0.9)])
    assert asked == list(range(0, 50, 5))


def test_at_low_rates_every_frame_is_detected() -> None:
    follower = FaceFollower(5.0)
    for i in range(6):
        assert follower.follow(frame(PORTRAIT, i * 0.2)) is None
        follower.detected(frame(PORTRAIT, i * 0.2), [Face(BOX, 0.9)])


def test_no_face_needs_no_detector_until_it_is_due() -> None:
    follower = FaceFollower(5.0)
    follower.detected(frame(PORTRAIT, 0.0), [])
    assert follower.follow(frame(PORTRAIT, 0.04)) == ()
    assert follower.follow(frame(PORTRAIT, 0.2)) is None


def noise() -> Image:
    return np.random.default_rng(0).integers(0, 255, PORTRAIT.shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(noise, id="another scene"),
        pytest.param(lambda: np.full_like(PORTRAIT, 90), id="a blank picture"),
        pytest.param(lambda: np.ascontiguousarray(PORTRAIT[:400]), id="another size"),
        pytest.param(lambda: moved((0, 0), 1.6)[0], id="a jump in size"),
    ],
)
def test_a_lost_face_is_looked_for(after) -> None:  # type: ignore[no-untyped-def]
    follower = FaceFollower(5.0)
    follower.detected(frame(PORTRAIT, 0.0), [Face(BOX, 0.9)])
    assert follower.follow(frame(after(), 0.04)) is None


def test_time_that_goes_back_asks_the_detector() -> None:
    follower = FaceFollower(5.0)
    follower.detected(frame(PORTRAIT, 9.0), [Face(BOX, 0.9)])
    assert follower.follow(frame(PORTRAIT, 1.0)) is None


def test_following_confirms_nothing() -> None:
    """A false detection that stands still must not become a face by being followed."""
    tracker, follower = FaceTracker(confirm_hits=3), FaceFollower(5.0)
    follower.detected(frame(PORTRAIT, 0.0), [Face(BOX, 0.9)])
    (face,) = tracker.update(instant(0.0), [Face(BOX, 0.9)]).faces
    assert face.track is not None
    for i in range(1, 5):
        followed = follower.follow(frame(PORTRAIT, i * 0.04))
        assert followed is not None
        tracker.update(instant(i * 0.04), followed)
    assert not tracker.confirmed(face.track)
    for i in (5, 10):
        tracker.update(instant(i * 0.04), [Face(BOX, 0.9)])
    assert tracker.confirmed(face.track)
