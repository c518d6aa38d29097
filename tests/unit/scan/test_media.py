from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from streamwatch.errors import ConfigError, MediaError
from streamwatch.scan.images import read_image
from streamwatch.scan.media import MediaKind, find_media, sample_indices


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (0, 32, []),
        (1, 32, [0]),
        (5, 32, [0, 1, 2, 3, 4]),
        (10, 4, [0, 3, 6, 9]),
        (100, 5, [0, 24, 49, 74, 99]),
        (309, 3, [0, 154, 308]),
        (7, 1, [0]),
        (4, None, [0, 1, 2, 3]),
    ],
)
def test_frames_are_chosen_as_the_seed_chose_them(count: int, wanted: int | None, expected: list[int]) -> None:
    assert sample_indices(count, wanted) == expected


def test_folders_are_searched_and_named_files_are_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.webm", "notes.txt", "deep/er/c.jpg", "odd.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_media([tmp_path, tmp_path / "odd.bin", tmp_path / "b.MP4"])
    assert [(file.path.name, file.kind) for file in found] == [
        ("a.webm", MediaKind.VIDEO),
        ("b.MP4", MediaKind.VIDEO),
        ("c.jpg", MediaKind.IMAGE),
        ("odd.bin", MediaKind.VIDEO),
    ]
    with pytest.raises(ConfigError, match="nowhere: there is no such"):
        find_media([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no video and no image"):
        find_media([tmp_path / "empty"])


RED, WHITE = (255, 0, 0), (255, 255, 255)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    picture = Pillow.new("RGBA", (4, 2), (255, 0, 0, 255))
    picture.putpixel((0, 0), (9, 9, 9, 0))
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (2, 4, 3)
    assert (tuple(image[0, 0]), tuple(image[0, 1])) == (WHITE, RED)


def test_grey_of_any_depth_becomes_rgb(tmp_path: Path) -> None:
    Pillow.new("L", (3, 2), 77).save(tmp_path / "grey.png")
    Pillow.fromarray(np.full((2, 3), 65535 // 2, np.uint16)).save(tmp_path / "deep.png")
    Pillow.new("1", (3, 2), 1).save(tmp_path / "bits.png")
    Pillow.new("P", (3, 2), 0).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "grey.png").tolist() == [[[77] * 3] * 3] * 2
    assert int(read_image(tmp_path / "deep.png")[0, 0, 0]) == pytest.approx(127, abs=1)
    assert int(read_image(tmp_path / "bits.png")[0, 0, 0]) == 255
    assert read_image(tmp_path / "palette.png").shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("orientation", "shape"), [(1, (20, 40, 3)), (3, (20, 40, 3)), (6, (40, 20, 3)), (8, (40, 20, 3))]
)
def test_photos_are_turned_as_their_exif_says(orientation: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    picture = Pillow.new("RGB", (40, 20))
    picture.paste(RED, (0, 0, 20, 20))  # the left half
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "photo.jpg")
    assert image.shape == shape
    halves = {1: image[:, :15], 3: image[:, -15:], 6: image[:15], 8: image[-15:]}
    assert halves[orientation][..., 0].mean() > 230


def test_what_is_no_picture_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("words")
    (tmp_path / "empty.png").touch()
    Pillow.new("RGB", (200, 200), RED).save(tmp_path / "torn.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "torn.jpg").read_bytes()[:700])
    for name, message in {"words.png": "not a picture", "empty.png": "is empty", "torn.jpg": "cannot be read"}.items():
        with pytest.raises(MediaError, match=message) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
