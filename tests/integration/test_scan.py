"""The scan end to end: real files, bundled weights, every output; DF-Spot's command line on networks of its layout."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image as Pillow

from streamwatch.cli import main
from streamwatch.compat import spot_deepfakes
from streamwatch.domain import Image
from streamwatch.inference import weights_import
from streamwatch.inference.seed_members import SeedSpec
from streamwatch.scan.media import MediaFile, find_media
from streamwatch.scan.options import ScanOptions
from streamwatch.scan.pipeline import scan as scan_files
from streamwatch.scan.records import FileResult
from tests.fakes.clips import numbered, turn_upright, write_clip, write_sound
from tests.require import data_dir
from tests.unit.inference.test_seed_members import SMALL, seed_layout


def portrait(shift: int = 0, size: tuple[int, int] = (320, 320)) -> Image:
    """A public-domain portrait, its face about a third of the picture's height."""
    picture = np.roll(skimage.data.astronaut()[0:330, 60:390], shift, axis=1)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def scan(*arguments: Any) -> int:
    return main(["scan", "--threads", "1", "--device", "cpu", *map(str, arguments)])


def rows(output: Path) -> dict[str, dict[str, Any]]:
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {Path(row["path"]).name: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything."""
    folder = tmp_path_factory.mktemp("média and more")
    write_clip(folder / "talking héad 視頻.mp4", [portrait(index) for index in range(12)], sound="aac")
    write_clip(folder / "nobody.mkv", numbered(10, (160, 120)))
    write_clip(folder / "phone.mp4", [np.ascontiguousarray(np.rot90(portrait(i, (240, 240)))) for i in range(6)])
    turn_upright(folder / "phone.mp4")
    (folder / "empty.mp4").touch()
    write_sound(folder / "sound.mp4")
    torn = write_clip(folder / "torn.mp4", [portrait(index) for index in range(12)])
    torn.write_bytes(torn.read_bytes()[:-1500])
    Pillow.fromarray(portrait()).convert("RGBA").save(folder / "rgba.png")
    Pillow.fromarray(portrait()).convert("L").save(folder / "grey.jpg", quality=95)
    (folder / "bad.webp").write_bytes(b"RIFF....WEBP no")
    (folder / "readme.txt").write_text("not media")
    return folder


@pytest.fixture(scope="module")
def scanned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    output = tmp_path_factory.mktemp("output")
    code = scan(folder, "--output", output, "--frames-per-video", 4, "--format", "csv,json,parquet")
    return code, output


def test_bad_files_are_rows_and_all_others_are_done(scanned: tuple[int, Path]) -> None:
    code, output = scanned
    assert code == 3
    found = rows(output)
    errors = {name: row["error"] for name, row in found.items() if row["error"]}
    assert errors.keys() == {"empty.mp4", "sound.mp4", "torn.mp4", "bad.webp"}
    assert errors["empty.mp4"] == "is empty"
    assert errors["sound.mp4"] == "has no video in it"
    assert "cannot be opened as a video" in errors["torn.mp4"]
    assert "not a picture" in errors["bad.webp"]
    assert len(found) == 9


def test_faces_are_found_upright_and_scored(scanned: tuple[int, Path]) -> None:
    found = rows(scanned[1])
    for name in ("talking héad 視頻.mp4", "phone.mp4", "rgba.png", "grey.jpg"):
        row = found[name]
        assert row["frames_with_face"] == row["frames_analysed"] == (4 if row["kind"] == "video" else 1), name
        assert row["verdict"] != "error"
    head = found["talking héad 視頻.mp4"]
    assert 0 < head["score"] < 1
    assert set(head["members"]) == {"TimmV2", "TimmV2ST", "ViT", "ViTST"}
    assert found["phone.mp4"]["media"]["rotation"] in (90, -90)
    assert len(head["weights"]["hash"]) == 64
    frames = [json.loads(line) for line in (scanned[1] / head["details"]).read_text().splitlines()]
    assert all(0 < face["quality"]["quantiser"] < 51 for frame in frames for face in frame["faces"])


def test_no_face_is_unknown(scanned: tuple[int, Path]) -> None:
    row = rows(scanned[1])["nobody.mkv"]
    assert (row["verdict"], row["score"], row["reason"]) == ("unknown", None, "no_face")


def test_the_seeds_files_and_the_full_ones(scanned: tuple[int, Path], folder: Path) -> None:
    output = scanned[1]
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["", "video_path", "prediction"]
    predictions = {Path(path).name: prediction for _, path, prediction in table[1:]}
    assert predictions["nobody.mkv"] == "unknown"
    assert predictions["empty.mp4"] == "error: is empty"
    assert predictions["talking héad 視頻.mp4"] in ("real", "fake")
    images = json.loads((output / "img_predictions.json").read_text())
    assert images[str(folder / "rgba.png")] in ("real", "fake", "unknown")

    full = {Path(row["path"]).name: row for row in json.loads((output / "results.json").read_text(encoding="utf-8"))}
    frames = full["talking héad 視頻.mp4"]["frames"]
    assert [frame["frame"] for frame in frames] == [0, 3, 7, 11]
    face = frames[0]["faces"][0]
    assert {"box", "confidence", "score", "members", "quality", "gate", "person"} <= face.keys()
    assert full["empty.mp4"]["frames"] == []

    import pyarrow.parquet as pq

    columns = pq.read_table(output / "faces.parquet").to_pydict()
    assert len(columns["path"]) == sum(row["faces"] for row in full.values())
    assert {"frame", "score", "TimmV2", "ViTST"} <= columns.keys()


def test_a_report_stands_alone_and_the_index_leads_to_it(scanned: tuple[int, Path]) -> None:
    output = scanned[1]
    row = rows(output)["talking héad 視頻.mp4"]
    page = (output / row["report"]).read_text(encoding="utf-8")
    assert "<svg" in page and "data:image/jpeg;base64," in page
    assert 'src="http' not in page and 'href="http' not in page
    assert "talking héad 視頻.mp4" in page
    index = (output / "index.html").read_text(encoding="utf-8")
    assert quote(row["report"]) in index and "is empty" in index


def test_a_second_scan_takes_over_what_is_done(folder: Path, scanned: tuple[int, Path], tmp_path: Path) -> None:
    output = tmp_path / "again"
    shutil.copytree(scanned[1], output)
    before = rows(output)
    marks = {path: path.stat().st_mtime_ns for path in (output / "details").iterdir()}
    # As if the first scan had been killed while it wrote its last line.
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    dropped = json.loads(lines[-1])["path"]
    (output / "results.jsonl").write_text("\n".join([*lines[:-1], lines[-1][:40]]), encoding="utf-8")
    assert scan(folder, "--output", output, "--frames-per-video", 4) == 3
    after = rows(output)
    assert after.keys() == before.keys()
    kept = [name for name, row in before.items() if not row["error"] and row["path"] != dropped]
    assert kept
    assert all(after[name]["seconds"] == before[name]["seconds"] for name in kept)
    for path, mark in marks.items():
        if Path(dropped).stem not in path.name:
            assert path.stat().st_mtime_ns == mark


def test_the_annotated_video_keeps_rate_length_and_sound(folder: Path, tmp_path: Path) -> None:
    source = folder / "talking héad 視頻.mp4"
    assert scan(source, "--output", tmp_path, "--annotate", "--frames-per-video", 3, "--model", "ViT") == 0
    (annotated,) = (tmp_path / "annotated").iterdir()
    with av.open(str(annotated)) as made, av.open(str(source)) as original:
        video, audio = made.streams.video[0], made.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.average_rate == original.streams.video[0].average_rate
        assert video.frames == original.streams.video[0].frames
        first = next(made.decode(video)).to_ndarray(format="rgb24")
    # The picture is the portrait with something drawn into it.
    difference = np.abs(first.astype(int) - portrait(0).astype(int)).max(axis=2) > 60
    assert 0.002 < difference.mean() < 0.3


class _StopAfterOne:
    """Cancels the scan as soon as a frame of it is done."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None

    def started(self, media: MediaFile, frames: int) -> None:
        pass

    def advanced(self, media: MediaFile) -> None:
        assert self.task is not None
        self.task.cancel()

    def finished(self, result: FileResult) -> None:
        pass


async def test_a_cancelled_scan_leaves_no_thread_and_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    stop = _StopAfterOne()
    options = ScanOptions((folder,), tmp_path, device="cpu", threads=1, frames_per_video=12, members=("ViT",), jobs=1)
    media = find_media([folder / "talking héad 視頻.mp4"])
    stop.task = asyncio.create_task(scan_files(options, media, stop))
    with pytest.raises(asyncio.CancelledError):
        await stop.task
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("device-", "decode"))]


