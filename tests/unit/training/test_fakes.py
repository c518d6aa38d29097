from __future__ import annotations

import numpy as np
import pytest

from streamwatch.domain import Image
from streamwatch.training.fakes import KINDS, FakeMix, Helpers, make_fake, whole_picture_operation
from streamwatch.training.geometry import FaceGeometry, outline_mask
from streamwatch.training.warping import match_face
from tests.unit.training.pictures import draw_face


def only(kind: str) -> FakeMix:
    return FakeMix(**{name: float(name == kind) for name in KINDS})


def darken(image: Image, geometry: FaceGeometry, rng: np.random.Generator) -> Image:
    return (image // 2).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_fake_differs_from_its_original_only_where_the_mask_says(kind: str, seed: int) -> None:
    image, geometry = draw_face(seed)
    helpers = Helpers(draw_face(seed + 100), darken)
    # A self-blend may alter the surroundings instead, in which case base and original differ too.
    fake, mask, made = make_fake(image, geometry, np.random.default_rng(seed), only(kind), helpers)
    assert made == kind
    assert fake.shape == image.shape and fake.dtype == np.uint8
    assert mask.shape == image.shape[:2] and mask.dtype == np.float32
    assert mask.min() >= 0 and mask.max() <= 1 and mask.max() > 0.2
    changed = np.abs(fake.astype(int) - image).max(2)
    assert changed.max() > 0
    if kind != "self_blend":
        assert changed[mask < 1e-4].max(initial=0) == 0


def test_the_same_seed_makes_the_same_fake() -> None:
    image, geometry = draw_face(1)
    first = make_fake(image, geometry, np.random.default_rng(7))
    again = make_fake(image, geometry, np.random.default_rng(7))
    other = make_fake(image, geometry, np.random.default_rng(8))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()


def test_the_original_is_left_alone() -> None:
    image, geometry = draw_face(2)
    before = image.copy()
    for seed in range(12):
        make_fake(image, geometry, np.random.default_rng(seed))
        whole_picture_operation(image, geometry, np.random.default_rng(seed))
    assert (image == before).all()


@pytest.mark.parametrize(("kind", "made"), [("swap", "self_blend"), ("autoencoder", "rescale")])
def test_a_fake_is_called_what_it_became_for_want_of_helpers(kind: str, made: str) -> None:
    assert make_fake(*draw_face(5), np.random.default_rng(0), only(kind)).kind == made


def test_shares_choose_the_kinds() -> None:
    assert FakeMix(1, 1, 1, 1).shares() == pytest.approx([0.25] * 4)
    with pytest.raises(ValueError, match="shares"):
        FakeMix(0, 0, 0, 0).shares()
    with pytest.raises(ValueError, match="shares"):
        FakeMix(-1, 1, 1, 1).shares()


@pytest.mark.parametrize("by_keypoints", [True, False])
def test_the_detectors_output_is_enough(by_keypoints: bool) -> None:
    image, face = draw_face(3)
    x0, y0, x1, y1 = face.box
    points = [(x0 + a * (x1 - x0), y0 + b * (y1 - y0)) for a, b in ((0.3, 0.35), (0.7, 0.35), (0.5, 0.55))]
    points += [(x0 + a * (x1 - x0), y0 + b * (y1 - y0)) for a, b in ((0.5, 0.78), (0.05, 0.45), (0.95, 0.45))]
    known = FaceGeometry.from_keypoints(face.box, points) if by_keypoints else FaceGeometry.from_box(face.box)
    mask = make_fake(image, known, np.random.default_rng(0)).mask
    rows, columns = np.nonzero(mask > 0.5 * mask.max())
    assert x0 - 8 < columns.mean() < x1 + 8 and y0 - 8 < rows.mean() < y1 + 8


def test_masks_vary_but_stay_on_the_face() -> None:
    _, geometry = draw_face(4)
    masks = [outline_mask(geometry, (96, 96), np.random.default_rng(seed)) for seed in range(20)]
    areas = [float(mask.sum()) for mask in masks]
    assert max(areas) > 1.3 * min(areas)
    assert all(mask[:6].max() < 0.1 for mask in masks)


def test_a_donor_is_moved_onto_the_face() -> None:
    there, shape = draw_face(6)
    matrix = np.array([(0.8, 0.1, 12.0), (-0.1, 0.9, 5.0)])
    moved = match_face(there, shape, shape.warped(matrix), (96, 96))
    eye = np.round(shape.warped(matrix).points[14]).astype(int)
    assert moved[eye[1], eye[0]].mean() < 60  # the donor's dark eye lies where its point was sent


def test_faces_with_other_points_cannot_be_swapped() -> None:
    image, face = draw_face(7)
    with pytest.raises(ValueError, match="different points"):
        match_face(image, FaceGeometry.from_box(face.box), face, (96, 96))


def test_a_malformed_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="keypoints"):
        FaceGeometry.from_keypoints((0, 0, 1, 1), [(0, 0)] * 5)
    with pytest.raises(ValueError, match="face mesh"):
        FaceGeometry.from_landmarks((0, 0, 1, 1), [(0, 0)] * 3)
