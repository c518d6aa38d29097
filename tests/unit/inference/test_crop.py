from __future__ import annotations

import numpy as np
import pytest

from streamwatch.domain import Image
from streamwatch.inference.crop import CropJitter, crop_box, crop_face


def gradient(width: int, height: int) -> Image:
    x = np.linspace(0, 255, width)[None, :, None]
    y = np.linspace(0, 255, height)[:, None, None]
    return np.broadcast_to(np.concatenate((x + 0 * y, y + 0 * x, 0 * x + 0 * y), 2), (height, width, 3)).astype(
        np.uint8
    )


def test_the_square_is_1_6_heights_and_raised_by_a_tenth() -> None:
    x0, y0, x1, y1 = crop_box((100, 200, 180, 300))
    assert (x1 - x0, y1 - y0) == pytest.approx((160, 160))
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((140, 240))


def test_jitter_moves_and_scales_the_square() -> None:
    x0, y0, x1, y1 = crop_box((0, 0, 100, 100), CropJitter(dx=0.1, dy=-0.1, scale=1.1))
    assert x1 - x0 == pytest.approx(176)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((60, 30))


@pytest.mark.parametrize("size", [64, 160, 224])
def test_the_crop_shows_what_lies_under_the_square(size: int) -> None:
    image = gradient(400, 300)
    crop = crop_face(image, (150, 100, 230, 180), size)
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
    x0, y0, x1, y1 = crop_box((150, 100, 230, 180))
    centre = crop[size // 2, size // 2].astype(float)
    assert centre[0] == pytest.approx(255 * (x0 + x1) / 2 / 400, abs=3)
    assert centre[1] == pytest.approx(255 * (y0 + y1) / 2 / 300, abs=3)


def test_edges_are_replicated_beyond_the_image() -> None:
    image = gradient(100, 100)
    crop = crop_face(image, (0, 0, 80, 100), 160)
    assert (crop[0] == crop[10]).all()  # above the image: its first row, over and over
    assert (crop[:, 0] == crop[:, 5]).all()


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_face(stripes, (120, 180, 520, 580), 80)
    assert abs(float(crop[40, 20:60].mean()) - 127.5) < 4


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (10, 20, 20, 10), (0, 0, float("nan"), 5)])
def test_an_empty_box_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="face box"):
        crop_face(gradient(50, 50), box, 32)


def test_a_box_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        crop_face(gradient(50, 50), (500, 500, 520, 520), 32)


def test_other_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        crop_face(np.zeros((10, 10), np.uint8), (0, 0, 5, 5), 32)
