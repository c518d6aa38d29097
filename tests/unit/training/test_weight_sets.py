"""From a checkpoint to a calibrated, checked and measured weight set."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamwatch.errors import ConfigError, WeightsCorrupt
from streamwatch.inference.ensemble import load_ensemble
from streamwatch.inference.members import MaskMember, MemberSpec
from streamwatch.inference.weights import find_set
from streamwatch.training import command, export
from streamwatch.training.batches import HostBatches
from streamwatch.training.bundle import load_bundled, load_checkpoint, new_member, transplant, write_set
from streamwatch.training.calibrate import Evidence, calibrate
from streamwatch.training.clips import Clip
from streamwatch.training.loop import Recipe, Trainer
from streamwatch.training.metrics import sigmoid
from streamwatch.training.pairs import PairSettings
from streamwatch.training.recipes import freeze, parse_mix, plan_of
from streamwatch.training.report import as_text, auc_by, clip_figures, held_out_figures, plot_reliability, plot_roc
from streamwatch.training.schedule import Schedule
from streamwatch.training.scored import ScoredClip, false_alarms
from tests.unit.training.pictures import draw_faces

SPEC = MemberSpec("test_resnet", input_size=64, mask_channels=8)


def trained(folder: Path, spec: MemberSpec = SPEC) -> Path:
    """A checkpoint after two steps."""
    torch.manual_seed(0)
    recipe = Recipe(Schedule(8, ((0.0, 64),)), PairSettings(size=64, h264=False), batch_pairs=2)
    batches = HostBatches(draw_faces(3), recipe.batch_pairs, recipe.pairs)
    trainer = Trainer(new_member(spec), batches, recipe, folder)
    trainer.run()
    return trainer.checkpoint


def exported(folder: Path) -> Path:
    output = folder / "weights"
    output.mkdir()
    members = [f"ViT={trained(folder / 'a')}", f"ViTST={trained(folder / 'b', replace(SPEC, head='bn_linear'))}"]
    export_set(members, output)
    return output


def export_set(members: list[str], output: Path, mirrored: str = "", more: tuple[str, ...] = ()) -> None:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    words = [*members, "--output", str(output), "--version", "t", "--mirrored", mirrored, *more]
    export.run(parser.parse_args(words))


def logits(member: MaskMember) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        result: torch.Tensor = member.eval()(torch.rand(2, 3, 64, 64)).logit
    return result


def test_an_exported_member_scores_like_its_checkpoint(tmp_path: Path) -> None:
    output = exported(tmp_path)
    expected = logits(load_checkpoint(tmp_path / "a" / "checkpoint.pt"))
    assert torch.allclose(logits(load_bundled(output, "ViT")), expected, atol=0.02)
    ensemble = load_ensemble(find_set(str(output)))
    assert ensemble.names == ("ViT", "ViTST")
    record = json.loads((output / "manifest.json").read_text())["sets"]["bundled"]["members"][0]
    assert record["trained"]["images"] == 8 and record["crop"] == SPEC.crop


def test_a_member_is_kept_under_another_name_and_looks_at_the_mirrored_face(tmp_path: Path) -> None:
    output = exported(tmp_path)
    plain = load_bundled(output, "ViT")
    export_set([f"TimmV2={output}:ViT", f"ViT={output}:ViTST"], output, mirrored="TimmV2")
    kept = load_bundled(output, "TimmV2")
    crops = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected, seen = plain.eval()(crops.flip(3)), kept.eval()(crops)
    assert torch.allclose(seen.logit, expected.logit, atol=1e-3)
    assert expected.mask is not None and torch.allclose(seen.mask, expected.mask.flip(2), atol=1e-3)
    record = json.loads((output / "manifest.json").read_text())["sets"]["bundled"]["members"][0]
    assert record["trained"]["images"] == 8 and record["architecture"]["mirrored"]
    with pytest.raises(ConfigError, match="Nobody"):
        export_set([f"ViT={output}:ViT"], output, mirrored="Nobody")


def test_a_member_is_given_a_smaller_input(tmp_path: Path) -> None:
    output = exported(tmp_path)
    before = load_ensemble(find_set(str(output))).crop_size
    export_set([f"ViT={output}:ViT", f"ViTST={output}:ViTST"], output, more=("--input", "ViT=48"))
    ensemble = load_ensemble(find_set(str(output)))
    assert [member.input_size for member in ensemble.members] == [48, before] and ensemble.crop_size == before
    for wrong in ("Nobody=48", "ViT=16", "ViT=48.5", "ViT"):
        with pytest.raises(ConfigError, match=f"input: '{wrong}'"):
            export_set([f"ViT={output}:ViT"], output, more=("--input", wrong))


def test_the_manifest_is_merged(tmp_path: Path) -> None:
    before = {"format": 1, "detectors": {"blazeface": {"file": "x"}}, "sets": {"other": {"version": "1"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(before))
    write_set(tmp_path, "bundled", {"version": "2"})
    after = json.loads((tmp_path / "manifest.json").read_text())
    assert after["detectors"] == before["detectors"] and set(after["sets"]) == {"other", "bundled"}


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(WeightsCorrupt, match=r"x\.pt"):
        load_checkpoint(tmp_path / "x.pt")


def test_twins_start_from_their_siblings() -> None:
    plain, normal = new_member(SPEC), new_member(replace(SPEC, head="bn_linear"))
    transplant(plain, normal)
    assert torch.allclose(logits(normal), logits(plain), atol=1e-4)
    with torch.no_grad():
        normal.head[0].running_mean.normal_()  # type: ignore[index, operator]
        normal.head[0].weight.uniform_(0.5, 2)  # type: ignore[index, operator]
    back = new_member(SPEC)
    transplant(normal, back)
    assert torch.allclose(logits(back), logits(normal), atol=1e-4)


def test_other_trunks_are_refused() -> None:
    with pytest.raises(WeightsCorrupt, match="do not fit"):
        transplant(new_member(SPEC), new_member(MemberSpec("mobilenetv3_small_050", input_size=64)))


def test_averaging_goes_from_the_anchor_to_the_member() -> None:
    torch.manual_seed(3)
    member, anchor = new_member(SPEC), new_member(SPEC)
    own = member.state_dict()["head.weight"].clone()
    export.average(member, anchor, 0.25)
    expected = 0.25 * own + 0.75 * anchor.state_dict()["head.weight"]
    assert torch.allclose(member.state_dict()["head.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("text", ["ViT", "ViT=", "=x.pt", "ViT=x.pt*2", "ViT=x.pt*much"])
def test_a_malformed_choice_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="members"):
        export.parse_choice(text)


def clip(label: int, group: str, values: list[float], method: str = "swap") -> ScoredClip:
    fused = np.array(values, np.float32)
    members = np.stack((fused + 0.5, fused - 0.5), 1)
    times = np.arange(len(fused), dtype=np.float32)
    path = Path(f"{group}_{label}.mp4")
    return ScoredClip(
        Clip(path, label, method if label else "none", group, source="s"), members, fused, times, times * 0 + 120, 1.0
    )


def test_calibration_undoes_overconfidence_and_keeps_the_false_alarm_rate() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 4000)
    labels = (rng.random(4000) < sigmoid(honest)).astype(np.int64)
    raw = np.stack((3 * honest, 0.5 * honest + 1), 1).astype(np.float32)
    calibration = calibrate(Evidence(raw, labels, []), 0.05)
    assert calibration.temperatures == pytest.approx((3, 0.5), rel=0.15)
    assert calibration.biases[1] == pytest.approx(-1, abs=0.15)
    fused = ((raw + calibration.biases) / calibration.temperatures).mean(1)
    assert (sigmoid(fused[labels == 0]) >= calibration.threshold).mean() <= 0.05
    assert calibration.disagreement_p99 < 0.5


def test_real_clips_count_in_the_threshold() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 300)
    raw = np.repeat((4 * labels - 2 + rng.normal(0, 1, 600))[:, None], 2, 1).astype(np.float32)
    alone = calibrate(Evidence(raw, labels, []), 0.05)
    noisy = [clip(0, f"g{i}", rng.normal(1.5, 0.3, 30).tolist()) for i in range(10)]
    assert calibrate(Evidence(raw, labels, noisy), 0.05).threshold > alone.threshold


def test_false_alarms_are_upward_crossings_of_the_window() -> None:
    quiet, burst = clip(0, "a", [-3.0] * 20), clip(0, "b", [-3.0] * 20 + [3.0] * 20 + [-3.0] * 20 + [3.0] * 20)
    fake = clip(1, "c", [3.0] * 20)
    alarms = false_alarms([quiet, burst, fake], 0.0)
    assert alarms.count == 2
    assert alarms.hours == pytest.approx((16 + 76) / 3600)  # four frames of each clip are not scored
    assert "shows only < " in str(false_alarms([quiet], 0.0))


def test_figures_of_clips(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    clips = [clip(i % 2, f"g{i // 2}", (3 * (i % 2) - 1.5 + rng.normal(0, 1, 12)).tolist()) for i in range(20)]
    figures = clip_figures(clips, ("A", "B"), 0.5)
    assert figures["pooled"]["value"] == 1.0 and figures["clips"] == {"real": 10, "fake": 10}
    assert set(figures["members"]) == set(figures["without"]) == {"A", "B"}
    assert figures["by_method"] == {"swap": {"value": 1.0, "low": 1.0, "high": 1.0, "groups": [10, 10]}}
    assert figures["by_face_size"]["0-96 px"]["value"] is None
    assert "pooled: 1.000 [1.000, 1.000]" in as_text(figures)
    curve = ("clips", [s.clip.label for s in clips], [s.logit for s in clips])
    for plot, name in ((plot_roc, "roc.png"), (plot_reliability, "reliability.png")):
        plot([curve], tmp_path / name)
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    json.dumps(figures)


def test_figures_of_pseudo_fakes_name_the_quality() -> None:
    labels = np.tile([0, 1], 50)
    members = np.stack((labels * 2.0 - 1, labels * -2.0 + 1), 1)
    figures = held_out_figures(labels, members, members[:, 0], ["none", "none", "heavy", "heavy"] * 25, ("A", "B"))
    assert figures["members"] == {"A": 1.0, "B": 0.0} and figures["without"] == {"A": 0.0, "B": 1.0}
    assert set(figures["by_compression"]) == {"none", "heavy"}
    assert auc_by(labels, members[:, 0] * np.repeat([1, -1], 50), ["swap"] * 50 + ["rescale"] * 50) == {
        "rescale": 0.0,
        "swap": 1.0,
    }


def test_the_plan_is_changed_by_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = "ViT --data-dir x --images 500 --mix swap=1 --mask-weight 0 --sizes 0:96,0.5:128 --easy 0.2 --severity 0.5"
    recipe = command.recipe_of(parser.parse_args(words.split()), plan_of("ViT"))
    assert recipe.schedule.images == 500 and recipe.schedule.sizes == ((0.0, 96), (0.5, 128))
    assert recipe.pairs.mix.swap == 1 and recipe.losses.mask == 0 and recipe.pairs.severity == 0.5


@pytest.mark.parametrize("text", ["0.5:128", "0:128,0.2", "0:8", "0:128,0.6:224,0.3:96"])
def test_malformed_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="sizes"):
        command.parse_sizes(text)


@pytest.mark.parametrize("text", ["magic=1", "swap=x", "swap=-3"])
def test_a_malformed_mix_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="mix"):
        parse_mix(text, plan_of("ViT").recipe.pairs.mix)


def test_frozen_stages_are_named() -> None:
    member = new_member(SPEC)
    freeze(member, ("layer1",))
    frozen = {name for name, p in member.trunk.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("layer1") for name in frozen)
    with pytest.raises(ConfigError, match="no stage 'layer9'"):
        freeze(member, ("layer9",))


def test_an_unknown_member_is_refused() -> None:
    with pytest.raises(ConfigError, match="TimmV2"):
        plan_of("Magic")
