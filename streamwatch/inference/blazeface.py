"""BlazeFace, front-camera model: the network, its anchors, decoding and weighted non-maximum suppression.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019. The parameter names are
those of the common PyTorch port of Google's checkpoint, so that file loads as it is; the bundled weights use them too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.layers import Conv2dSame
from torch import Tensor, nn

from streamwatch.domain import Floats

INPUT_SIZE = 128
ANCHOR_COUNT = 896
KEYPOINT_COUNT = 6
COORDINATES = 4 + 2 * KEYPOINT_COUNT
LOGIT_LIMIT = 100.0


class BlazeBlock(nn.Module):
    """Depthwise-separable residual block; with stride 2 the skip is max-pooled and new channels are zeros."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        # The original's padding, uneven where the stride is 2; `folding` makes it an even one for serving.
        kind, padding = (Conv2dSame, 0) if stride == 2 else (nn.Conv2d, 1)
        self.convs = nn.Sequential(
            kind(channels_in, channels_in, 3, stride, padding, groups=channels_in),
            nn.Conv2d(channels_in, channels_out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = F.max_pool2d(x, 2) if self.stride == 2 else x
        y: Tensor = self.convs(x)
        y[:, : skip.shape[1]] += skip
        return y.relu_()


class BlazeFace(nn.Module):
    """101,390 parameters; 128 x 128 RGB in, 896 anchors out."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone1 = nn.Sequential(
            Conv2dSame(3, 24, 5, 2),
            nn.ReLU(),
            BlazeBlock(24, 24),
            BlazeBlock(24, 28),
            BlazeBlock(28, 32, stride=2),
            BlazeBlock(32, 36),
            BlazeBlock(36, 42),
            BlazeBlock(42, 48, stride=2),
            BlazeBlock(48, 56),
            BlazeBlock(56, 64),
            BlazeBlock(64, 72),
            BlazeBlock(72, 80),
            BlazeBlock(80, 88),
        )
        self.backbone2 = nn.Sequential(
            BlazeBlock(88, 96, stride=2), BlazeBlock(96, 96), BlazeBlock(96, 96), BlazeBlock(96, 96), BlazeBlock(96, 96)
        )
        self.classifier_8 = nn.Conv2d(88, 2, 1)
        self.classifier_16 = nn.Conv2d(96, 6, 1)
        self.regressor_8 = nn.Conv2d(88, 2 * COORDINATES, 1)
        self.regressor_16 = nn.Conv2d(96, 6 * COORDINATES, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw regressors (B, 896, 16) and logits (B, 896) of normalised images (B, 3, 128, 128), see `normalise`."""
        fine = self.backbone1(x)
        coarse = self.backbone2(fine)
        regressors = [
            _per_anchor(self.regressor_8(fine), COORDINATES),
            _per_anchor(self.regressor_16(coarse), COORDINATES),
        ]
        logits = [_per_anchor(self.classifier_8(fine), 1), _per_anchor(self.classifier_16(coarse), 1)]
        return torch.cat(regressors, 1), torch.cat(logits, 1).squeeze(2)


def _per_anchor(head: Tensor, values: int) -> Tensor:
    return head.permute(0, 2, 3, 1).reshape(head.shape[0], -1, values)


def normalise(images: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) to the network's float input (B, 3, H, W) in -1 to 1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def make_anchors() -> Tensor:
    """Anchor centres (896, 2) as x, y in 0 to 1: 16 x 16 cells of two anchors, then 8 x 8 cells of six."""
    centres = []
    for cells, per_cell in ((16, 2), (8, 6)):
        axis = (torch.arange(cells, dtype=torch.float32) + 0.5) / cells
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        centres.append(torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, per_cell, -1).reshape(-1, 2))
    return torch.cat(centres)


def decode(regressors: Tensor, anchors: Tensor) -> Tensor:
    """Raw regressors (..., 896, 16) to relative coordinates in the seed's column order.

    Columns: ymin, xmin, ymax, xmax, then six (x, y): right eye, left eye, nose, mouth, right tragion, left tragion.
    """
    centre = regressors[..., 0:2] / INPUT_SIZE + anchors
    half = regressors[..., 2:4] / (2 * INPUT_SIZE)
    low, high = (centre - half).flip(-1), (centre + half).flip(-1)
    offsets = regressors[..., 4:].reshape(*regressors.shape[:-1], KEYPOINT_COUNT, 2)
    points = offsets / INPUT_SIZE + anchors.unsqueeze(-2)
    return torch.cat([low, high, points.flatten(-2)], -1)


def scores_of(logits: Tensor) -> Tensor:
    """Probability of a face for each anchor."""
    return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).sigmoid()


