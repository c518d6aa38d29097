from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from streamwatch.domain import logit, sigmoid
from streamwatch.inference.ensemble import CPU_BATCH, Ensemble, LoadedMember, fuse, load_ensemble, probe_crops, shrunk
from streamwatch.inference.members import Member, MemberOutput
from streamwatch.inference.weights import find_set


class Brightness(Member):
    """A network whose answer is known: its logit is the mean of the picture, its mask the picture's red channel."""

    def __init__(self, gain: float, masked: bool = True) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))
        self.masked = masked
        self.seen: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> MemberOutput:
        self.seen = tuple(x.shape)
        return MemberOutput(self.gain * x.mean((1, 2, 3)), x[:, 0, ::8, ::8] if self.masked else None)


def grey(*levels: int, size: int = 32) -> Tensor:
    return torch.stack([torch.full((size, size, 3), level, dtype=torch.uint8) for level in levels])


def test_each_member_is_calibrated_and_the_mean_of_the_logits_decides() -> None:
    first = LoadedMember("A", Brightness(2.0), 32, temperature=2.0, bias=1.0)
    second = LoadedMember("B", Brightness(-1.0), 32, temperature=0.5)
    output = Ensemble([first, second]).score(grey(255, 0))
    assert output.members == pytest.approx(np.array([[1.5, -2.0], [0.5, 0.0]]), abs=1e-6)
    assert output.fused == pytest.approx([-0.25, 0.25], abs=1e-6)


def test_seed_sets_fuse_scores_instead_of_logits() -> None:
    logits = [[4.0, -3.0, 0.5], [60.0, 60.0, 60.0]]
    mean = sum(sigmoid(value) for value in logits[0]) / 3
    fused = fuse(torch.tensor(logits), "sigmoid_mean")
    assert float(fused[0]) == pytest.approx(logit(mean), abs=1e-5)
    assert 10 < float(fused[1]) < 20  # certain, yet finite
    assert float(fuse(torch.tensor(logits), "logit_mean")[0]) == pytest.approx(0.5)


def test_members_with_smaller_inputs_get_a_smaller_copy_of_the_crop() -> None:
    small, large = Brightness(1.0), Brightness(1.0)
    ensemble = Ensemble([LoadedMember("small", small, 16), LoadedMember("large", large, 32)])
    output = ensemble.score(grey(51))
    assert ensemble.crop_size == 32
    assert (small.seen[-1], large.seen[-1]) == (16, 32)
    assert output.members[0] == pytest.approx([0.2, 0.2], abs=1e-6)


@pytest.mark.parametrize("size", [160, 128, 112, 100])
def test_a_smaller_copy_is_what_training_saw(size: int) -> None:
    """Members learn fine texture from pictures that OpenCV shrank: another filter makes other faces of them."""
    crops = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    ours = shrunk(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255.0, size)
    for index, crop in enumerate(crops):
        theirs = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
        apart = np.abs(255.0 * ours[index].permute(1, 2, 0).numpy() - theirs)
        assert apart.max() < 1.01 and apart.mean() < 0.2  # a half may be rounded either way
    assert shrunk(ours, size) is ours


def test_the_heat_map_is_the_mean_of_the_masks_that_there_are() -> None:
    members = [
        LoadedMember("A", Brightness(1.0), 32),
        LoadedMember("B", Brightness(1.0), 16),
        LoadedMember("no mask", Brightness(1.0, masked=False), 32),
    ]
    output = Ensemble(members).score(grey(255))
    assert output.heat is not None
    assert output.heat.shape == (1, 4, 4)
    assert output.heat == pytest.approx(np.full((1, 4, 4), sigmoid(1.0)), abs=1e-6)
    assert Ensemble(members[2:]).score(grey(255)).heat is None


def test_a_face_scores_the_same_alone_and_in_a_batch(weights_dir: Path) -> None:
    ensemble = load_ensemble(find_set(str(weights_dir)))
    crops = torch.from_numpy(probe_crops(5, 64))
    together = ensemble.score(crops)
    alone = [ensemble.score(crops[index : index + 1]) for index in range(5)]
    assert together.members == pytest.approx(np.concatenate([output.members for output in alone]), abs=1e-4)
    assert together.fused == pytest.approx(together.members.mean(1), abs=1e-5)


def test_many_faces_in_several_calls_keep_their_places() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = Brightness(1.0)
        levels = list(range(0, 200, 10))
        output = Ensemble([LoadedMember("A", network, 32)]).score(grey(*levels))
    finally:
        torch.set_num_threads(threads)
    assert network.seen[0] == len(levels) % CPU_BATCH, "the last call had what was left"
    assert output.fused == pytest.approx(np.array(levels) / 255, abs=1e-6)
    assert output.heat is not None and output.heat[:, 0, 0] == pytest.approx(
        [sigmoid(level / 255) for level in levels], abs=1e-6
    )


def test_a_precision_that_is_asked_for_is_taken_and_auto_stays_close_to_float32(weights_dir: Path) -> None:
    crops = torch.from_numpy(probe_crops(4, 64))
    exact = load_ensemble(find_set(str(weights_dir)))
    assert set(exact.choose_dtype("float32").values()) == {"float32"}
    automatic, rounded = load_ensemble(find_set(str(weights_dir))), load_ensemble(find_set(str(weights_dir)))
    assert set(automatic.choose_dtype("auto", batch=2).values()) <= {"float32", "bfloat16"}
    assert set(rounded.choose_dtype("bfloat16").values()) == {"bfloat16"}
    expected = exact.score(crops).members
    assert automatic.score(crops).members == pytest.approx(expected, abs=0.05)
    difference = np.abs(rounded.score(crops).members - expected).max()
    assert 0 < difference < 0.5


def test_packed_members_serve_calls_with_a_crop_for_each_thread(weights_dir: Path) -> None:
    plain, quick = load_ensemble(find_set(str(weights_dir))), load_ensemble(find_set(str(weights_dir)))
    quick.choose_dtype("float32")
    calls: list[tuple[str, int]] = []
    for member in quick.members:
        assert member.packed is not None
        member.network.register_forward_pre_hook(lambda _, inputs: calls.append(("plain", len(inputs[0]))))
        member.packed.register_forward_pre_hook(lambda _, inputs: calls.append(("packed", len(inputs[0]))))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for count in (1, 2, 3):
            crops = torch.from_numpy(probe_crops(count, plain.crop_size))
            assert quick.score(crops).members == pytest.approx(plain.score(crops).members, abs=1e-4)
    finally:
        torch.set_num_threads(threads)
    assert set(calls) == {("plain", 1), ("packed", 2), ("packed", 3)}


def test_an_ensemble_needs_a_member() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])
