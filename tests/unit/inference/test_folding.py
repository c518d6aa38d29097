"""Folding norms and paddings changes no score, and is given up where it would."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from streamwatch.inference.ensemble import probe_crops
from streamwatch.inference.folding import ACTIVATIONS, TOLERANCE, PackedConvolution, folded, packed
from streamwatch.inference.members import MaskMember, MemberSpec


def with_statistics(network: nn.Module) -> nn.Module:
    """Normalisations that do something: random scales, shifts and statistics."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("backbone", ["efficientvit_b0", "mobilenetv4_conv_small", "tf_efficientnet_lite0"])
def test_a_members_norms_and_paddings_are_folded_and_its_logits_stay(backbone: str) -> None:
    torch.manual_seed(0)
    member = with_statistics(MaskMember(MemberSpec(backbone, input_size=96)))
    crops = torch.from_numpy(probe_crops(4, 96)).permute(0, 3, 1, 2) / 255
    lighter = folded(member, crops[:1])
    assert not any(isinstance(module, nn.BatchNorm2d | Conv2dSame) for module in lighter.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in member.modules()), "the original stays as it was"
    with torch.inference_mode():
        before, after = member(crops), lighter(crops)
    torch.testing.assert_close(after.logit, before.logit, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(after.mask, before.mask, atol=1e-2, rtol=1e-3)


class UsedTwice(nn.Module):
    """A convolution whose output goes past the normalisation as well: folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.conv(x)
        return torch.as_tensor(raw + self.norm(raw))


def test_a_network_that_folding_would_change_is_left_alone() -> None:
    torch.manual_seed(0)
    network = with_statistics(UsedTwice())
    x = torch.rand(1, 3, 16, 16)
    kept = folded(network, x)
    assert isinstance(kept.norm, nn.BatchNorm2d)
    torch.testing.assert_close(kept(x), network(x), atol=0, rtol=0)


@pytest.mark.parametrize("size", [(20, 20), (21, 21), (20, 23), (22, 21)])
@pytest.mark.parametrize("kernel", [2, 3, 4, 5, (3, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
def test_same_padding_is_folded_into_the_kernel(
    kernel: int | tuple[int, int], stride: int | tuple[int, int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Conv2dSame(4, 6, kernel, stride, groups=2)).eval().requires_grad_(False)
    x = torch.rand(2, 4, *size)
    plain = folded(network, x)
    assert type(plain[0]) is nn.Conv2d and type(network[0]) is Conv2dSame
    torch.testing.assert_close(plain(x), network(x))


def test_dilated_same_padding_is_left_as_it_is() -> None:
    network = nn.Sequential(Conv2dSame(3, 3, 3, 2, dilation=2)).eval().requires_grad_(False)
    assert type(folded(network, torch.rand(1, 3, 20, 20))[0]) is Conv2dSame


@pytest.mark.parametrize("backbone", ["efficientvit_b0", "mobilenetv4_conv_small", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("highpass", [0.0, 3.0])
def test_packed_convolutions_change_no_logit_whatever_the_batch(backbone: str, highpass: float) -> None:
    torch.manual_seed(0)
    crops = torch.from_numpy(probe_crops(5, 96)).permute(0, 3, 1, 2) / 255
    member = folded(with_statistics(MaskMember(MemberSpec(backbone, input_size=96, highpass=highpass))), crops[:1])
    quick = packed(member, crops[:2])
    convolutions = [module for module in member.modules() if isinstance(module, nn.Conv2d)]
    assert sum(isinstance(module, PackedConvolution) for module in quick.modules()) == len(convolutions) > 20
    assert not any(isinstance(module, PackedConvolution) for module in member.modules()), "the original stays"
    assert _count(quick, ACTIVATIONS) < _count(member, ACTIVATIONS) / 2
    with torch.inference_mode():
        for count in range(1, 6):
            before, after = member(crops[:count]), quick(crops[:count])
            torch.testing.assert_close(after.logit, before.logit, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(after.mask, before.mask, atol=1e-2, rtol=1e-3)


def _count(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    return sum(isinstance(module, kinds) for module in network.modules())


class BeforeAndAfter(nn.Module):
    """A convolution whose output goes past its activation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        raw = self.conv(x)
        return torch.as_tensor(raw - self.act(raw))


def test_a_network_that_packing_would_change_is_left_alone() -> None:
    torch.manual_seed(0)
    network = BeforeAndAfter().eval().requires_grad_(False)
    x = torch.rand(2, 3, 16, 16)
    assert packed(network, x) is network


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.2, 0.3), nn.Hardswish(), nn.SiLU()])
def test_each_activation_is_the_one_it_was(activation: nn.Module) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), activation, nn.Conv2d(8, 8, 1)).eval().requires_grad_(False)
    x = 8 * torch.rand(2, 3, 16, 16) - 4
    quick = packed(network, x)
    assert [type(module) for module in quick] == [PackedConvolution, nn.Identity, PackedConvolution]
    torch.testing.assert_close(quick(x), network(x), atol=1e-4, rtol=1e-4)


def test_where_torch_cannot_pack_the_network_is_served_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: PackedConvolution, *_: object) -> None:
        raise NotImplementedError("Could not run 'mkldnn::_reorder_convolution_weight'")

    monkeypatch.setattr(PackedConvolution, "__init__", refuse)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval().requires_grad_(False)
    assert packed(network, torch.rand(2, 3, 16, 16)) is network
