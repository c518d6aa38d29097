"""What a member is taught by: one bit a picture, a margin within each pair, and where each fake was blended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from streamwatch.inference.members import MaskMember


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms; 0 leaves a term out. `smoothing` is that of the labels. `neutral` asks for a logit of 0
    where no trace is left: what a network still says there is the recording's, and in the way of judging another."""

    verdict: float = 1.0
    mask: float = 1.0
    margin: float = 0.3
    triplet: float = 0.0
    consistency: float = 0.1
    neutral: float = 0.0
    smoothing: float = 0.05
    triplet_margin: float = 0.3


DEFAULT_LOSSES = LossWeights()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows alternate real, fake of the same face: `images` (2P, 3, S, S) in 0..1, `labels` (2P,), `masks` (2P, S, S).

    A mask of -1 is unknown. `clean` (2C, 3, S, S) are the uncompressed views of the rows `clean_rows` (2C,); both may
    be empty. `erased` (2E, 3, S, S), real and fake in turn, have lost what tells a fake: no verdict is the right one.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    clean: Tensor
    clean_rows: Tensor
    erased: Tensor


def member_loss(
    member: MaskMember, batch: Batch, weights: LossWeights, *, bf16: bool = False
) -> tuple[Tensor, dict[str, float], Tensor]:
    """The weighted sum, each term's value, and the batch's logits (2P,). `bf16`: the trunk computes in bfloat16, all
    that follows in float32."""
    rows = len(batch.images)
    features, mask, logits = _pairs_apart(member, batch, bf16)
    seen, clean, erased = torch.split(logits, [rows, len(batch.clean), len(batch.erased)])
    seen_mask = mask[:rows]
    target = batch.labels * (1 - weights.smoothing) + 0.5 * weights.smoothing
    patches = F.adaptive_avg_pool2d(batch.masks[:, None], (seen_mask.shape[-2], seen_mask.shape[-1]))[:, 0]
    known = patches >= 0
    terms = {
        "verdict": F.binary_cross_entropy_with_logits(seen, target),
        "mask": F.binary_cross_entropy_with_logits(seen_mask[known], patches[known]),
        "margin": F.softplus(1.0 - (seen[1::2] - seen[0::2])).mean(),
    }
    if weights.triplet > 0:
        terms["triplet"] = triplet_loss(features[:rows], weights.triplet_margin)
    if weights.consistency > 0 and len(clean):
        terms["consistency"] = F.smooth_l1_loss(clean, seen[batch.clean_rows])
    if weights.neutral > 0 and len(erased):
        terms["neutral"] = F.smooth_l1_loss(erased, torch.zeros_like(erased))
    total = sum((getattr(weights, name) * term for name, term in terms.items()), torch.zeros(()))
    return total, {name: float(term.detach()) for name, term in terms.items()}, seen.detach()


def _pairs_apart(member: MaskMember, batch: Batch, bf16: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Features, mask logits and logits of all pictures, in the batch's order and in float32.

    Batch normalisation lets a picture see the others of its batch. With its own pair among them, and as many fakes as
    reals, a network learns to compare instead of to judge: training looks solved (AUC .98) and a picture alone is not
    (.89). So the two of a pair never pass together, and one pass has a third of fakes, the other two thirds.
    """
    images = torch.cat((batch.images, batch.clean, batch.erased))
    seen, erased = (torch.arange(len(part), device=images.device) for part in (batch.images, batch.erased))
    row = torch.cat((seen, batch.clean_rows, erased))
    first = (row % 2 == 1) == (row // 2 % 3 == 0)
    if len(batch.images) == 2:  # statistics of a single picture are none
        first = torch.ones_like(first)
    passes = [rows for rows in (first.nonzero()[:, 0], (~first).nonzero()[:, 0]) if len(rows)]
    parts = []
    for rows in passes:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            features, mask = member.features(images[rows].contiguous(memory_format=torch.channels_last))
        features = features.float()
        parts.append((features, mask.float(), member.head(features)[:, 0]))
    back = torch.cat(passes).argsort()
    features, mask, logits = (torch.cat(values)[back] for values in zip(*parts, strict=True))
    return features, mask, logits


def triplet_loss(features: Tensor, margin: float) -> Tensor:
    """On unit-length features, anchors in turn real and fake: nearer to another of its kind than to its own pair."""
    unit = F.normalize(features, dim=1)
    real, fake = unit[0::2], unit[1::2]
    other_real, other_fake = real.roll(1, 0), fake.roll(1, 0)
    near = torch.cat(((real - other_real).norm(dim=1), (fake - other_fake).norm(dim=1)))
    far = (real - fake).norm(dim=1).repeat(2)
    return F.relu(near - far + margin).mean()
