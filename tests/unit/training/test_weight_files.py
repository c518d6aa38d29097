"""A set of weights as files: export leaves what is there whole, and the check finds what is damaged."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from streamwatch.errors import ConfigError, WeightsCorrupt
from streamwatch.inference.weights import bundled_directory, file_hash, find_set, read_manifest
from streamwatch.training import bundle, cards, check, export, provenance
from streamwatch.training.bundle import fingerprint, load_bundled, member_bytes, new_member, read_raw_manifest
from tests.unit.training.test_weight_sets import SPEC, export_set, exported, trained

Change = Callable[[dict[str, Any]], None]


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def assert_whole(directory: Path, name: str = "bundled") -> None:
    for member in read_manifest(directory).sets[name].members:
        assert file_hash(directory / member.file) == member.sha256


def change(directory: Path, edit: Change) -> None:
    manifest = read_raw_manifest(directory)
    edit(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("first"))


@pytest.fixture
def output(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of two members with its cards, as the check wants it."""
    monkeypatch.delenv("STREAMWATCH_DATA_DIR", raising=False)
    directory = tmp_path / "weights"
    directory.mkdir()
    for name, content in files_of(first).items():
        (directory / name).write_bytes(content)
    (directory / "autoencoders").mkdir()
    (directory / "autoencoders" / "ae.safetensors").write_bytes(b"weights")
    (directory / "blazeface.safetensors").write_bytes(b"detector")
    record = {"file": "blazeface.safetensors", "sha256": file_hash(directory / "blazeface.safetensors")}
    row = {"recall": 0.94, "false_per_frame": 1.83, "ap50": 0.939}
    figures = {"stills_ap50": 0.97, "composites_default": {"64px": row}, "composites_fine": {"64px": row}}
    detectors = {"blazeface": {**record, "score_threshold": 0.7, "figures": figures}}
    change(directory, lambda manifest: manifest.update(detectors=detectors))
    said = "At the threshold\nof 0.7 (all): **average precision at IoU 0.5: 0.97**"
    (directory / "blazeface.md").write_text(f"{said}\n| 64px | 0.940 | 1.8 | 0.939 | 0.940 | 1.8 | 0.939 |\n")
    run_check(directory, write=True)
    write_cards(directory)
    return directory


def write_cards(directory: Path) -> None:
    record = read_raw_manifest(directory)["sets"]["bundled"]
    for member in record["members"]:
        (directory / cards.card_name(member["file"])).write_text(cards.card(member, record))


def run_check(directory: Path, *, write: bool = False) -> int:
    return check.run(argparse.Namespace(weights=str(directory), write=write))


def test_another_set_beside_it_leaves_the_first_whole(output: Path) -> None:
    before = files_of(output)
    export_set([f"ViT={output}:ViTST", f"BlazeFace={output}:ViT"], output, more=("--set", "mine"))
    after = files_of(output)
    assert all(after[name] == content for name, content in before.items() if name != "manifest.json")
    files = [member.file for member in read_manifest(output).sets["mine"].members]
    assert files == ["mine-vit.safetensors", "mine-blazeface.safetensors"]
    assert_whole(output)
    assert_whole(output, "mine")
    export_set([f"ViT={output}:ViT"], output, more=("--set", "mine"))
    assert read_manifest(output).sets["mine"].members[0].file == "mine-vit.safetensors"


