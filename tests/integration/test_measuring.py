"""Labels, calibration, figures and cards of a user's own faces and videos, by the commands and with real networks."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from streamwatch.errors import StreamWatchError
from streamwatch.training import calibrate, candidates, cards, evaluate, prepare
from tests.fakes.people import people

WEIGHTS = Path(__file__).parents[2] / "weights"


def command(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    given = [str(word) for word in words]
    monkeypatch.setattr(sys, "argv", ["streamwatch", module.__name__.rpartition(".")[2], *given])
    assert module.run(parser.parse_args(given)) == 0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits without labels, and four labelled halves of two videos."""
    root = tmp_path_factory.mktemp("own")
    (root / "faces").mkdir()
    portrait = cv2.cvtColor(np.asarray(data.astronaut()), cv2.COLOR_RGB2BGR)
    for index in range(4):
        cv2.imwrite(str(root / "faces" / f"{index}.png"), np.roll(portrait, 9 * index, axis=1))
    (root / "clips").mkdir()
    shutil.copy(people(6.0), root / "clips" / "real.mp4")
    shutil.copy(people(6.0, 1, True), root / "clips" / "fake.mp4")
    rows = ["clip,label,method,group,crop_x0y0x1y1"]
    rows += [f"real.mp4,real,none,a,{side}" for side in ("0 0 640 720", "640 0 1280 720")]
    rows += ["fake.mp4,fake,swap,b,640 0 1280 720", "fake.mp4,real,none,b,0 0 640 720"]
    (root / "clips" / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.mark.timeout(240)
def test_own_data_from_labels_to_cards(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(prepare, monkeypatch, own / "faces", "--val-share", "1", "--force")
    weights = Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))
    few = ("--data-dir", own, "--pairs", 4, "--rate", 1, "--threads", 1)
    command(calibrate, monkeypatch, "--weights", weights, "--false-alarms", 0.2, *few)
    record = json.loads((weights / "manifest.json").read_text())["sets"]["bundled"]
    assert record["calibrated"].startswith("streamwatch calibrate --weights weights --false-alarms 0.2 --data-dir own")
    assert 0 < record["threshold"] < 1 and record["threshold_basis"].startswith("at most 20.0% of real examples")

    command(evaluate, monkeypatch, "--weights", weights, "--half", "all", "--output", tmp_path / "out", *few)
    text = (tmp_path / "out" / "evaluation.json").read_text()
    figures = json.loads(text)
    assert "NaN" not in text
    assert figures["command"].startswith("streamwatch evaluate --weights weights --half all")
    assert figures["clips"]["clips"] == {"real": 3, "fake": 1} and figures["clips"]["coverage"] == 1.0
    assert figures["clips"]["pooled"]["groups"] == [2, 1] and figures["clips"]["pooled"]["low"] is None
    assert [(clip["clip"], clip["label"]) for clip in figures["scored"]][2] == ("fake@640", 1)
    assert all(math.isfinite(clip["score"]) for clip in figures["scored"])
    assert (tmp_path / "out" / "roc.png").stat().st_size > 1000

    again = ("--recode", 40, "--output", tmp_path / "again")
    command(evaluate, monkeypatch, "--weights", weights, "--half", "all", *few, "--pairs", 0, *again)
    recoded = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert recoded["clips"]["recoded_at_crf"] == 40 and len(recoded["scored"]) == 4
    assert recoded["scored"] != figures["scored"]

    both = ("--evaluation", tmp_path / "out" / "evaluation.json", "--recoded", tmp_path / "again" / "evaluation.json")
    command(cards, monkeypatch, "--weights", weights, *both)
    assert "crf 40:" in (weights / "timmv2.md").read_text()
    assert "swap" in (weights / "timmv2.md").read_text() and "fake@640" not in (weights / "manifest.json").read_text()