def test_arguments_out_of_range_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in {
        ("nowhere.mp4",): "nowhere.mp4: there is no such file",
        (tmp_path, "--jobs", "0"): "--jobs: must be at least 1",
        (tmp_path, "--threshold", "2"): "--threshold: must be between 0 and 1",
        (tmp_path, "--weights", "best"): "ensemble.weights: 'best'",
    }.items():
        (tmp_path / "a.mp4").touch()
        assert scan(*arguments, "--output", tmp_path / "o") == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        scan(tmp_path, "--format", "xml")


def test_a_seed_set_that_is_not_here_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "a.mp4").touch()
    assert scan(tmp_path, "--weights", "dfspot-dfdc", "--output", tmp_path / "o") == 4


# --- DF-Spot's command line ------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Checkpoint files in the seed's layout, of small networks of the same families."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(weights_import, "SeedSpec", lambda name: SeedSpec(name, SMALL[name.removesuffix("ST")]))
    models = tmp_path / "models"
    models.mkdir()
    for suffix, name in {"v2": "TimmV2", "vitst": "ViTST"}.items():
        torch.save({"net": seed_layout(name)[0]}, models / f"dfdc_{suffix}.pth")
    yield models


def test_the_seeds_command_line_and_files(folder: Path, checkpoints: Path, tmp_path: Path) -> None:
    output = tmp_path / "seed output"
    videos = sorted(path.name for path in folder.iterdir() if path.suffix in (".mp4", ".mkv"))
    wanted = [videos.index("talking héad 視頻.mp4"), videos.index("nobody.mkv"), videos.index("empty.mp4")]
    arguments = ["--media_type", "video", "--data_dir", folder, "--dataset", "dfdc", "--model", "TimmV2", "ViTST"]
    arguments += ["--model_dir", checkpoints, "--n", 3, "--video_id", *wanted, "--fpv", 3, "--output_dir", output]
    assert spot_deepfakes.main([*map(str, arguments)]) == 3
    found = rows(output)
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predictions = [row[2] for row in list(csv.reader(file))[1:]]
    head = found["talking héad 視頻.mp4"]
    assert predictions == ["fake" if head["score"] >= 0.3 else "real", "unknown", "error: is empty"]
    assert head["threshold"] == 0.3

    # The formula again, from the logits of each frame.
    frames = [json.loads(line) for line in (output / head["details"]).read_text().splitlines()]
    assert all(len(frame["faces"]) == 1 for frame in frames)
    logits = {name: [f["faces"][0]["member_logits"][name] for f in frames] for name in ("TimmV2", "ViTST")}
    expected = np.mean([1 / (1 + np.exp(-np.mean(values))) for values in logits.values()])
    assert head["score"] == pytest.approx(expected, abs=1e-6)


