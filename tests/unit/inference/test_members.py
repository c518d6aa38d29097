from __future__ import annotations

import json

import pytest
import torch

from streamwatch.inference.members import LOGIT_BOUND, HighPass, MaskMember, MemberSpec, build_member

SMALL = MemberSpec("mobilenetv3_small_050", input_size=64, mask_channels=8)


@pytest.fixture(scope="module")
def member() -> MaskMember:
    torch.manual_seed(0)
    built = build_member(SMALL)
    assert isinstance(built, MaskMember)
    return built.eval()


def test_a_member_gives_a_logit_and_a_mask_for_each_crop(member: MaskMember) -> None:
    with torch.inference_mode():
        output = member(torch.rand(3, 3, 64, 64))
    assert output.logit.shape == (3,)
    assert output.mask is not None and output.mask.shape == (3, 4, 4)


def test_crops_do_not_influence_each_other(member: MaskMember) -> None:
    crops = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        together, alone = member(crops).logit, member(crops[:1]).logit
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_a_spec_survives_the_manifest() -> None:
    spec = MemberSpec("efficientvit_b0", highpass=2.0, head="bn_linear")
    assert MemberSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "values",
    [{}, {"backbone": "x", "colour": 1}, {"backbone": "x", "head": "round"}, {"backbone": "x", "input_size": 8}],
)
def test_a_malformed_spec_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"architecture|head|input_size"):
        MemberSpec.from_dict(values)


def test_another_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="tight-v0"):
        build_member(MemberSpec("efficientvit_b0", crop="tight-v0"))


def test_the_high_pass_removes_flat_colour_and_keeps_edges() -> None:
    flat = torch.full((1, 3, 32, 32), 0.7)
    edge = flat.clone()
    edge[..., 16:] = 0.2
    highpass = HighPass(2.0)
    assert highpass(flat).abs().max() < 1e-4
    response = highpass(edge)[0, 0, 16].abs()
    assert response[15:17].min() > 1.0 and response[:4].max() < 1e-3


def test_a_triplet_member_normalises_its_features() -> None:
    spec = MemberSpec("mobilenetv3_small_050", input_size=64, head="bn_linear", highpass=1.0)
    built = build_member(spec).eval()
    keys = built.state_dict().keys()
    assert "head.0.running_mean" in keys and "head.1.weight" in keys
    with torch.inference_mode():
        assert built(torch.rand(1, 3, 64, 64)).logit.isfinite().all()


def test_no_member_can_shout(member: MaskMember) -> None:
    """However far a picture lies from what it knows, a member stays within the bound."""
    with torch.inference_mode():
        quiet = member(torch.rand(2, 3, 64, 64)).logit
        wild = member(1000 * torch.randn(4, 3, 64, 64)).logit
    assert wild.abs().max() <= LOGIT_BOUND
    assert quiet.isfinite().all()