@pytest.mark.timeout(240)
def test_a_set_of_candidates_has_the_figures_that_it_has_once_it_is_a_set(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(prepare, monkeypatch, own / "faces", "--val-share", "1", "--force")
    weights = Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))
    few = ("--data-dir", own, "--pairs", 4, "--rate", 1, "--threads", 1, "--cache", tmp_path / "cache")
    names = [member["name"] for member in bundled(weights)["members"]]
    looks = [member["name"] + "'" * member["architecture"]["mirrored"] for member in bundled(weights)["members"]]
    networks = [f"{name}={weights}:{name}" for name in names]
    asked = (*networks, *few, "--half", "all", "--recode", 40, "--sets", looks[0], ",".join(looks), "--of", 4)
    command(candidates, monkeypatch, *asked)
    tables = tables_in(capsys.readouterr().out)
    assert len(list((tmp_path / "cache").glob("look_*"))) == 4 * 8  # two looks of four networks, four kinds of pictures
    command(candidates, monkeypatch, *asked)
    assert tables_in(capsys.readouterr().out) == tables
    assert [len(rows) for rows in tables] == [8, 2, 16]
    found = tables[1][1]
    command(calibrate, monkeypatch, "--weights", weights, *few)
    command(evaluate, monkeypatch, "--weights", weights, "--half", "all", "--output", tmp_path / "out", *few)
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["set"] == ", ".join(looks)
    assert float(found["threshold"]) == pytest.approx(bundled(weights)["threshold"], abs=1e-3)
    assert float(found["held-out"]) == pytest.approx(figures["held_out_pseudo_fakes"]["auc"], abs=1e-3)
    assert float(found["clips"].split()[0]) == pytest.approx(figures["clips"]["pooled"]["value"], abs=1e-3)
    assert found["fakes over"] == figures["clips"]["fakes_over_threshold"]
    assert figures["clips"]["false_alarms"].split()[0] == found["false alarms"]


def tables_in(text: str) -> list[list[dict[str, str]]]:
    """Markdown's, row by row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    starts = [index - 1 for index, cells in enumerate(rows) if cells[0] == "---"]
    parts = [rows[start:end] for start, end in pairwise([*starts, len(rows)])]
    return [[dict(zip(heads, cells, strict=True)) for cells in body] for heads, _, *body in parts]


def bundled(weights: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((weights / "manifest.json").read_text())["sets"]["bundled"]
    return record


@pytest.mark.timeout(240)
def test_faces_alone_can_be_measured(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of portraits without clips, as `train prepare` leaves it."""
    command(prepare, monkeypatch, own / "faces", "--val-share", "1", "--force")
    command(evaluate, monkeypatch, "--data-dir", own / "faces", "--pairs", 2, "--output", tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert figures["held_out_pseudo_fakes"]["images"] == 4 and "clips" not in figures


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        (evaluate, (), "nothing to measure"),
        (evaluate, ("--data-dir", "x", "--rate", "0"), "--rate above 0"),
        (evaluate, ("--data-dir", "x", "--recode", "60"), "0 to 51, got 60"),
        (evaluate, ("--data-dir", "x", "--recode", "28"), "--recode is for clips"),
        (calibrate, ("--data-dir", "x", "--false-alarms", "1.5"), "--false-alarms of 0 to 1"),
        (calibrate, ("--data-dir", "x", "--pairs", "0"), "--pairs of at least 1"),
        (candidates, ("A=weights:ViT", "--data-dir", "x", "--recode", "60"), "--recode of 0 to 51"),
        (candidates, ("A=weights:ViT", "--data-dir", "x", "--of", "2"), "--of 0 to 1"),
        (candidates, ("A=weights", "--data-dir", "x"), "has no member A"),
        (candidates, ("A", "--data-dir", "x"), "networks: 'A' is not NAME=CHECKPOINT"),
        (candidates, ("A=x.pt@640", "--data-dir", "x"), "at most 224"),
        (candidates, ("A=pyproject.toml", "--data-dir", "x"), "neither a checkpoint"),
        (candidates, ("A=weights:ViT", "A=weights:ViTST", "--data-dir", "x"), "given twice"),
        (candidates, ("A=weights:ViT", "--data-dir", "x", "--sets", "A,B"), "there are A, A'"),
        (candidates, ("A=weights:ViT", "--data-dir", "x"), "no clips to measure on"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    module: ModuleType, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(WEIGHTS.parent)
    with pytest.raises(StreamWatchError, match=said):
        command(module, monkeypatch, *words)


def test_data_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StreamWatchError, match=r"labels\.npz"):
        command(evaluate, monkeypatch, "--data-dir", tmp_path, "--pairs", "2")