@pytest.mark.parametrize("limit", ["LARGEST_FILE", "LARGEST_SET"])
def test_members_that_are_too_large_change_nothing(output: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    before = files_of(output)
    monkeypatch.setattr(bundle, limit, 1000)
    with pytest.raises(ConfigError, match="more than the 1000"):
        export_set([f"ViT={output}:ViTST", f"ViTST={output}:ViT"], output)
    assert files_of(output) == before


def test_a_disk_that_fills_leaves_the_set_whole(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = files_of(output), Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        if "vitst" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space"):
        export_set([f"ViT={output}:ViTST", f"ViTST={output}:ViT"], output)
    assert files_of(output) == before


@pytest.mark.parametrize("names", [("ViT", "ViT"), ("ViT", "vit")])
def test_names_that_repeat_are_refused(output: Path, names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="vit: named twice"):
        export_set([f"{name}={output}:ViT" for name in names], output)
    with pytest.raises(ConfigError, match="set: "):
        export_set([f"ViT={output}:ViT"], output, more=("--set", "../x"))


def test_new_members_lose_the_old_calibration(output: Path) -> None:
    change(output, lambda m: m["sets"]["bundled"].update(disagreement_p99=3.0, calibrated="streamwatch calibrate"))
    export_set([f"ViT={output}:ViT"], output)
    record = read_raw_manifest(output)["sets"]["bundled"]
    assert not {"disagreement_p99", "calibrated"} & set(record) and "autoencoders" in record


def test_a_set_of_another_name_is_kept_from_averaged_and_checked(output: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    change(output, lambda m: m["sets"].update(mine=m["sets"].pop("bundled")))
    expected = load_bundled(output, "ViT").state_dict()["head.weight"]
    export_set([f"ViT={output}:ViT"], other)
    assert torch.allclose(load_bundled(other, "ViT").state_dict()["head.weight"], expected, atol=1e-3)
    assert run_check(output) == 0 and run_check(output, write=True) == 0
    with pytest.raises(ConfigError, match="anchor: needed"):
        export_set([f"ViT={output}:ViT*0.5"], other)
    with pytest.raises(ConfigError, match="no set 'bundled'"):
        (tmp_path / "evaluation.json").write_text("{}")
        cards.run(argparse.Namespace(weights=output, set="bundled", evaluation=tmp_path / "evaluation.json"))


def test_a_kept_member_is_averaged(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(output, lambda m: m["sets"]["bundled"]["members"][0]["trained"].update(share_beside_the_anchor=0.5))
    own = load_bundled(output, "ViT").state_dict()["head.weight"]

    def zeros(_: Path, member: Any) -> None:
        member.load_state_dict({key: torch.zeros_like(value) for key, value in member.state_dict().items()})

    monkeypatch.setattr(export, "load_warm_start", zeros)
    export_set([f"ViT={output}:ViT*0.25"], tmp_path / "other", more=("--anchor", "x"))
    assert torch.allclose(load_bundled(tmp_path / "other", "ViT").state_dict()["head.weight"], own / 4, atol=1e-3)
    member = read_raw_manifest(tmp_path / "other")["sets"]["bundled"]["members"][0]
    assert member["trained"]["share_beside_the_anchor"] == 0.125


def test_two_members_are_averaged_and_both_are_told(output: Path, tmp_path: Path) -> None:
    """A refinement with what it came from, each of a set or of a checkpoint."""
    names = [record["name"] for record in read_raw_manifest(output)["sets"]["bundled"]["members"]]
    told_before = {"commit": "abc", "command": "train a --pretrained", "images": 5}
    change(output, lambda m: member(m).update(trained=told_before))
    first, second = (load_bundled(output, name).state_dict() for name in names)
    key = next(name for name, value in first.items() if value.ndim == 4)
    more = ("--anchor", f"{output}:{names[0]}")
    export_set([f"ViT={output}:{names[1]}*0.25"], tmp_path / "other", more=more)
    mean = load_bundled(tmp_path / "other", "ViT").state_dict()
    assert torch.allclose(mean[key], 0.25 * second[key] + 0.75 * first[key], atol=1e-3)
    record = read_raw_manifest(tmp_path / "other")["sets"]["bundled"]
    told = cards.card(record["members"][0], record)
    assert "(0.25 of its own) with those of a network of 5 images; commit `abc`:" in told
    assert "```\ntrain a --pretrained\n```" in told and "trained on ImageNet-1k" in told
    checkpoint = trained(tmp_path / "a")
    export_set([f"ViT={checkpoint}*0.5"], tmp_path / "third", more=("--anchor", str(checkpoint)))
    alone = torch.load(checkpoint, weights_only=True)["ema"]
    assert torch.allclose(load_bundled(tmp_path / "third", "ViT").state_dict()[key], alone[key], atol=1e-3)


def test_the_commit_is_the_trainings_or_that_of_this_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained(tmp_path / "a")
    saved = torch.load(path, weights_only=True)
    saved.pop("commit", None)
    torch.save(saved, path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["git", "init", "-q", str(elsewhere)], check=True)
    monkeypatch.chdir(elsewhere)
    export_set([f"ViT={path}"], tmp_path / "weights")
    said = read_raw_manifest(tmp_path / "weights")["sets"]["bundled"]["members"][0]["trained"]
    assert "commit" not in said and said["exported_at"] == provenance.source_commit()
    torch.save({**saved, "commit": "abc1234"}, path)
    export_set([f"ViT={path}"], tmp_path / "weights")
    record = read_raw_manifest(tmp_path / "weights")["sets"]["bundled"]
    assert record["members"][0]["trained"]["commit"] == "abc1234"
    assert "commit `abc1234`:" in cards.card(record["members"][0], record)
    # An installed package may lie in a folder of somebody's repository: that one's HEAD says nothing about it.
    installed = elsewhere / ".venv" / "streamwatch" / "training" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.source_commit() == ""


def test_the_commit_of_changed_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "streamwatch" / "training" / "provenance.py"
    source.parent.mkdir(parents=True)
    source.write_text("one")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(source))
    clean = provenance.source_commit()
    assert len(clean) >= 7 and not clean.endswith("-dirty")
    source.write_text("another")
    assert provenance.source_commit() == f"{clean}-dirty"


def test_a_card_says_how_threshold_and_figures_were_made(output: Path) -> None:
    record = read_raw_manifest(output)["sets"]["bundled"]
    member = {**record["members"][0], "trained": {"exported_at": "abc", "images": 8}}
    assert "Made with" not in cards.card(member, record) and "exported at commit `abc`" in cards.card(member, record)
    record = {**record, "calibrated": "streamwatch calibrate x", "figures": {"command": "streamwatch evaluate y"}}
    assert "```\nstreamwatch calibrate x\nstreamwatch evaluate y\n```" in cards.card(member, record)


def test_a_card_tells_a_refinements_ancestry(output: Path) -> None:
    record = read_raw_manifest(output)["sets"]["bundled"]
    start = {"commit": "bbb", "command": "train b", "images": 20, "share_beside_the_anchor": 0.5}
    eldest = {"commit": "aaa", "command": "train a --pretrained", "images": 30}
    trained = {"commit": "ccc", "command": "train c", "images": 10}
    alone = cards.card({**record["members"][0], "trained": trained}, record)
    assert "Before that" not in alone and "ImageNet" not in alone
    told = cards.card({**record["members"][0], "trained": {**trained, "start": {**start, "start": eldest}}}, record)
    assert told.index("train c") < told.index("train b") < told.index("(0.5 of its own)") < told.index("train a")
    assert "Before that, 30 images; commit `aaa`:" in told and "trained on ImageNet-1k" in told


@pytest.mark.parametrize("change_of", ["threshold", "temperature", "nothing"])
def test_figures_of_another_set_are_refused(output: Path, tmp_path: Path, change_of: str) -> None:
    """An evaluation from before a calibration, or of other weights, does not get into the cards."""
    record = read_raw_manifest(output)["sets"]["bundled"]
    measured = {"weights": "bundled 1", "fingerprint": fingerprint(record), "command": "streamwatch evaluate z"}
    (tmp_path / "evaluation.json").write_text(json.dumps(measured))
    if change_of == "threshold":
        change(output, lambda m: bundled(m).update(threshold=0.123))
    if change_of == "temperature":
        change(output, lambda m: member(m).update(temperature=9.0))
    before = (output / "manifest.json").read_text()
    asked = argparse.Namespace(weights=output, set="bundled", evaluation=tmp_path / "evaluation.json", recoded=[])
    if change_of == "nothing":
        assert cards.run(asked) == 0
        assert "streamwatch evaluate z" in (output / cards.card_name(record["members"][0]["file"])).read_text()
    else:
        with pytest.raises(ConfigError, match=r"evaluation\.json: measured bundled 1, not bundled"):
            cards.run(asked)
        assert (output / "manifest.json").read_text() == before


def test_a_card_tells_the_figures_of_clips_that_were_compressed_once_more(output: Path, tmp_path: Path) -> None:
    record = read_raw_manifest(output)["sets"]["bundled"]
    plain, again = tmp_path / "plain.json", tmp_path / "again.json"
    measured = {"fingerprint": fingerprint(record), "command": "streamwatch evaluate z", "measured": "today"}
    plain.write_text(json.dumps(measured))
    clips = {"pooled": 0.7, "half": "all", "recoded_at_crf": 28}
    again.write_text(json.dumps({**measured, "command": "streamwatch evaluate --recode 28", "clips": clips}))
    asked = argparse.Namespace(weights=output, set="bundled", evaluation=plain, recoded=[again])
    assert cards.run(asked) == 0
    text = (output / cards.card_name(record["members"][0]["file"])).read_text()
    assert "crf 28:\n    half: all\n    pooled: 0.7" in text and "streamwatch evaluate --recode 28\n```" in text
    assert check.file_faults(find_set(str(output))) == []
    asked.recoded = [plain]
    with pytest.raises(ConfigError, match=r"plain\.json: its clips were not compressed once more"):
        cards.run(asked)


def test_the_bundled_cards_are_the_manifests() -> None:
    assert check.file_faults(find_set("bundled")) == []
    assert {record.file for record in read_manifest(bundled_directory()).detectors.values()} == {
        "blazeface.safetensors"
    }


def member(record: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = record["sets"]["bundled"]["members"][0]
    return first


def bundled(record: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = record["sets"]["bundled"]
    return one


def detector(record: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = record["detectors"]["blazeface"]
    return one


DAMAGES: dict[str, Change] = {
    "temperature": lambda m: member(m).update(temperature=1.3),
    "a temperature that is none": lambda m: member(m).update(temperature=math.nan),
    "bias": lambda m: member(m).update(bias=0.01),
    "threshold": lambda m: bundled(m).update(threshold=0.51),
    "fusion": lambda m: bundled(m).update(fusion="sigmoid_mean"),
    "disagreement": lambda m: bundled(m).update(disagreement_p99=9.0),
    "figures": lambda m: bundled(m)["figures"].update(clips={"pooled": {"value": 1.0, "low": 1.0, "high": 1.0}}),
    "fixed logits": lambda m: bundled(m)["figures"]["fixed_logits"][0].__setitem__(0, 9.0),
    "fused logits": lambda m: bundled(m)["figures"]["fixed_fused"].__setitem__(0, 9.0),
    "auto-encoder": lambda m: bundled(m)["autoencoders"].update({"autoencoders/ae.safetensors": "0"}),
    "crop": lambda m: member(m).update(crop="square2.0h-v9"),
    "detector's precision": lambda m: detector(m)["figures"].update(stills_ap50=0.9),
    "detector's threshold": lambda m: detector(m).update(score_threshold=0.6),
    "detector's table": lambda m: detector(m)["figures"]["composites_fine"]["64px"].update(recall=0.99),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_manifest_that_was_changed_is_found_out(output: Path, damage: str) -> None:
    assert run_check(output) == 0
    change(output, DAMAGES[damage])
    with pytest.raises(WeightsCorrupt):
        run_check(output)


@pytest.mark.parametrize("damage", ["temperature", "bias", "threshold", "fusion", "disagreement"])
def test_new_cards_do_not_hide_another_calibration(output: Path, damage: str) -> None:
    change(output, DAMAGES[damage])
    write_cards(output)
    with pytest.raises(WeightsCorrupt):
        run_check(output)


@pytest.mark.parametrize("name", ["vit.md", "vitst.md", "blazeface.md", "autoencoders/ae.safetensors"])
def test_a_file_that_was_changed_or_lost_is_found_out(
    output: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (output / name).write_text("x")
    with pytest.raises(WeightsCorrupt):
        run_check(output)
    (output / name).unlink()
    with pytest.raises(WeightsCorrupt):
        run_check(output)
    assert capsys.readouterr().err.count(f"weights-check: {name}: ") >= 2


def test_other_weights_are_found_out(output: Path) -> None:
    (output / "vit.safetensors").write_bytes(member_bytes(new_member(SPEC)))
    with pytest.raises(WeightsCorrupt):
        run_check(output)


def test_a_set_that_was_written_before_the_newest_figures_is_valid(output: Path) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        del bundled(manifest)["autoencoders"]
        for name in ("fixed_fused", "fixed_calibration"):
            del bundled(manifest)["figures"][name]

    change(output, forget)
    assert run_check(output) == 0


def test_a_number_that_is_none_agrees_with_nothing() -> None:
    computed = {"fixed_logits": [[math.nan]], "fixed_fused": [0.5], "fixed_calibration": "x"}
    assert check.differences({"fixed_logits": [[0.5]]}, computed)
    assert check.differences({"fixed_logits": [[math.nan]]}, {**computed, "fixed_logits": [[0.5]]})
    fine = {"fixed_logits": [[0.5]]}
    for said in ({}, {"fixed_auc": math.nan}, {"fixed_auc": 0.7}):
        assert check.differences({**fine, **said}, {**computed, **fine, "fixed_auc": 0.8})
    assert not check.differences({**fine, "fixed_auc": 0.81}, {**computed, **fine, "fixed_auc": 0.8})
