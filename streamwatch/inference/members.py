"""The compact members of the bundled ensemble: a timm trunk, a dense mask head, and a verdict read from both.

The mask head says *where* a face was blended, patch by patch; the verdict reads the trunk's mean features together
with statistics of that mask, so a small altered region is not averaged away.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamwatch.inference.crop import CROP_VERSION

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HEADS = ("linear", "bn_linear")
MASK_STATISTICS = 3
TOP_FRACTION = 0.1
LOGIT_BOUND = 8.0
"""Logits are bent smoothly into +-8: a picture unlike any that a member has seen must not outvote the others."""


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """Everything needed to rebuild a member's network; it is stored in the weights' manifest.

    `highpass` is the sigma, in input pixels, of the Gaussian that is subtracted from the input; 0 leaves the image
    as it is. `head` is `linear`, or `bn_linear` for the triplet-tuned (ST) members. A `mirrored` member looks at the
    mirrored face: the second look of test-time augmentation, shared out over the members at no cost.
    """

    backbone: str
    input_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    highpass: float = 0.0
    head: str = "linear"
    mask_channels: int = 64
    mirrored: bool = False
    crop: str = CROP_VERSION

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {self.head!r}")
        if self.input_size < 32 or self.highpass < 0:
            raise ValueError(f"input_size must be at least 32 and highpass at least 0, got {self}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemberSpec:
        """Read the manifest's form; ValueError names unknown fields."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown or "backbone" not in values:
            raise ValueError(f"architecture: unknown {sorted(unknown)} or backbone missing")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class MemberOutput(NamedTuple):
    """`logit` (N,): fake above 0. `mask` (N, h, w): logits of 'altered here', or None for members without a mask."""

    logit: Tensor
    mask: Tensor | None


class Member(nn.Module):
    """A network that scores face crops: float32 (N, 3, S, S), RGB in 0..1, to `MemberOutput`."""

    def forward(self, x: Tensor) -> MemberOutput:
        raise NotImplementedError


class HighPass(nn.Module):
    """The image minus its Gaussian blur, scaled to the range of a normalised image."""

    GAIN = 8.0

    def __init__(self, sigma: float) -> None:
        super().__init__()
        radius = max(1, round(2.5 * sigma))
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        self.radius = radius
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype)
        padded = F.pad(x, (self.radius,) * 4, mode="reflect")
        rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
        blurred = F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
        return self.GAIN * (x - blurred)


class MaskMember(Member):
    """A timm trunk's features at stride 16 (mask) and 32 (verdict)."""

    def __init__(self, spec: MemberSpec) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = timm.create_model(spec.backbone, pretrained=False, features_only=True, out_indices=(-2, -1))
        fine, coarse = self.trunk.feature_info.channels()
        self.mask_head = nn.Sequential(
            nn.Conv2d(fine, spec.mask_channels, 1, bias=False),
            nn.BatchNorm2d(spec.mask_channels),
            nn.SiLU(),
            nn.Conv2d(spec.mask_channels, 1, 1),
        )
        self.feature_count = coarse + MASK_STATISTICS
        linear = nn.Linear(self.feature_count, 1)
        self.head = linear if spec.head == "linear" else nn.Sequential(nn.BatchNorm1d(self.feature_count), linear)
        self.highpass = HighPass(spec.highpass) if spec.highpass > 0 else None
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (N, 3, S, S) in 0..1 to the verdict's features (N, F) and mask logits (N, h, w), as the crop lies."""
        if self.spec.mirrored:
            x = x.flip(3)
        x = self.highpass(x) if self.highpass is not None else (x - self.mean) / self.std
        # Normalised in the input's precision: rounding to bfloat16 before a high-pass would leave nothing but rounding.
        fine, coarse = self.trunk(x.to(next(self.trunk.parameters()).dtype))
        mask = self.mask_head(fine)[:, 0]
        patches = mask.flatten(1)
        top = patches.topk(max(1, int(patches.shape[1] * TOP_FRACTION)), dim=1).values.mean(1)
        statistics = torch.stack((top, patches.mean(1), patches.std(1)), dim=1)
        if self.spec.mirrored:
            mask = mask.flip(2)
        return torch.cat((coarse.mean((2, 3)), statistics), dim=1), mask

    def forward(self, x: Tensor) -> MemberOutput:
        features, mask = self.features(x)
        logit = LOGIT_BOUND * torch.tanh(self.head(features)[:, 0] / LOGIT_BOUND)
        return MemberOutput(logit, mask)


def build_member(spec: MemberSpec) -> Member:
    """The untrained network of a spec; ValueError where the crop's version is not the one of this code."""
    if spec.crop != CROP_VERSION:
        raise ValueError(f"crop: the weights were trained on {spec.crop!r}, this version cuts {CROP_VERSION!r}")
    return MaskMember(spec)
