from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamwatch.domain import Box
from streamwatch.inference.tiles import TILINGS, Tile, Tiling, cut, seed_margin, seed_tiles, tile_starts

SIZES = [(720, 1280), (1080, 1920), (2160, 3840), (1280, 720), (480, 640), (224, 224), (96, 64), (100, 2000), (7, 5)]


@given(length=st.integers(1, 5000), side=st.integers(2, 800), overlap=st.floats(0, 0.5))
def test_tiles_leave_nothing_unseen_and_overlap(length: int, side: int, overlap: float) -> None:
    starts = tile_starts(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] + side >= length
    assert starts == sorted(set(starts))
    for left, right in itertools.pairwise(starts):
        assert left + side - right >= round(side * overlap) - 1  # a start is rounded to a whole pixel
    assert starts[-1] == 0 or starts[-1] + side == length


@pytest.mark.parametrize("name", sorted(TILINGS))
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_regions_cover_the_frame_within_the_bound(name: str, height: int, width: int) -> None:
    batch = cut(np.zeros((height, width, 3), np.uint8), TILINGS[name])
    assert batch.pixels.shape == (len(batch), 128, 128, 3)
    assert len(batch) <= TILINGS[name].max_tiles
    seen = np.zeros((height, width), bool)
    tiles = batch.regions if len(batch) == 1 else batch.regions[:-1]
    for x0, y0, x1, y1 in tiles:
        seen[int(np.ceil(y0)) : int(np.ceil(y1)), int(np.ceil(x0)) : int(np.ceil(x1))] = True
    assert seen.all()
    if len(batch) > 1:
        np.testing.assert_allclose(batch.regions[-1], [0, 0, width, height], atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(x=st.integers(0, 1919), y=st.integers(0, 1079))
def test_a_mark_is_seen_where_the_geometry_says(x: int, y: int) -> None:
    frame = np.zeros((1080, 1920, 3), np.uint8)
    frame[max(0, y - 12) : y + 13, max(0, x - 12) : x + 13] = 255
    batch = cut(frame, TILINGS["default"])
    found = 0
    for pixels, origin, scale, region in zip(batch.pixels, batch.origins, batch.scales, batch.regions, strict=True):
        if not (region[0] + 13 < x < region[2] - 13 and region[1] + 13 < y < region[3] - 13):
            continue
        rows, columns = np.nonzero(pixels[..., 0] == pixels[..., 0].max())
        centre = (np.array([columns.mean(), rows.mean()]) + 0.5) * scale + origin
        assert np.abs(centre - [x + 0.5, y + 0.5]).max() <= 1.5 * scale.max()
        found += 1
    assert found or x < 14 or y < 14 or x > 1905 or y > 1065


def test_an_hd_frame_costs_few_inputs() -> None:
    assert len(cut(np.zeros((720, 1280, 3), np.uint8), TILINGS["default"])) <= 9
    assert len(cut(np.zeros((360, 360, 3), np.uint8), TILINGS["default"])) == 1


def test_the_side_grows_until_the_tiles_fit() -> None:
    few = Tiling(side=100, max_tiles=5)
    assert 1 < len(cut(np.zeros((2000, 3000, 3), np.uint8), few)) <= 5


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (720, 1280, [(0, 0, 720), (280, 0, 720), (560, 0, 720)]),
        (480, 640, [(0, 0, 480), (80, 0, 480), (160, 0, 480)]),
        (720, 720, [(0, 0, 720)]),
        (720, 721, [(0, 0, 720)]),  # step 0: one tile, and a column that none sees
        (723, 720, [(0, 0, 720), (0, 1, 720), (0, 2, 720), (0, 3, 720)]),  # step 1
        (1080, 1920, [(x, y, 720) for y in (0, 180, 360) for x in (0, 600, 1200)]),
        (2160, 3840, [(x, y, 720) for y in (0, 720, 1440) for x in (0, 1560, 3120)]),
    ],
)
def test_seed_tiles(height: int, width: int, expected: list[tuple[int, int, int]]) -> None:
    assert seed_tiles(height, width) == [Tile(*row) for row in expected]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(100, 100, 200, 200), (80, 60, 220, 220)),
        (Box(100.7, 100.9, 200.2, 200.4), (80, 60, 220, 220)),  # 19.9 rounds to 20, then truncation
        (Box(5, 5, 105, 105), (0, 0, 125, 125)),
        (Box(600, 400, 640, 480), (584, 368, 640, 480)),
        (Box(0, 0, 640, 480), (0, 0, 640, 480)),
        (Box(50, 50, 62.5, 62.5), (48, 46, 64, 64)),  # 2.5 rounds to the even 2
    ],
)
def test_seed_margin_in_a_vga_frame(box: Box, expected: tuple[int, int, int, int]) -> None:
    assert seed_margin(box, 480, 640) == expected
