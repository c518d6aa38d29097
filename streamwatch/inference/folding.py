"""Batch normalisations folded into the convolutions before them: the same network with a third fewer operations.

At inference a batch normalisation is a fixed scale and shift of each channel, which a convolution's kernel and bias can
carry. Which convolution feeds which normalisation is seen in one run, so that no naming of any library is relied on.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Largest change of a logit that still counts as the rounding of another order of operations."""

Network = TypeVar("Network", bound=nn.Module)


def fold_norms(network: Network, example: Tensor) -> Network:
    """A copy of `network` (in eval mode) without the batch normalisations that directly follow a convolution.

    `example` is an input. Where the copy's first output differs from the original's by more than TOLERANCE, as it
    would where a convolution's output is used twice, the original is returned.
    """
    folded = copy.deepcopy(network)
    with torch.no_grad():
        expected = network(example)
        followers = _followers(folded, example)
        for parent in list(folded.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d) and child in followers:
                    _fold(followers[child], child)
                    setattr(parent, name, _remainder(child))
        difference = (_first(folded(example)) - _first(expected)).abs().max()
    # Not `difference > TOLERANCE`: a NaN is a difference too.
    return folded if difference <= TOLERANCE else network


def _followers(network: nn.Module, example: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each batch normalisation with the convolution whose output, untouched, is its input."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors, so that no id is used twice
    followers: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def after_convolution(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        made[id(output)] = (module, output)

    def before_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            followers[module] = made[id(inputs[0])][0]

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return followers


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    fused = fuse_conv_bn_eval(convolution, norm)
    convolution.weight, convolution.bias = fused.weight, fused.bias


def _remainder(norm: nn.BatchNorm2d) -> nn.Module:
    """What else the layer does: timm's `BatchNormAct2d` carries an activation too."""
    parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(part, nn.Module)]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _first(output: Any) -> Tensor:
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first
