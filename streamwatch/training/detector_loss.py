"""The detector's loss, and the batch normalisation that trains it and is folded away afterwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamwatch.inference.blazeface import INPUT_SIZE, KEYPOINT_COUNT, BlazeBlock, BlazeFace

FOCAL_GAMMA = 2.0


def add_batch_norm(model: BlazeFace) -> BlazeFace:
    """Put a BatchNorm2d after each convolution of the blocks, in place. `fold_batch_norm` removes them again."""
    for block in model.modules():
        if isinstance(block, BlazeBlock):
            depthwise, pointwise = block.convs[0], block.convs[1]
            assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
            norms = [nn.BatchNorm2d(conv.out_channels) for conv in (depthwise, pointwise)]
            block.convs = nn.Sequential(depthwise, norms[0], pointwise, norms[1])
    return model


def fold_batch_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The plain state dict that computes the same in evaluation mode; a plain one is returned as it is."""
    if not any(key.endswith("running_mean") for key in state):
        return dict(state)
    folded = {key: value for key, value in state.items() if ".convs." not in key}
    blocks = {key.split(".convs.")[0] for key in state if ".convs." in key}
    for block in blocks:
        for plain, (conv, norm) in enumerate(((0, 1), (2, 3))):
            source, into = f"{block}.convs.{conv}", f"{block}.convs.{plain}"
            statistics = {
                name: state[f"{block}.convs.{norm}.{name}"]
                for name in ("weight", "bias", "running_mean", "running_var")
            }
            gain = statistics["weight"] / torch.sqrt(statistics["running_var"] + 1e-5)
            folded[f"{into}.weight"] = state[f"{source}.weight"] * gain[:, None, None, None]
            folded[f"{into}.bias"] = (state[f"{source}.bias"] - statistics["running_mean"]) * gain + statistics["bias"]
    return folded


def detector_loss(
    regressors: Tensor, logits: Tensor, targets: tuple[Tensor, Tensor, Tensor], anchors: Tensor
) -> dict[str, Tensor]:
    """Focal classification, and over the anchors of faces the mean IoU, corner and keypoint errors.

    `regressors` (B, 896, 16) and `logits` (B, 896) are the network's; `targets` are labels (B, 896), boxes (B, 896, 4)
    and keypoints (B, 896, 6, 2) as `detector_scenes.Targets` has them; `anchors` (896, 2) are in 0 to 1.
    """
    labels, boxes, keypoints = targets
    positive = labels == 1
    count = positive.sum().clamp(min=1)
    asked = (labels >= 0).float()
    target = positive.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = (logits.sigmoid() - target).abs() ** FOCAL_GAMMA
    classification = (wrong * cross_entropy * asked).sum() / count

    predicted, wanted, points = regressors[positive], boxes[positive], keypoints[positive]
    origin = (anchors * INPUT_SIZE).expand(len(labels), -1, -1)[positive]
    size = (wanted[:, 3] - wanted[:, 1]).clamp(min=1.0)
    centre, half = predicted[:, :2] + origin, predicted[:, 2:4] / 2
    guess = torch.cat([centre - half, centre + half], 1)
    relative = (guess - wanted) / size[:, None]
    corner = F.smooth_l1_loss(relative, torch.zeros_like(relative), beta=0.05, reduction="sum") / count
    found = predicted[:, 4:].reshape(-1, KEYPOINT_COUNT, 2) + origin[:, None]
    offset = (found - points) / size[:, None, None]
    keypoint = F.smooth_l1_loss(offset, torch.zeros_like(offset), beta=0.05, reduction="sum") / (count * KEYPOINT_COUNT)
    overlap = (1 - _iou(guess, wanted)).sum() / count
    total = classification + 0.7 * overlap + 0.7 * corner + 1.0 * keypoint
    return {"loss": total, "class": classification, "iou": overlap, "corner": corner, "keypoint": keypoint}


def _iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inner = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1) + (b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) - inner
    return inner / union.clamp(min=1e-6)
