from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from streamwatch.errors import ConfigError, WeightsCorrupt, WeightsError, WeightsMissing
from streamwatch.inference.ensemble import load_ensemble, make_cropper
from streamwatch.inference.weights import (
    MANIFEST,
    bundled_directory,
    file_hash,
    find_set,
    first_mismatch,
    read_manifest,
)

Manifest = dict[str, Any]


@pytest.fixture
def own_copy(weights_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights_dir, tmp_path / "weights"))


def rewrite(directory: Path, change: Callable[[Manifest], None]) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    change(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))


def members(manifest: Manifest) -> list[Manifest]:
    found: list[Manifest] = manifest["sets"]["bundled"]["members"]
    return found


def test_the_directory_is_found_by_the_environment(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMWATCH_WEIGHTS_DIR", str(weights_dir))
    assert bundled_directory() == weights_dir
    assert [member.name for member in find_set("bundled").record.members] == ["TimmV2", "ViT"]


def test_no_manifest_names_the_places_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMWATCH_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsMissing, match="nowhere"):
        find_set("bundled")


def test_a_subset_keeps_the_order_of_the_set_and_has_its_own_hash(weights_dir: Path) -> None:
    whole = find_set(str(weights_dir))
    assert [member.name for member in whole.choose(["ViT", "TimmV2"]).record.members] == ["TimmV2", "ViT"]
    assert whole.choose(["ViT"]).hash != whole.hash == whole.choose(None).hash
    with pytest.raises(ConfigError, match=r"no member 'Xception'; it has TimmV2, ViT"):
        whole.choose(["Xception"])
    with pytest.raises(ConfigError, match="at least one"):
        whole.choose([])


def test_a_seed_set_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(WeightsMissing, match="streamwatch weights pull dfspot-dfdc"):
        find_set("dfspot-dfdc")
    with pytest.raises(ConfigError, match="neither a known set nor a directory"):
        find_set("dfspot-dfcd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "format"),
        (lambda m: m["sets"]["bundled"].pop("threshold"), r"sets\.bundled\.threshold"),
        (lambda m: m["sets"]["bundled"].update(fusion="max"), r"sets\.bundled\.fusion"),
        (lambda m: members(m).clear(), r"sets\.bundled\.members: is empty"),
        (lambda m: m["sets"].clear(), "sets"),
        (lambda m: members(m)[0].update(sha256="0" * 64), r"timmv2\.safetensors: sha256"),
        (lambda m: members(m)[1].update(file="gone.safetensors"), r"gone\.safetensors: the file is missing"),
        (lambda m: members(m)[0]["architecture"].update(backbone="no_such_net"), "no_such_net"),
        (lambda m: members(m)[0]["architecture"].update(colour="red"), "colour"),
        (lambda m: members(m)[0]["architecture"].update(mask_channels=4), r"mask_head\.0\.weight has shape"),
        (lambda m: members(m)[0]["architecture"].update(crop="other-v9"), "other-v9"),
    ],
)
def test_a_fault_is_named_with_its_file(own_copy: Path, change: Callable[[Manifest], None], message: str) -> None:
    rewrite(own_copy, change)
    with pytest.raises(WeightsError, match=message) as caught:
        load_ensemble(find_set(str(own_copy)))
    assert str(own_copy) in str(caught.value)


def test_members_of_another_crop_are_refused(own_copy: Path) -> None:
    rewrite(own_copy, lambda m: members(m)[1].update(crop="square2.0h-v0"))
    with pytest.raises(WeightsCorrupt, match=r"vit\.safetensors: trained on the crop 'square2\.0h-v0'"):
        make_cropper(find_set(str(own_copy)), 64)


def test_a_damaged_file_is_refused_even_if_its_hash_was_adapted(own_copy: Path) -> None:
    file = own_copy / "vit.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsCorrupt, match=r"vit\.safetensors: sha256"):
        load_ensemble(find_set(str(own_copy)))
    rewrite(own_copy, lambda m: members(m)[1].update(sha256=file_hash(file)))
    with pytest.raises(WeightsCorrupt, match="not a readable safetensors file"):
        load_ensemble(find_set(str(own_copy)))


def test_a_manifest_that_is_not_json_is_corrupt(own_copy: Path) -> None:
    (own_copy / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(WeightsCorrupt, match=MANIFEST):
        read_manifest(own_copy)


def test_half_precision_files_are_read_as_float32(own_copy: Path) -> None:
    full = load_file(own_copy / "timmv2.safetensors")
    halved = {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in full.items()}
    save_file(halved, str(own_copy / "timmv2.safetensors"))
    rewrite(own_copy, lambda m: members(m)[0].update(sha256=file_hash(own_copy / "timmv2.safetensors")))
    loaded = load_ensemble(find_set(str(own_copy))).members[0].network.state_dict()
    assert loaded["head.weight"].dtype == torch.float32
    assert torch.equal(loaded["head.weight"], halved["head.weight"].float())


def test_the_first_mismatch_is_told_in_words() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(3)}
    assert first_mismatch(expected, expected) is None
    assert first_mismatch(expected, {"a": torch.zeros(2)}) == "b is missing"
    assert first_mismatch(expected, {"a": torch.zeros(4), "b": torch.zeros(3)}) == "a has shape (4,), expected (2,)"
    assert first_mismatch(expected, {**expected, "c": torch.zeros(1)}) == "c is not expected"
