"""Tracks: who is who from frame to frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamwatch.domain import Box, Face, Floats, Image
from streamwatch.scoring.tracks import FaceTracker, appearance, histogram_distance, iou, scene_signature
from tests.fakes.records import instant


def face(x: float, y: float = 100.0, size: float = 80.0) -> Face:
    return Face(Box(x, y, x + size, y + size * 1.2), 0.9)


def ids(tracker: FaceTracker, at: float, *faces: Face, signature: Floats | None = None) -> list[int | None]:
    return [f.track for f in tracker.update(instant(at), faces, signature).faces]


def test_a_face_keeps_its_track_while_it_moves() -> None:
    tracker = FaceTracker(confirm_hits=3)
    seen = [ids(tracker, t * 0.5, face(100 + 40 * t)) for t in range(10)]
    assert seen == [[1]] * 10
    assert tracker.confirmed(1)


def test_confirmed_after_some_hits_and_lost_after_some_time() -> None:
    tracker = FaceTracker(confirm_hits=3, lost_after=2.0)
    for t in range(2):
        ids(tracker, t * 0.5, face(100))
    assert not tracker.confirmed(1)
    ids(tracker, 1.0, face(100))
    assert tracker.confirmed(1)
    ids(tracker, 2.0)
    ids(tracker, 3.5)
    assert not tracker.confirmed(1)
    assert ids(tracker, 4.0, face(100)) == [2]  # an id is never used again


def test_two_people_crossing_keep_their_tracks() -> None:
    """Motion tells them apart: each goes on as it went before."""
    tracker = FaceTracker()
    for t in range(21):
        left, right = face(100 + 20 * t), face(500 - 20 * t, y=130)
        assert ids(tracker, t * 0.2, left, right) == [1, 2]


def picture(*colours: tuple[int, tuple[int, int, int]]) -> Image:
    """A grey picture with a coloured face at each x."""
    image = np.full((400, 800, 3), 128, np.uint8)
    for x, colour in colours:
        image[80:260, x : x + 80] = colour
    return image


def test_appearance_decides_where_faces_meet() -> None:
    """Two people stop close together and change places between two frames: position alone would swap them."""
    red, blue = (200, 40, 40), (40, 40, 200)
    tracker = FaceTracker()
    for t, (a, b) in enumerate([(100, 260), (100, 260), (150, 230), (232, 148)]):
        image = picture((a, red), (b, blue))
        faces = [face(a), face(b)]
        looks = [appearance(image, f.box) for f in faces]
        tagged = tracker.update(instant(t * 0.2), faces, None, looks).faces
        assert [f.track for f in tagged] == [1, 2]


def test_a_scene_cut_ends_all_tracks() -> None:
    tracker = FaceTracker()
    day = scene_signature(np.full((90, 160, 3), 220, np.uint8))
    night = scene_signature(np.full((90, 160, 3), 20, np.uint8))
    assert ids(tracker, 0.0, face(100), signature=day) == [1]
    update = tracker.update(instant(0.5), [face(100)], night)
    assert (update.cut, update.lost, [f.track for f in update.faces]) == (True, (1,), [2])


def test_noise_and_a_moving_object_are_no_cut() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (6, 10, 3), dtype=np.uint8).repeat(60, 0).repeat(64, 1)
    tracker = FaceTracker()
    for t in range(10):
        image = np.clip(base.astype(int) + rng.normal(0, 4, base.shape), 0, 255).astype(np.uint8)
        image[100:250, 50 * t : 50 * t + 120] = 90
        assert not tracker.update(instant(t * 0.5), [], scene_signature(image)).cut


boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    st.floats(0, 500),
    st.floats(0, 500),
    st.floats(20, 200),
    st.floats(20, 200),
)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a: Box, b: Box) -> None:
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0.0 <= iou(a, b) <= 1.0
    assert iou(a, a) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(boxes, max_size=5), max_size=20))
def test_each_face_has_one_track_and_no_track_two_faces(frames: list[list[Box]]) -> None:
    tracker = FaceTracker()
    highest = 0
    for number, found in enumerate(frames):
        tracks = ids(tracker, number * 0.3, *(Face(b, 0.9) for b in found))
        assert None not in tracks
        assert len(set(tracks)) == len(found)
        for track in tracks:
            assert track is not None
            assert track <= highest + len(found)
        highest = max([highest, *(t for t in tracks if t is not None)])


def test_histograms_are_normalised() -> None:
    image = np.zeros((50, 40, 3), np.uint8)
    signature = scene_signature(image)
    assert signature is not None
    assert signature.sum() == pytest.approx(1.0)
    assert histogram_distance(signature, signature) == 0.0
    assert appearance(image, Box(200, 200, 210, 210)) is None  # outside of the picture
