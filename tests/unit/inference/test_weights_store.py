from __future__ import annotations

import errno
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gdown
import numpy as np
import pytest
import torch
from torch import Tensor

from streamwatch.domain import Box
from streamwatch.errors import ConfigError, WeightsCorrupt, WeightsMissing, WeightsUnavailable
from streamwatch.inference import weights_import, weights_pull
from streamwatch.inference.blazeface import BlazeFace, make_anchors
from streamwatch.inference.ensemble import load_ensemble, make_cropper, probe_crops
from streamwatch.inference.seed_members import SeedSpec
from streamwatch.inference.weights import find_set, read_manifest, store_directory
from streamwatch.inference.weights_import import import_state, import_weights
from streamwatch.inference.weights_store import list_sets, verify
from tests.unit.inference.test_seed_members import SMALL, seed_layout


@pytest.fixture(autouse=True)
def store(tmp_path: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data home"))
    monkeypatch.setenv("STREAMWATCH_WEIGHTS_DIR", str(weights_dir))
    return store_directory()


@pytest.fixture
def small_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoint files name full-size networks; the files of these tests hold small ones."""
    small = {name: SeedSpec(name, SMALL[name.removesuffix("ST")]) for name in ("TimmV2", "TimmV2ST", "ViT", "ViTST")}
    monkeypatch.setattr(weights_import, "SeedSpec", lambda name: small[name])


def checkpoint(path: Path, name: str = "ViT", changes: Mapping[str, Tensor] | None = None) -> Path:
    state, _ = seed_layout(name)
    torch.save({"net": {**state, **(changes or {})}, "opt": {"state": torch.zeros(3)}}, path)
    return path


@pytest.mark.usefixtures("small_backbones")
def test_an_imported_set_is_listed_verified_and_scores(tmp_path: Path) -> None:
    folder = tmp_path / "check points"
    folder.mkdir()
    for suffix, name in {"v2": "TimmV2", "v2st": "TimmV2ST", "vit": "ViT", "vitst": "ViTST"}.items():
        checkpoint(folder / f"dfdc_{suffix}.pth", name)
    (folder / "notes.txt").write_text("not weights")
    seen: list[Any] = []
    taken = import_weights(folder, lambda *what: seen.append(what))
    assert sorted(taken) == ["dfspot-dfdc/TimmV2", "dfspot-dfdc/TimmV2ST", "dfspot-dfdc/ViT", "dfspot-dfdc/ViTST"]
    assert len(seen) == 5

    row = next(row for row in list_sets() if row.name == "dfspot-dfdc")
    assert (row.present, row.absent, row.download) == (("TimmV2", "TimmV2ST", "ViT", "ViTST"), (), None)
    assert row.size > 1e6
    checked = verify(["dfspot-dfdc"])
    assert len(checked) == 4
    assert not [row for row in checked if row.fault]

    weights = find_set("dfspot-dfdc").choose(None)
    assert (weights.record.threshold, weights.record.fusion, weights.record.disagreement_p99) == (
        0.3,
        "sigmoid_mean",
        None,
    )
    output = load_ensemble(weights).score(torch.from_numpy(probe_crops(2, 224)))
    assert output.members.shape == (2, 4)
    scores = 1 / (1 + np.exp(-output.members.astype(np.float64)))
    assert 1 / (1 + np.exp(-output.fused.astype(np.float64))) == pytest.approx(scores.mean(1), abs=1e-6)
    assert make_cropper(weights, 224)(np.zeros((300, 300, 3), np.uint8), Box(50, 60, 150, 200)).shape == (224, 224, 3)


@pytest.mark.usefixtures("small_backbones")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_imported_whatever_paths_they_hold(kind: str, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "celeb_vit.pth")
    archive = tmp_path / f"celeb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as target:
            target.write(file, "../../outside/celeb_vit.pth")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(file, "models/celeb_vit.pth")
    assert import_weights(archive) == ["dfspot-celeb/ViT"]
    assert sorted(path.name for path in store_directory().rglob("*") if path.is_file()) == [
        "ViT.safetensors",
        "manifest.json",
    ]


@pytest.mark.usefixtures("small_backbones")
def test_a_set_without_a_member_refuses_to_pass_for_the_whole(tmp_path: Path) -> None:
    import_weights(checkpoint(tmp_path / "ffpp_vit.pth"))
    with pytest.raises(WeightsMissing, match="TimmV2, TimmV2ST, ViTST not in"):
        find_set("dfspot-ffpp").choose(None)
    assert [m.name for m in find_set("dfspot-ffpp").choose(["ViT"]).record.members] == ["ViT"]


@pytest.mark.usefixtures("small_backbones")
def test_the_first_mismatch_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsCorrupt, match=r"dfdc_vit\.pth: is not a ViT checkpoint: vit\.cls_token has shape \(1, 1, 5\)"
    ):
        import_weights(checkpoint(tmp_path / "dfdc_vit.pth", changes={"vit.cls_token": torch.zeros(1, 1, 5)}))
    with pytest.raises(WeightsCorrupt, match=r"feat_ext\.vit\.cls_token is missing"):
        import_weights(checkpoint(tmp_path / "dfdc_vitst.pth", "ViT"))
    with pytest.raises(WeightsCorrupt, match="extra is not expected"):
        import_weights(checkpoint(tmp_path / "dfdc_vit.pth", changes={"extra": torch.zeros(1)}))
    assert not list(store_directory().rglob("*.safetensors"))


class Sneaky:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pwned"),))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"net": {"weight": torch.zeros(1)}, "hook": Sneaky()}, tmp_path / "dfdc_vit.pth")
    with pytest.raises(WeightsCorrupt, match=r"dfdc_vit\.pth: refused, it is not plain tensors"):
        import_weights(tmp_path / "dfdc_vit.pth")
    assert not (tmp_path / "pwned").exists()


def test_what_cannot_be_read_or_known_is_named(tmp_path: Path) -> None:
    (tmp_path / "dfdc_vit.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(WeightsCorrupt, match=r"dfdc_vit\.pth"):
        import_weights(tmp_path / "dfdc_vit.pth")
    (tmp_path / "model.pth").write_bytes(b"?")
    with pytest.raises(ConfigError, match="its name says no network"):
        import_weights(tmp_path / "model.pth")
    with pytest.raises(WeightsMissing, match="there is no such file"):
        import_weights(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="holds none of"):
        import_weights(tmp_path / "empty")
    torch.save([1, 2], tmp_path / "dfdc_v2.pth")
    with pytest.raises(WeightsCorrupt, match="no state dict"):
        import_weights(tmp_path / "dfdc_v2.pth")


def test_the_original_detector_and_its_anchors_import(tmp_path: Path) -> None:
    torch.save(BlazeFace().state_dict(), tmp_path / "blazeface.pth")
    anchors = make_anchors().numpy()
    np.save(tmp_path / "anchors.npy", np.concatenate([anchors, np.ones_like(anchors)], 1))
    assert import_weights(tmp_path) == ["anchors", "blazeface-original"]
    assert read_manifest(store_directory()).detectors["blazeface-original"].score_threshold == 0.75
    np.save(tmp_path / "anchors.npy", np.zeros((896, 4)))
    with pytest.raises(WeightsCorrupt, match="anchors"):
        import_weights(tmp_path / "anchors.npy")


def test_verify_tells_what_is_broken(tmp_path: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row.fault for row in verify()] == [None, None, None]
    broken = Path(shutil.copytree(weights_dir, tmp_path / "broken"))
    (broken / "vit.safetensors").unlink()
    (broken / "blazeface.safetensors").write_bytes(b"?")
    monkeypatch.setenv("STREAMWATCH_WEIGHTS_DIR", str(broken))
    faults = {row.name: row.fault for row in verify()}
    assert faults == {
        "bundled/TimmV2": None,
        "bundled/ViT": "the file is missing",
        "blazeface": "sha256 is not what the manifest says",
    }
    with pytest.raises(WeightsMissing, match="dfspot-dfdc"):
        verify(["dfspot-dfdc"])


# --- pull ------------------------------------------------------------------------------------------------------------


def test_only_published_sets_can_be_pulled() -> None:
    with pytest.raises(
        ConfigError, match="'bundled' cannot be pulled; dfspot-celeb, dfspot-dfdc, dfspot-ffpp, all can"
    ):
        weights_pull.pull(["bundled"])


def test_a_full_disk_is_told_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    with pytest.raises(WeightsUnavailable, match=r"dfspot-dfdc: needs 24 GB in .*, 1\.0 GB are free"):
        weights_pull.pull(["dfspot-dfdc"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), r"drive\.google\.com cannot be reached"),
        (TimeoutError("timed out"), r"drive\.google\.com cannot be reached"),
        (gdown.exceptions.FileURLRetrievalError("Too many users have viewed this file"), "the host refuses it"),
    ],
)
def test_a_host_out_of_reach_gives_one_clear_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(gdown, "download", fail)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))
    with pytest.raises(WeightsUnavailable, match=message) as caught:
        weights_pull.pull(["dfspot-ffpp"])
    assert "weights import FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("small_backbones")
def test_a_pulled_archive_is_imported_and_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The transfer alone is stood in for: no host of the archives is within a test's reach."""
    file = checkpoint(tmp_path / "dfdc_vit.pth")

    def fetch(output: str, progress: Any, **how: Any) -> str:
        assert how["resume"] and how["id"] == weights_pull.DRIVE_IDS["dfspot-dfdc"]
        with zipfile.ZipFile(output, "w") as target:
            target.write(file, file.name)
        progress(10, 10)
        return output

    monkeypatch.setattr(gdown, "download", fetch)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))
    seen: list[Any] = []
    assert weights_pull.pull(["dfspot-dfdc"], lambda *what: seen.append(what)) == ["dfspot-dfdc/ViT"]
    assert seen[0] == ("pull dfspot-dfdc", 10, 10)
    assert not list(store_directory().glob("*.download"))


def test_state_dicts_of_todays_process_import_too() -> None:
    state, _ = seed_layout("TimmV2ST")
    assert (
        import_state("dfspot-celeb", SeedSpec("TimmV2ST", SMALL["TimmV2"]), state, "memory") == "dfspot-celeb/TimmV2ST"
    )
