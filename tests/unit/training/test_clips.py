from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from streamwatch.domain import Box, Image
from streamwatch.inference.faces import Detection
from streamwatch.protocols import FindOptions
from streamwatch.training.clips import (
    Clip,
    ClipFaces,
    Sampling,
    all_clip_faces,
    clip_faces,
    read_clips,
    read_frames,
    split_groups,
)
from streamwatch.training.faces import DatasetError
from streamwatch.training.layouts import find_clips

HEADER = "clip,label,method,group,crop_x0y0x1y1,source\n"


def write_video(path: Path, frames: int = 20, rate: int = 10) -> Path:
    """A clip whose left half darkens and whose right half brightens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for index in range(frames):
            picture = np.zeros((64, 128, 3), np.uint8)
            picture[:, :64], picture[:, 64:] = 200 - 5 * index, 20 + 5 * index
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


class MiddleFinder:
    """Finds a face in the middle of every picture that is bright enough: the crops can be told from each other."""

    def find(self, images: list[Image], options: list[FindOptions] | None = None) -> list[list[Detection]]:
        return [self._find(image) for image in images]

    def _find(self, image: Image) -> list[Detection]:
        if image.mean() < 100:
            return []
        height, width = image.shape[:2]
        box = Box(width / 2 - 8, height / 2 - 8, width / 2 + 8, height / 2 + 8)
        return [Detection(box, np.zeros((6, 2), np.float32), 0.9)]


def test_a_table_of_clips_is_read(tmp_path: Path) -> None:
    table = tmp_path / "clips.csv"
    table.write_text("\ufeff" + HEADER + "a.mp4,fake,Deepfakes,g1,64 0 128 64,ffpp\nb.mp4,real,,,,\n")  # by Excel
    fake, real = read_clips(table)
    assert (fake.label, fake.method, fake.group, fake.region) == (1, "Deepfakes", "g1", (64, 0, 128, 64))
    assert (real.label, real.method, real.group, real.region) == (0, "none", "b", None)
    assert fake.path == tmp_path / "a.mp4"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("a.mp4,maybe,,,,", "line 2: needs a clip"),
        (",real,,,,", "line 2: needs a clip"),
        ("a.mp4,real,,,1 2 3,", "line 2: crop_x0y0x1y1"),
        ("a.mp4,real,,,1 2 x 4,", "line 2: crop_x0y0x1y1"),
        ("a.mp4,real,,,9 2 3 4,", "line 2: crop_x0y0x1y1"),
        ("a.mp4,real,,,-1 2 3 4,", "line 2: crop_x0y0x1y1"),
    ],
)
def test_a_faulty_table_says_where(tmp_path: Path, row: str, fault: str) -> None:
    table = tmp_path / "clips.csv"
    table.write_text(HEADER + row + "\n")
    with pytest.raises(DatasetError, match=fault):
        read_clips(table)


def test_a_missing_or_empty_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv"):
        read_clips(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text(HEADER)
    with pytest.raises(DatasetError, match="has no rows"):
        read_clips(tmp_path / "empty.csv")


def test_frames_come_at_the_asked_rate(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    times = [time for time, _ in read_frames(video, Sampling(rate=2.0))]
    assert times == pytest.approx([0, 0.5, 1.0, 1.5], abs=0.11)
    assert len(list(read_frames(video, Sampling(rate=100.0)))) == 20
    assert len(list(read_frames(video, Sampling(rate=100.0, limit=3)))) == 3


def test_frames_may_be_compressed_once_more(tmp_path: Path) -> None:
    video, detail = write_video(tmp_path / "a.mp4"), np.random.default_rng(0).normal(128, 30, (63, 95, 3))
    plain = list(read_frames(video, Sampling(rate=100.0)))
    for crf in (18, 40):
        seen = list(read_frames(video, Sampling(rate=100.0, crf=crf)))
        assert [time for time, _ in seen] == [time for time, _ in plain]
        for (_, before), (_, after) in zip(plain, seen, strict=True):  # each in its place
            assert abs(float(before[:, :60].mean()) - float(after[:, :60].mean())) < 2.5
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 95, 63, "bgr0"
        picture = np.asarray(np.clip(detail, 0, 255), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    lost = []
    for crf in (18, 28, 40):
        ((_, seen_picture),) = read_frames(tmp_path / "odd.mkv", Sampling(crf=crf))
        assert seen_picture.shape == (62, 94, 3)
        lost.append(float(np.std(picture)) - float(np.std(seen_picture)))
    assert lost[0] < lost[1] < lost[2]


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(DatasetError, match=r"a\.mp4"):
        list(read_frames(tmp_path / "a.mp4", Sampling()))


def test_the_region_decides_what_is_looked_at(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    finder, sampling = MiddleFinder(), Sampling(rate=10.0, size=32)
    left = clip_faces(Clip(video, 1, region=(0, 0, 64, 64)), finder, sampling)  # type: ignore[arg-type]
    right = clip_faces(Clip(video, 0, region=(64, 0, 128, 64)), finder, sampling)  # type: ignore[arg-type]
    assert left.sampled == right.sampled == 20
    assert len(left.crops) == pytest.approx(20, abs=1)  # bright throughout
    assert 0 < len(right.crops) < 8  # dark at first
    assert left.crops[0].mean() > 180 and right.coverage < 0.4
    assert left.heights[0] == pytest.approx(16)


def test_faces_are_kept_between_runs(tmp_path: Path) -> None:
    clip = Clip(write_video(tmp_path / "a.mp4"), 0, region=(0, 0, 64, 64))
    first = all_clip_faces([clip], MiddleFinder(), Sampling(size=32), tmp_path / "kept", "v1")  # type: ignore[arg-type]
    again = all_clip_faces([clip], None, Sampling(size=32), tmp_path / "kept", "v1")  # type: ignore[arg-type]
    assert (first[0].crops == again[0].crops).all() and again[0].sampled == first[0].sampled


def test_what_is_kept_of_another_video_or_cut_off_is_made_anew(tmp_path: Path) -> None:
    clip, finder, kept = (
        Clip(write_video(tmp_path / "a.mp4"), 0, region=(0, 0, 64, 64)),
        MiddleFinder(),
        tmp_path / "kept",
    )

    def faces() -> ClipFaces:
        return all_clip_faces([clip], finder, Sampling(size=32), kept, "v1")[0]  # type: ignore[arg-type]

    first = faces()
    (path,) = kept.iterdir()
    for content in (b"", path.read_bytes()[:-40]):
        path.write_bytes(content)
        assert (faces().crops == first.crops).all()
    write_video(clip.path, frames=10)
    assert faces().sampled < first.sampled
    assert len(list(kept.iterdir())) == 2


def test_clips_that_cannot_be_read_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = Clip(write_video(tmp_path / "a.mp4"), 0, region=(0, 0, 64, 64))
    (tmp_path / "damaged.mp4").write_bytes(b"not a video")
    bad = [Clip(tmp_path / "absent.mp4", 1), Clip(tmp_path / "damaged.mp4", 0), replace(good, region=(900, 0, 964, 64))]
    for cache in (None, tmp_path / "kept"):
        found = all_clip_faces([*bad, good], MiddleFinder(), Sampling(size=32), cache)  # type: ignore[arg-type]
        assert [faces.clip for faces in found] == [good]
        said = capsys.readouterr().err.splitlines()
        assert said[0] == "3 of 4 clips are left out:" and len(said) == 4
        for line, name in zip(said[1:], ("absent.mp4", "damaged.mp4", "a.mp4: crop_x0y0x1y1"), strict=True):
            assert name in line
        with pytest.raises(DatasetError, match=r"none of 3 clips can be read; the first: .*absent\.mp4"):
            all_clip_faces(bad, MiddleFinder(), Sampling(size=32), cache)  # type: ignore[arg-type]


def test_halves_share_no_group_and_both_have_fakes() -> None:
    clips = [
        Clip(Path(f"{source}{i}_{label}"), label, group=f"{source}{i}", source=source)
        for source in ("dfm", "c23")
        for i in range(5)
        for label in (0, 1)
    ]
    clips += [Clip(Path(f"real{i}"), 0, group=f"real{i}", source="tv") for i in range(7)]
    choose, report = split_groups(clips)
    assert not choose & report and choose | report == {clip.group for clip in clips}
    assert abs(len(choose) - len(report)) <= 2
    for half in (choose, report):
        assert {clip.source for clip in clips if clip.label and clip.group in half} == {"dfm", "c23"}
    assert split_groups(clips[::-1]) == (choose, report)


def test_known_data_sets_are_recognised(tmp_path: Path) -> None:
    ffpp = tmp_path / "ffpp"
    for name in (
        "original_sequences/youtube/c23/videos/000.mp4",
        "manipulated_sequences/Face2Face/c23/videos/000_003.mp4",
    ):
        (ffpp / name).parent.mkdir(parents=True)
        (ffpp / name).touch()
    assert [(c.label, c.method, c.group) for c in find_clips(ffpp)] == [(0, "none", "000"), (1, "Face2Face", "000")]

    celeb = tmp_path / "celeb"
    for name in ("Celeb-real/id0_0000.mp4", "YouTube-real/00012.mp4", "Celeb-synthesis/id0_id16_0000.mp4"):
        (celeb / name).parent.mkdir(parents=True)
        (celeb / name).touch()
    assert [(c.label, c.group) for c in find_clips(celeb)] == [(0, "id0"), (0, "YouTube-real_00012"), (1, "id0")]

    dfdc = tmp_path / "dfdc" / "part_0"
    dfdc.mkdir(parents=True)
    entries = {"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE", "original": "a.mp4"}}
    (dfdc / "metadata.json").write_text(json.dumps(entries))
    assert [(c.label, c.group) for c in find_clips(tmp_path / "dfdc")] == [(0, "a"), (1, "a")]
    (dfdc / "metadata.json").write_text('{"a.mp4": {"label": "PERHAPS"}}')
    with pytest.raises(DatasetError, match="metadata"):
        find_clips(tmp_path / "dfdc")


def grouped(root: Path, *names: str) -> dict[str, tuple[str, str]]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return {clip.name: (clip.group, clip.footage) for clip in find_clips(root)}


def test_people_who_are_swapped_are_of_one_group(tmp_path: Path) -> None:
    real, fake = "original_sequences/{}/c23/videos/{}.mp4", "manipulated_sequences/{}/c23/videos/{}.mp4"
    ffpp = grouped(
        tmp_path / "ffpp",
        *(real.format("youtube", name) for name in ("000", "001", "003")),
        *(fake.format("Deepfakes", name) for name in ("000_003", "003_000")),
        *(real.format("actors", name) for name in ("01__kitchen_pan", "02__walk", "03__walk")),
        fake.format("DeepFakeDetection", "01_02__kitchen_pan__ABC"),
    )
    assert ffpp["000"] == ffpp["000_003"] == ("000", "000") and ffpp["003"] == ffpp["003_000"] == ("000", "003")
    assert ffpp["001"] == ("001", "001")
    assert ffpp["01__kitchen_pan"] == ffpp["01_02__kitchen_pan__ABC"] == ("actor01", "actor01__kitchen_pan")
    assert ffpp["02__walk"][0] == "actor01" and ffpp["03__walk"][0] == "actor03"

    reals = (f"Celeb-real/id{person}_0000.mp4" for person in range(5))
    swaps = (f"Celeb-synthesis/{name}_0000.mp4" for name in ("id1_id0", "id1_id2", "id4_id3"))
    celeb = grouped(tmp_path / "celeb", *reals, *swaps, "YouTube-real/00000.mp4")
    assert {name: group for name, (group, _) in celeb.items()} == {
        **dict.fromkeys(("id0_0000", "id1_0000", "id2_0000", "id1_id0_0000", "id1_id2_0000"), "id0"),
        **dict.fromkeys(("id3_0000", "id4_0000", "id4_id3_0000"), "id3"),
        "00000": "YouTube-real_00000",
    }
    assert celeb["id1_id2_0000"][1] == celeb["id1_0000"][1] != celeb["id2_0000"][1]


def test_an_unknown_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"FaceForensics.*Celeb-DF.*DFDC"):
        find_clips(tmp_path)
