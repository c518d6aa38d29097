"""A network rewritten to give the same answers with less work.

At inference a batch normalisation is a fixed scale and shift of each channel, which a convolution's kernel and bias can
carry. Which convolution feeds which normalisation is seen in one run, so that no naming of any library is relied on.

TensorFlow's 'SAME' padding adds a pixel more at the end of a row than at its beginning, which torch can only do by
copying the whole input. A kernel that is larger by a zero at its beginning gives the same sums on evenly padded input,
which the convolution pads by itself.

On a CPU, oneDNN can apply an activation to a convolution's sums before they leave the processor's cache, and wants
kernels in an order of its own, into which torch brings them anew with each call unless they were brought before.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest change of a logit that still counts as the rounding of another order of operations."""

ACTIVATIONS = (nn.ReLU, nn.Hardtanh, nn.Hardswish, nn.SiLU)
"""What oneDNN can apply to a convolution's sums."""

Network = TypeVar("Network", bound=nn.Module)
Module = TypeVar("Module", bound=nn.Module)
Step = Callable[[nn.Module, Tensor], None]
"""Rewrites a network in place for inputs of the size of an example."""


def fold_norms(network: nn.Module, example: Tensor) -> None:
    """Folds the batch normalisations that directly follow a convolution, in place."""
    followers = _followers(network, example, nn.BatchNorm2d)
    for norm, convolution in followers.items():
        _fold(convolution, norm)
    _replace(network, {norm: _remainder(norm) for norm in followers})


def fold_padding(network: nn.Module, example: Tensor) -> None:
    """Gives convolutions with 'SAME' padding the padding that inputs of this size need, in place."""
    shapes = _input_shapes(network, example, Conv2dSame)
    # (Dilated, a zero more in front would move the kernel by more than a pixel.)
    uneven = {each: shape[-2:] for each, shape in shapes.items() if each.dilation == (1, 1)}
    _replace(network, {each: _evenly_padded(each, size) for each, size in uneven.items()})


class PackedConvolution(nn.Module):
    """A convolution and the activation behind it in one operation of oneDNN: float32, on a CPU, for inference alone."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None, shape: Sequence[int]) -> None:
        super().__init__()
        geometry = (convolution.padding, convolution.stride, convolution.dilation)
        self._padding, self._stride, self._dilation = (list(map(int, each)) for each in geometry)
        self._groups = convolution.groups
        self._name, self._limits = _fusible(activation) if activation is not None else ("none", [])
        bias = convolution.bias
        self.bias = nn.Parameter(torch.zeros(convolution.out_channels) if bias is None else bias, requires_grad=False)
        # No buffer: an opaque tensor can be neither stored nor moved.
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.detach(), self._padding, self._stride, self._dilation, self._groups, list(shape)
        )

    def forward(self, x: Tensor) -> Tensor:
        geometry = (self._padding, self._stride, self._dilation, self._groups)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self.bias, *geometry, self._name, self._limits, ""
        )
        return result


def pack(network: nn.Module, example: Tensor) -> None:
    """Packs each convolution together with the activation that directly follows it, in place."""
    shapes = _input_shapes(network, example, nn.Conv2d)
    packable = {each for each in shapes if type(each) is nn.Conv2d and each.padding_mode == "zeros"}
    followers = _followers(network, example, *ACTIVATIONS)
    taken = {convolution: activation for activation, convolution in followers.items() if convolution in packable}
    _replace(network, {activation: nn.Identity() for activation in taken.values()})
    _replace(network, {each: PackedConvolution(each, taken.get(each), shapes[each]) for each in packable})


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


def packed(network: Network, example: Tensor) -> Network:
    """`network` with its convolutions packed, for float32 inputs on a CPU and batches of any size; itself where this
    build of torch or this processor cannot do it. The given network is not altered."""
    try:
        return _unless_changed(network, example, pack)
    except (AttributeError, RuntimeError) as error:  # torch calls these operations its own, and may take them back
        log.info("convolutions are not packed here: %s", str(error).partition("\n")[0])
        return network


def _evenly_padded(convolution: Conv2dSame, size: Sequence[int]) -> nn.Conv2d:
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


def _replace(network: nn.Module, by: Mapping[Any, nn.Module]) -> None:
    """Puts other modules into the places of some of the network's own."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in by:
                setattr(parent, name, by[child])


def _input_shapes(network: nn.Module, example: Tensor, kind: type[Module]) -> dict[Module, tuple[int, ...]]:
    """Each module of a kind that runs on the example, with the shape of its input."""
    shapes: dict[Module, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: shapes.update({module: tuple(inputs[0].shape)}))
        for module in network.modules()
        if isinstance(module, kind)
    ]
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _followers(network: nn.Module, example: Tensor, *kinds: type[Module]) -> dict[Module, nn.Conv2d]:
    """Each module of these kinds with the convolution whose output, untouched, is its input."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors, so that no id is used twice
    followers: dict[Module, nn.Conv2d] = {}

    def after_convolution(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        made[id(output)] = (module, output)

    def before_follower(module: Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            followers[module] = made[id(inputs[0])][0]

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, kinds):
            hooks.append(module.register_forward_pre_hook(before_follower))
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


def _fusible(activation: nn.Module) -> tuple[str, list[float]]:
    """oneDNN's name of an activation, and its limits."""
    if isinstance(activation, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", [activation.min_val, activation.max_val]
    names = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "swish"}
    return next(name for kind, name in names.items() if isinstance(activation, kind)), []


def _first(output: Any) -> Tensor:
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first
