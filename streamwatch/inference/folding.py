"""A network rewritten to give the same answers with less work.

At inference a batch normalisation is a fixed scale and shift of each channel, which a convolution's kernel and bias can
carry. Which convolution feeds which normalisation is seen in one run, so that no naming of any library is relied on.

TensorFlow's 'SAME' padding adds a pixel more at the end of a row than at its beginning, which torch can only do by
copying the whole input. A kernel that is larger by a zero at its beginning gives the same sums on evenly padded input,
which the convolution pads by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Largest change of a logit that still counts as the rounding of another order of operations."""

Network = TypeVar("Network", bound=nn.Module)
Step = Callable[[nn.Module, Tensor], None]
"""Rewrites a network in place for inputs of the size of an example."""


def fold_norms(network: nn.Module, example: Tensor) -> None:
    """Folds the batch normalisations that directly follow a convolution, in place."""
    followers = _followers(network, example)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child in followers:
                _fold(followers[child], child)
                setattr(parent, name, _remainder(child))


def fold_padding(network: nn.Module, example: Tensor) -> None:
    """Gives convolutions with 'SAME' padding the padding that inputs of this size need, in place."""
    sizes: dict[nn.Module, tuple[int, int]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: sizes.update({module: tuple(inputs[0].shape[-2:])}))
        for module in network.modules()
        if isinstance(module, Conv2dSame)
    ]
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            # (Dilated, a zero more in front would move the kernel by more than a pixel.)
            if isinstance(child, Conv2dSame) and child in sizes and child.dilation == (1, 1):
                setattr(parent, name, _evenly_padded(child, sizes[child]))


STEPS: tuple[Step, ...] = (fold_norms, fold_padding)


def folded(network: Network, example: Tensor, steps: Sequence[Step] = STEPS) -> Network:
    """`network` (in eval mode) for inputs of the size of `example`, with its norms and paddings folded away.

    A step that would change the first output on `example` by more than TOLERANCE is left out: where a convolution's
    output is used twice, for instance. The given network is not altered.
    """
    for step in steps:
        network = _unless_changed(network, example, step)
    return network


def _unless_changed(network: Network, example: Tensor, step: Step) -> Network:
    changed = copy.deepcopy(network)
    with torch.no_grad():
        step(changed, example)
        difference = (_first(changed(example)) - _first(network(example))).abs().max()
    # Not `difference > TOLERANCE`: a NaN is a difference too.
    return changed if difference <= TOLERANCE else network


def _evenly_padded(convolution: Conv2dSame, size: tuple[int, int]) -> nn.Conv2d:
    """The plain convolution with the same output on inputs of `size` (height, width)."""
    height, width = (_same_padding(convolution, axis, length) for axis, length in enumerate(size))
    leading = (height % 2, width % 2)
    weight = F.pad(convolution.weight.detach(), (leading[1], 0, leading[0], 0))
    with torch.device("meta"):
        plain = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            (weight.shape[2], weight.shape[3]),
            convolution.stride,
            ((height + 1) // 2, (width + 1) // 2),
            groups=convolution.groups,
            bias=convolution.bias is not None,
        )
    plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), convolution.bias
    return plain.eval()


def _same_padding(convolution: Conv2dSame, axis: int, length: int) -> int:
    """Pixels added along an axis, the smaller half before it; as TensorFlow defines 'SAME'."""
    kernel, stride = int(convolution.kernel_size[axis]), int(convolution.stride[axis])
    return max((-(-length // stride) - 1) * stride + kernel - length, 0)


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
