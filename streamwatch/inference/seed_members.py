"""The four full-size networks of DF-Spot, so that its checkpoints load as they are and give the same numbers.

Attribute names are fixed: they are the keys of `torch.load(path)['net']`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
import timm
import torch
from torch import Tensor, nn

from streamwatch.domain import Box, Image
from streamwatch.inference.members import IMAGENET_MEAN, IMAGENET_STD, Member, MemberOutput
from streamwatch.inference.tiles import seed_margin
from streamwatch.inference.weights import SEED_FAMILY, SEED_MEMBERS

SEED_CROP: Final = "dfspot-margin0.2"
SEED_INPUT: Final = 224
SEED_THRESHOLD: Final = 0.3
EFFICIENTNET: Final = "tf_efficientnetv2_l"
VIT: Final = "vit_large_patch16_224"

FacePolicy = Literal["scale", "tight"]


@dataclass(frozen=True, slots=True)
class SeedSpec:
    """Which of the four; `backbone` is the timm network, given only where it is not the full-size one."""

    name: str
    backbone: str = ""

    def __post_init__(self) -> None:
        if self.name not in SEED_MEMBERS:
            raise ValueError(f"name: expected one of {', '.join(SEED_MEMBERS)}, got {self.name!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SeedSpec:
        """Reads the manifest's `architecture`; ValueError names what is wrong."""
        unknown = set(values) - {"family", "name", "backbone"}
        if unknown or "name" not in values:
            raise ValueError(f"architecture: unknown {sorted(unknown)} or name missing")
        return cls(str(values["name"]), str(values.get("backbone", "")))

    def to_dict(self) -> dict[str, str]:
        values = {"family": SEED_FAMILY, "name": self.name}
        return {**values, "backbone": self.backbone} if self.backbone else values


class _Classifier(nn.Module):
    """A backbone's features (N, F) and the linear head on them. Dropout does nothing at inference and is left out."""

    classifier1: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier1(self.features(x))
        return logits


class _EfficientNet(_Classifier):
    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.efficientnet = timm.create_model(backbone, pretrained=False, num_classes=0)
        self.classifier1 = nn.Linear(self.efficientnet.num_features, 1)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.efficientnet.forward_features(x)
        return maps.mean((2, 3))


class _ViT(_Classifier):
    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.vit = timm.create_model(backbone, pretrained=False, num_classes=0)
        self.classifier1 = nn.Linear(self.vit.num_features, 1)

    def features(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.vit.forward_features(x)  # after the final norm; token 0 is the class token
        return tokens[:, 0]


class _SiameseTuned(nn.Module):
    """Triplet-tuned features, a frozen BatchNorm and a linear head; `feat_ext`'s own head is in the file, unused."""

    def __init__(self, feat_ext: _Classifier) -> None:
        super().__init__()
        self.feat_ext = feat_ext
        count = feat_ext.classifier1.in_features
        self.classifier = nn.Sequential(nn.BatchNorm1d(count), nn.Linear(count, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.feat_ext.features(x))
        return logits


class SeedMember(Member):
    """A DF-Spot network behind the ensemble's interface: crops in 0..1 in, normalised as the seed did for all four."""

    def __init__(self, spec: SeedSpec) -> None:
        super().__init__()
        self.spec = spec
        self.net = seed_network(spec)

    def forward(self, x: Tensor) -> MemberOutput:
        mean = torch.tensor(IMAGENET_MEAN, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
        std = torch.tensor(IMAGENET_STD, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
        normalised = ((x - mean) / std).to(next(self.net.parameters()).dtype)
        logits: Tensor = self.net(normalised)
        return MemberOutput(logits[:, 0], None)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the tensors in place of its own, without a copy; they must fit, see `first_mismatch`."""
        self.net.load_state_dict(dict(state), strict=True, assign=True)


def seed_network(spec: SeedSpec) -> nn.Module:
    """The untrained network with the seed's key layout: normalised (N, 3, 224, 224) to logits (N, 1)."""
    vit = spec.name.startswith("ViT")
    backbone = spec.backbone or (VIT if vit else EFFICIENTNET)
    classifier = _ViT(backbone) if vit else _EfficientNet(backbone)
    return _SiameseTuned(classifier) if spec.name.endswith("ST") else classifier


def empty_seed_member(spec: SeedSpec) -> SeedMember:
    """On torch's meta device: it takes no memory and no time until `load` gives it tensors."""
    with torch.device("meta"):
        return SeedMember(spec)


def without_unused_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without timm's own classification head, which some checkpoints carry and no score uses."""
    heads = ("efficientnet.classifier.", "vit.head.", "vit.pre_logits.")
    return {key: value for key, value in state.items() if not key.removeprefix("feat_ext.").startswith(heads)}


def seed_crop(image: Image, box: Box, policy: FacePolicy = "scale", size: int = SEED_INPUT) -> Image:
    """The seed's crop and transform of a face, as far as uint8 goes: size x size x 3.

    `scale` pads with black to at least `size` a side and resizes to the square, without keeping the aspect; `tight`
    brings the longest side to `size` and pads. Raises ValueError where the box lies outside the image.
    """
    x0, y0, x1, y1 = seed_margin(box, *image.shape[:2])
    face = image[y0:y1, x0:x1]
    if face.size == 0:
        raise ValueError(f"the face box {tuple(box)} lies outside the {image.shape[1]}x{image.shape[0]} image")
    if policy == "tight":
        return _pad(_longest_side(face, size), size)
    padded = _pad(face, size)
    return np.asarray(cv2.resize(padded, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _longest_side(face: Image, size: int) -> Image:
    height, width = face.shape[:2]
    scale = size / max(height, width)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(face, new, interpolation=cv2.INTER_LINEAR), np.uint8)


def _pad(face: Image, size: int) -> Image:
    """Black around the face, centred, where a side is shorter than `size`."""
    height, width = face.shape[:2]
    rows, columns = max(0, size - height), max(0, size - width)
    top, left = rows // 2, columns // 2
    return np.pad(face, ((top, rows - top), (left, columns - left), (0, 0)))
