from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from streamwatch.errors import MediaError
from streamwatch.scan.media import sample_indices
from streamwatch.scan.video import VideoReader
from tests.fakes.clips import number_of, numbered, turn_upright, write_clip, write_sound


def numbers(path: Path, indices: list[int] | None = None) -> list[tuple[int, int]]:
    """(index that the reader gives, index that the picture shows) of each picture."""
    with VideoReader(path) as reader:
        return [(picture.index, number_of(picture.image)) for picture in reader.pictures(indices)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "libx264"),  # with B-frames
        ("clip.mkv", "libx264"),
        ("clip.mov", "libx264"),
        ("clip.avi", "mpeg4"),
        ("clip.webm", "libvpx"),
        ("clip.wmv", "msmpeg4v3"),
        ("a path with spaces and ünïcödé 視頻.mp4", "libx264"),
    ],
)
def test_exactly_the_asked_for_frames_come_in_order(name: str, codec: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, numbered(50), codec=codec)
    everything = numbers(path)
    assert everything == [(index, index) for index in range(len(everything))]
    assert len(everything) >= 49
    wanted = [0, 1, 13, 14, 30, 47]  # neighbours, and jumps over more than one keyframe
    assert numbers(path, wanted) == [(index, index) for index in wanted]


def test_what_is_known_of_a_video(tmp_path: Path) -> None:
    with VideoReader(write_clip(tmp_path / "clip.mp4", numbered(50))) as reader:
        info = reader.info
        times = [picture.time for picture in reader.pictures([0, 25, 49])]
    assert (info.codec, info.width, info.height, info.frames, info.rotation) == ("h264", 64, 48, 50, 0)
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(2.0)
    assert times == pytest.approx([0.0, 1.0, 1.96])


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0, 40, 80, 480, 500, 1500, 1540, 3000]
    path = write_clip(tmp_path / "vfr.mkv", numbered(8), times=times)
    with VideoReader(path) as reader:
        seen = [(number_of(picture.image), picture.time) for picture in reader.pictures([0, 3, 5, 7])]
    assert [number for number, _ in seen] == [0, 3, 5, 7]
    assert [time for _, time in seen] == pytest.approx([0.0, 0.48, 1.5, 3.0], abs=0.002)


def test_a_phone_video_is_turned_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "phone.mp4", numbered(5))
    turn_upright(path)
    with VideoReader(path) as reader:
        assert reader.info.upright_size == (48, 64)
        picture = next(iter(reader.pictures([4]))).image
    assert picture.shape == (64, 48, 3)
    # A quarter clockwise brings the left half, which is the bright one, to the top.
    assert picture[:28].mean() > 20 > picture[36:].mean() + 15


def test_a_truncated_file_gives_what_is_left_and_says_so(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "whole.mkv", [np.random.default_rng(i).integers(0, 255, (96, 128, 3), np.uint8) for i in range(50)]
    )
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoReader(cut) as reader:
        pictures = list(reader.pictures())
        assert 5 < len(pictures) < 45


def test_damage_in_the_middle_does_not_end_the_file(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "whole.mkv", [np.random.default_rng(i).integers(0, 255, (96, 128, 3), np.uint8) for i in range(60)]
    )
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(bytes(data))
    with VideoReader(path) as reader:
        assert max(picture.index for picture in reader.pictures(sample_indices(reader.info.frames, 8))) > 30


@pytest.mark.parametrize("kind", ["empty", "text", "sound", "folder", "headless"])
def test_what_is_no_video_is_a_clear_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.mp4"
    messages = {
        "empty": "is empty",
        "text": "cannot be opened as a video",
        "sound": "has no video in it",
        "folder": "cannot be opened as a video",
        "headless": "cannot be opened as a video",
    }
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("these are words " * 100)
    elif kind == "sound":
        write_sound(path)
    elif kind == "folder":
        path.mkdir()
    else:  # an mp4 whose index, at its end, is cut off
        write_clip(path, numbered(30))
        path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(MediaError, match=messages[kind]) as caught:
        VideoReader(path)
    assert str(path) in str(caught.value)


def test_a_4k_frame_is_read(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "4k.mp4", numbered(2, (3840, 2160)))
    with VideoReader(path) as reader:
        picture = next(iter(reader.pictures([1])))
    assert picture.image.shape == (2160, 3840, 3)
    assert number_of(picture.image) == 1


def test_closing_releases_the_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", numbered(5))
    with VideoReader(path) as reader:
        next(iter(reader.pictures()))
    with av.open(str(path)) as again:
        assert again.streams.video[0].frames == 5
