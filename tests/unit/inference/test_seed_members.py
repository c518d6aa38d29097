"""DF-Spot's networks: key layout, features and transform as its specification says. Small backbones of the same
families stand in for the full-size ones where only the plumbing is asked about."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamwatch.domain import Box
from streamwatch.inference.members import IMAGENET_MEAN, IMAGENET_STD
from streamwatch.inference.seed_members import SeedMember, SeedSpec, empty_seed_member, seed_crop, without_unused_head

SMALL = {"TimmV2": "test_efficientnet", "ViT": "vit_tiny_patch16_224"}


def seed_layout(name: str, seed: int = 0) -> tuple[dict[str, Tensor], nn.Module]:
    """A state dict in the layout of the specification's table, made without the code under test, and its backbone."""
    torch.manual_seed(seed)
    family = name.removesuffix("ST")
    backbone = timm.create_model(SMALL[family], pretrained=False, num_classes=0).eval()
    prefix = {"TimmV2": "efficientnet.", "ViT": "vit."}[family]
    features = backbone.num_features
    state = {prefix + key: value for key, value in backbone.state_dict().items()}
    state |= {"classifier1.weight": torch.randn(1, features), "classifier1.bias": torch.randn(1)}
    if name.endswith("ST"):
        state = {f"feat_ext.{key}": value for key, value in state.items()}
        state |= {
            "classifier.0.weight": torch.rand(features) + 0.5,
            "classifier.0.bias": torch.randn(features),
            "classifier.0.running_mean": torch.randn(features),
            "classifier.0.running_var": torch.rand(features) + 0.5,
            "classifier.0.num_batches_tracked": torch.tensor(7),
            "classifier.1.weight": torch.randn(1, features),
            "classifier.1.bias": torch.randn(1),
        }
    return state, backbone


def plain_logits(name: str, state: dict[str, Tensor], backbone: nn.Module, x: Tensor) -> Tensor:
    """The table's arithmetic, spelled out: class token or global average, then BatchNorm and Linear."""
    normalised = (x - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    out = backbone.forward_features(normalised)  # type: ignore[operator]
    features = out[:, 0] if name.startswith("ViT") else out.mean((2, 3))
    if not name.endswith("ST"):
        return F.linear(features, state["classifier1.weight"], state["classifier1.bias"])[:, 0]
    mean, var = state["classifier.0.running_mean"], state["classifier.0.running_var"]
    normed = (features - mean) / torch.sqrt(var + 1e-5) * state["classifier.0.weight"] + state["classifier.0.bias"]
    return F.linear(normed, state["classifier.1.weight"], state["classifier.1.bias"])[:, 0]


@pytest.mark.parametrize("name", ["TimmV2", "TimmV2ST", "ViT", "ViTST"])
def test_a_state_in_the_seeds_layout_loads_strictly_and_gives_the_plain_networks_logits(name: str) -> None:
    state, backbone = seed_layout(name)
    member = empty_seed_member(SeedSpec(name, SMALL[name.removesuffix("ST")]))
    member.load(state)
    member.eval()
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        output = member(x)
        assert output.logit.numpy() == pytest.approx(plain_logits(name, state, backbone, x).numpy(), abs=1e-4)
    assert output.mask is None


def test_the_vit_reads_its_class_token_and_not_the_mean_of_the_tokens() -> None:
    state, backbone = seed_layout("ViT")
    member = SeedMember(SeedSpec("ViT", SMALL["ViT"]))
    member.load(state)
    x = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        tokens = backbone.forward_features((x - 0.5) / 0.5)  # type: ignore[operator]
        features = member.net.features((x - 0.5) / 0.5)  # type: ignore[operator]
    assert torch.allclose(features, tokens[:, 0], atol=1e-5)
    assert not torch.allclose(features, tokens.mean(1), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "keys", "parameters"),
    [
        (
            "TimmV2",
            ["efficientnet.conv_stem.weight", "efficientnet.bn2.running_var", "classifier1.weight"],
            117_235_553,
        ),
        ("ViT", ["vit.cls_token", "vit.pos_embed", "vit.blocks.23.mlp.fc2.bias", "vit.norm.weight"], 303_302_657),
        ("TimmV2ST", ["feat_ext.efficientnet.conv_head.weight", "feat_ext.classifier1.bias"], 117_239_394),
        (
            "ViTST",
            ["feat_ext.vit.blocks.0.attn.qkv.weight", "classifier.0.running_mean", "classifier.1.bias"],
            303_305_730,
        ),
    ],
)
def test_the_full_size_networks_have_the_seeds_keys(name: str, keys: list[str], parameters: int) -> None:
    net = empty_seed_member(SeedSpec(name)).net  # on the meta device: structure without memory
    assert set(keys) <= set(net.state_dict())
    assert not [key for key in net.state_dict() if ".head." in key or "efficientnet.classifier" in key]
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_timms_own_head_is_left_out_of_a_checkpoint_that_carries_it() -> None:
    state = {
        "vit.head.weight": 1,
        "feat_ext.efficientnet.classifier.bias": 2,
        "classifier1.weight": 3,
        "vit.norm.bias": 4,
    }
    assert without_unused_head(state) == {"classifier1.weight": 3, "vit.norm.bias": 4}  # type: ignore[arg-type]


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match="'Xception'"):
        SeedSpec("Xception")
    with pytest.raises(ValueError, match="colour"):
        SeedSpec.from_dict({"family": "dfspot", "name": "ViT", "colour": "red"})
    assert SeedSpec.from_dict(SeedSpec("ViTST", "vit_tiny_patch16_224").to_dict()).backbone == "vit_tiny_patch16_224"


# --- the transform ---------------------------------------------------------------------------------------------------


def face_image(height: int, width: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], Box]:
    """A grey picture, and the box in it whose crop has that size: 0.2 box heights more aside and below, 0.4 above."""
    box_height = next(value for value in range(height) if value + 3 * round(0.2 * value) == height)
    offset = round(0.2 * box_height)
    image = np.full((height + 100, width + 100, 3), 90, np.uint8)
    top, left = 50 + 2 * offset, 50 + offset
    return image, Box(left, top, left + width - 2 * offset, top + height - 3 * offset)


@pytest.mark.parametrize(
    ("height", "width", "policy", "content"),
    [
        # scale: padded with black to 224 where smaller, then stretched to the square
        (102, 80, "scale", (61, 163, 72, 152)),
        (225, 224, "scale", (0, 224, 0, 224)),
        (440, 300, "scale", (0, 224, 0, 224)),
        (440, 112, "scale", (0, 224, 56, 168)),
        # tight: the longest side fills 224, the aspect is kept
        (102, 80, "tight", (0, 224, 24, 200)),
        (440, 110, "tight", (0, 224, 84, 140)),
        (112, 224, "tight", (56, 168, 0, 224)),
    ],
)
def test_both_policies_place_the_face_as_the_seed_did(
    height: int, width: int, policy: str, content: tuple[int, int, int, int]
) -> None:
    image, box = face_image(height, width)
    crop = seed_crop(image, box, policy, 224)  # type: ignore[arg-type]
    assert crop.shape == (224, 224, 3)
    rows, columns = np.nonzero(crop[..., 0] > 45)
    placed = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    assert placed == pytest.approx(content, abs=1)


def test_a_face_outside_the_picture_is_an_error_that_names_the_box() -> None:
    with pytest.raises(ValueError, match="outside the 320x240 image"):
        seed_crop(np.zeros((240, 320, 3), np.uint8), Box(400, 10, 440, 60))
