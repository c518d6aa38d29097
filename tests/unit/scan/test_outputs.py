from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from streamwatch.errors import StorageError
from streamwatch.scan.journal import Journal, file_key, output_name
from streamwatch.scan.outputs import write_outputs, write_predictions
from streamwatch.scan.pipeline import unreadable
from streamwatch.scan.records import FileResult

ODD = 'a, "b"\n<i>&#1%20.mp4'


def row(path: str, **changes: object) -> FileResult:
    return replace(FileResult(path, "video", f"key:{path}", "real", score=0.25), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "prediction"),
    [
        ({"verdict": "real"}, "real"),
        ({"verdict": "suspect"}, "real"),
        ({"verdict": "fake"}, "fake"),
        ({"verdict": "unknown"}, "unknown"),
        ({"verdict": "error", "error": "is empty"}, "error: is empty"),
    ],
)
def test_the_words_of_the_seeds_files(changes: dict[str, str], prediction: str) -> None:
    assert row("a.mp4", **changes).prediction == prediction


def test_odd_names_survive_every_output(tmp_path: Path) -> None:
    results = [row(ODD, report="reports/a#1%20&.html"), row("b.png", kind="image")]
    write_outputs(tmp_path, results, ("csv", "json", "parquet"))
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["", "video_path", "prediction"], ["0", ODD, "real"]]
    assert [entry["path"] for entry in json.loads((tmp_path / "results.json").read_text())] == [ODD, "b.png"]
    assert json.loads((tmp_path / "img_predictions.json").read_text()) == {"b.png": "real"}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert 'href="reports/a%231%2520%26.html"' in page


def test_a_name_that_is_not_unicode_is_written_as_it_is(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    path = write_predictions(tmp_path / "predictions.csv", [row(name)])
    assert b"caf\xe9.mp4" in path.read_bytes()
    Journal(tmp_path, "s").add(row(name))
    assert Journal(tmp_path, "s")._done[f"key:{name}"].path == name
    assert row(name).shown_path == "caf?.mp4"


def test_the_journal_knows_what_is_done_and_still_true(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1")
    journal = Journal(tmp_path / "out", "settings")
    assert journal.find(video) is None
    journal.add(replace(row(str(video)), key=file_key("settings", video)))
    failed = tmp_path / "b.mp4"
    journal.add(replace(row(str(failed), error="is empty"), key=file_key("settings", failed)))
    with (tmp_path / "out" / "results.jsonl").open("a") as file:
        file.write('{"path": "torn')

    again = Journal(tmp_path / "out", "settings")
    assert again.find(video) is not None
    assert again.find(failed) is None, "failures are tried again"
    assert Journal(tmp_path / "out", "other settings").find(video) is None
    video.write_bytes(b"12")
    assert again.find(video) is None, "the file has changed"


def test_a_row_whose_files_are_gone_is_done_again(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.touch()
    journal = Journal(tmp_path / "out", "s")
    journal.add(replace(row(str(video), report="reports/gone.html"), key=file_key("s", video)))
    assert Journal(tmp_path / "out", "s").find(video) is None


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        Journal(tmp_path / "file" / "out", "s").add(row("a.mp4"))


def test_files_of_one_name_do_not_share_outputs(tmp_path: Path) -> None:
    first = output_name(tmp_path, "reports", Path("a/clip.mp4"), ".html")
    second = output_name(tmp_path, "reports", Path("b/clip.mp4"), ".html")
    assert first != second
    assert output_name(tmp_path, "reports", Path("a/clip.mp4"), ".html") == first
    assert output_name(tmp_path, "reports", Path("x" * 250 + ".mp4"), ".html").name.__len__() < 130


def test_the_exit_code_of_a_scan_with_unreadable_files() -> None:
    assert unreadable([row("a.mp4")]) is None
    error = unreadable([row("a.mp4"), row("b.mp4", error="is empty")])
    assert error is not None
    assert error.exit_code == 3
    assert "1 of 2 files" in str(error)
