from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from streamwatch.domain import Image
from streamwatch.training.fakes import FakeMix
from streamwatch.training.h264 import through_h264
from streamwatch.training.pairs import LARGEST_VIEW, PairSettings, draw_view, make_pair
from streamwatch.training.streamlook import Look, Shot, apply_look, draw_look, draw_recording
from streamwatch.training.tones import film_grain, halftone
from tests.unit.training.pictures import draw_face, draw_faces


def test_a_clean_look_leaves_the_picture_as_it_is() -> None:
    image, _ = draw_face(0)
    assert (apply_look(image, Look(size=96), 96) == image).all()


def test_the_same_look_gives_the_same_picture() -> None:
    image, _ = draw_face(1)
    for seed in range(8):
        look = draw_look(np.random.default_rng(seed), 96)
        assert (apply_look(image, look, 64) == apply_look(image, look, 64)).all()


@pytest.mark.parametrize("shot", [Shot(23, frames=1), Shot(23, frames=3), Shot(30, "ultrafast", 2)])
def test_h264_keeps_the_picture_in_its_place(shot: Shot) -> None:
    image, _ = draw_face(2)
    seen = through_h264(image, shot)
    assert seen.shape == image.shape
    smooth = np.abs(seen.astype(int) - image).mean()
    displaced = np.abs(np.roll(seen, 6, 1).astype(int) - image).mean()
    assert smooth < displaced


def test_a_higher_rate_factor_loses_more() -> None:
    image, _ = draw_face(3)
    fine, coarse = (np.abs(through_h264(image, Shot(crf)).astype(int) - image).mean() for crf in (18, 40))
    assert coarse > 1.2 * fine


def test_odd_sizes_survive_h264() -> None:
    image, _ = draw_face(4, side=97)
    assert through_h264(image, Shot(25)).shape == (97, 97, 3)


def test_severity_widens_the_range() -> None:
    rng = np.random.default_rng(0)
    mild = [draw_look(rng, 200, 0.1) for _ in range(60)]
    full = [draw_look(rng, 200, 1.0) for _ in range(60)]
    assert min(look.size for look in mild) > 150 > min(look.size for look in full)
    assert {look.compression for look in full} == {"none", "light", "heavy"}


@pytest.mark.parametrize("size", [64, 96])
def test_a_pair_is_a_real_and_its_fake_with_the_mask(size: int) -> None:
    faces = draw_faces(5)
    pair = make_pair(faces, 2, np.random.default_rng(3), PairSettings(size=size, clean_views=1.0))
    assert pair.images.shape == (4, size, size, 3) and pair.mask.shape == (size, size)
    assert pair.mask.max() > 0.2
    again = make_pair(faces, 2, np.random.default_rng(3), PairSettings(size=size, clean_views=1.0))
    assert (pair.images == again.images).all()


def test_a_view_keeps_the_face_near_the_middle() -> None:
    image, geometry = draw_face(5)
    for seed in range(20):
        view, moved = draw_view(image, geometry, np.random.default_rng(seed))
        side = view.shape[0]
        assert view.shape == (side, side, 3) and 96 <= side <= LARGEST_VIEW
        centre = moved.outline.mean(0) / side
        assert 0.3 < centre[0] < 0.7 and 0.35 < centre[1] < 0.8
        skin = view[tuple(np.round(moved.outline.mean(0)).astype(int)[::-1])]
        assert np.abs(skin.astype(int) - image[tuple(np.round(geometry.outline.mean(0)).astype(int)[::-1])]).mean() < 45


def detail(image: Image) -> float:
    """The deviation of what a blur takes away."""
    return float((image.astype(np.float32) - cv2.GaussianBlur(image, (0, 0), 3.0)).std())


@pytest.mark.parametrize("texture", [film_grain, halftone])
def test_film_and_print_add_fine_texture_and_leave_the_tones(
    texture: Callable[[Image, np.random.Generator], Image],
) -> None:
    image = np.full((96, 96, 3), 128, np.uint8)
    found = []
    for seed in range(12):
        seen = texture(image, np.random.default_rng(seed))
        assert seen.shape == image.shape and (seen == texture(image, np.random.default_rng(seed))).all()
        found.append(detail(seen))
        assert np.abs(cv2.GaussianBlur(seen, (0, 0), 8.0).astype(int) - 128).mean() < 8
    assert np.median(found) > 3


def test_both_pictures_of_a_pair_come_from_the_same_film() -> None:
    faces = draw_faces(5)
    swaps = FakeMix(self_blend=0.0, swap=1.0, autoencoder=0.0, rescale=0.0)
    settings = PairSettings(size=96, mix=swaps, severity=0.0, hard_negatives=0.0, analogue=1.0)
    film, plain = [], []
    for seed in range(6):
        pair = make_pair(faces, 2, np.random.default_rng(seed), settings)
        digital = make_pair(faces, 2, np.random.default_rng(seed), replace(settings, analogue=0.0))
        outside = pair.mask == 0
        assert np.abs(pair.images[0].astype(int) - pair.images[1])[outside].mean() < 1.5
        film.append(detail(pair.images[0]))
        plain.append(detail(digital.images[0]))
    assert np.mean(film) > np.mean(plain)


def test_a_camera_takes_noise_away_and_sharpens_edges() -> None:
    noise = np.random.default_rng(0).normal(0, 6, (96, 96, 3))
    picture = np.where(np.arange(96)[None, :, None] < 48, 80.0, 160.0)
    noisy, clean = (np.asarray(np.clip(values, 0, 255), np.uint8) for values in (picture + noise, picture + 0 * noise))
    calm = apply_look(noisy, Look(size=96, denoise=30.0), 96)
    assert calm[:, 4:40].std() < 0.7 * noisy[:, 4:40].std()
    assert float(calm[:, 52:].mean()) - float(calm[:, :44].mean()) > 75  # the edge stays
    soft = np.asarray(cv2.GaussianBlur(clean, (0, 0), 1.5), np.uint8)
    crisp = apply_look(soft, Look(size=96, sharpen=1.0), 96)
    assert np.diff(crisp[48, :, 0].astype(int)).max() > 1.2 * np.diff(soft[48, :, 0].astype(int)).max()


def test_recordings_differ_in_what_their_camera_did() -> None:
    rng = np.random.default_rng(0)
    looks = [draw_recording(rng, 224) for _ in range(40)]
    for done in ({look.denoise > 0 for look in looks}, {look.sharpen > 0 for look in looks}):
        assert done == {True, False}
    assert all(look.denoise == look.sharpen == 0 for look in (draw_look(rng, 224) for _ in range(40)))