def iou(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of one box with many (N, 4); corners in any one consistent order (min, min, max, max)."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:4], boxes[:, 2:4])
    inner = np.prod(np.clip(high - low, 0.0, None), axis=1)
    area = float(np.prod(np.clip(box[2:4] - box[:2], 0.0, None)))
    areas = np.prod(np.clip(boxes[:, 2:4] - boxes[:, :2], 0.0, None), axis=1)
    result: Floats = inner / np.maximum(area + areas - inner, 1e-12)
    return result


def weighted_nms(candidates: Floats, threshold: float = 0.3, weights: Floats | None = None) -> Floats:
    """Blend overlapping candidates (N, 17: 16 coordinates and the score) into faces (M, 17), best candidate first.

    Candidates whose IoU with the best remaining one exceeds `threshold` form a group: its coordinates are the mean
    weighted by score, its score the plain mean of the scores (MediaPipe's and the seed's rule). With `weights` (N,)
    these weigh both instead.
    """
    order = np.argsort(-candidates[:, -1], kind="stable")
    remaining = candidates[order]
    weigh = (candidates[:, -1] if weights is None else weights)[order]
    faces = []
    while len(remaining):
        overlaps = iou(remaining[0], remaining) > threshold
        overlaps[0] = True  # also a degenerate box is its own group, so that the loop ends
        group, weight = remaining[overlaps], weigh[overlaps]
        face = np.average(group, axis=0, weights=np.maximum(weight, 1e-9))
        if weights is None:
            face[-1] = group[:, -1].mean()
        faces.append(face.astype(np.float32))
        remaining, weigh = remaining[~overlaps], weigh[~overlaps]
    return np.stack(faces) if faces else np.empty((0, candidates.shape[1]), dtype=np.float32)


def drop_nested(faces: Floats, threshold: float = 0.5) -> Floats:
    """Of faces (N, 17), best first, those that no better one contains for more than `threshold` of the smaller's area.

    Suppression by IoU keeps a second box on the same face where the two differ much in size.
    """
    kept: list[int] = []
    for index, face in enumerate(faces):
        better = faces[kept]
        inner = np.minimum(face[2:4], better[:, 2:4]) - np.maximum(face[:2], better[:, :2])
        shared = np.prod(np.clip(inner, 0.0, None), axis=1)
        areas = np.prod(np.clip(better[:, 2:4] - better[:, :2], 0.0, None), axis=1)
        smaller = np.minimum(areas, np.prod(np.clip(face[2:4] - face[:2], 0.0, None)))
        if not np.any(shared > threshold * smaller):
            kept.append(index)
    return faces[kept]


def load_blazeface(source: str | Path | dict[str, Tensor]) -> BlazeFace:
    """A network in evaluation mode from a state dict, a safetensors file or the original `blazeface.pth`.

    Raises OSError where the file cannot be read, RuntimeError or KeyError where the keys or shapes are not BlazeFace's.
    """
    if isinstance(source, dict):
        state = source
    elif Path(source).suffix == ".safetensors":
        state = load_file(str(source))
    else:
        state = torch.load(source, map_location="cpu", weights_only=True)
    model = BlazeFace()
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    return model.eval().requires_grad_(False)