def test_the_seeds_images_and_annotations(folder: Path, checkpoints: Path, tmp_path: Path) -> None:
    data = tmp_path / "data in"
    data.mkdir()
    shutil.copy(folder / "rgba.png", data)
    write_clip(data / "head.mp4", [portrait(index) for index in range(4)])
    common = ["--data_dir", data, "--dataset", "dfdc", "--model", "TimmV2", "--model_dir", checkpoints]
    images = [*common, "--media_type", "image", "--output_dir", tmp_path / "images"]
    assert spot_deepfakes.main([*map(str, images)]) == 0
    assert set(json.loads((tmp_path / "images" / "img_predictions.json").read_text()).values()) <= {"real", "fake"}
    videos = [*common, "--media_type", "video", "--annotate", "True", "--output_dir", tmp_path / "videos"]
    assert spot_deepfakes.main([*map(str, videos)]) == 0
    with av.open(str(tmp_path / "videos" / "head.avi")) as made:
        assert made.streams.video[0].codec_context.name == "mjpeg"
        assert sum(1 for _ in made.decode(video=0)) == 4


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--model", "ViT"], 4, "dfdc_vit.pth: the checkpoint of ViT is missing"),
        (["--video_id", "99"], 2, "--video_id: 99 is not one of"),
        (["--data_dir", "nowhere"], 2, "--data_dir: nowhere is not a folder"),
        (["--n", "0"], 2, "--n: must be at least 1"),
    ],
)
def test_what_is_wrong_with_the_seeds_flags_is_named(
    change: list[str], code: int, message: str, folder: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data_dir", str(folder), "--dataset", "dfdc", "--model", "TimmV2", "--model_dir", str(checkpoints)]
    assert spot_deepfakes.main([*arguments, *change]) == code
    assert message in capsys.readouterr().err


@pytest.mark.data
def test_real_clips(tmp_path: Path) -> None:
    clips = data_dir() / "clips"
    names = ("ffpp_c23__004.mp4", "liveportrait__d18.mp4")
    threads = str(min(2, os.cpu_count() or 1))
    arguments = [*(str(clips / name) for name in names), "--output", str(tmp_path), "--frames-per-video", "6"]
    assert main(["scan", *arguments, "--device", "cpu", "--threads", threads]) == 0
    for row in rows(tmp_path).values():
        assert row["frames_with_face"] == 6
        assert row["score"] is not None
