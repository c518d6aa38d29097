from __future__ import annotations

import pytest

from streamwatch.ingest.sizes import fitted


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1920, 1080, None),
        (320, 240, None),
        (3840, 2160, (1920, 1080)),
        (1080, 2400, (864, 1920)),
        (5000, 1, (1920, 1)),
    ],
)
def test_no_side_is_longer_than_the_limit(width: int, height: int, size: tuple[int, int] | None) -> None:
    assert fitted(width, height, 1920) == size
