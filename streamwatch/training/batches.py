"""What a training step sees: pairs of pseudo-fakes made one by one on the host, and a user's own labelled faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from streamwatch.domain import Image
from streamwatch.training.faces import FaceSet
from streamwatch.training.fakes import Reconstruct
from streamwatch.training.losses import Batch
from streamwatch.training.pairs import Pair, PairSettings, PairSource, make_pair
from streamwatch.training.streamlook import erase

OWN_SHARE = 0.5


class Batches(Protocol):
    """A source of batches, deterministic in the step, so that a resumed training sees what it would have."""

    def make(self, step: int, size: int, difficulty: float) -> Batch: ...


@dataclass(frozen=True, slots=True, eq=False)
class HostBatches:
    """`pairs` pseudo-fakes a step, made by OpenCV in this process and moved to `device`."""

    faces: FaceSet
    pairs: int
    settings: PairSettings
    seed: int = 0
    device: str = "cpu"
    reconstruct: Reconstruct | None = None

    def make(self, step: int, size: int, difficulty: float) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        settings = self.settings.at_difficulty(difficulty, size)
        rows = rng.integers(0, len(self.faces), self.pairs)
        pairs = [make_pair(self.faces, int(row), rng, settings, self.reconstruct) for row in rows]
        erased = round(settings.erased * self.pairs)
        return to_batch(pairs, self.device, [erase(image, rng) for pair in pairs[:erased] for image in pair.images[:2]])


@dataclass(frozen=True, slots=True, eq=False)
class OwnBatches:
    """`pairs` of a user's own labelled faces follow the pseudo-fakes of each step."""

    fakes: Batches
    own: PairSource
    pairs: int
    severity: float
    seed: int = 0
    device: str = "cpu"

    def make(self, step: int, size: int, difficulty: float) -> Batch:
        rng = np.random.default_rng((self.seed, step, 1))
        severity = PairSettings(severity=self.severity).at_difficulty(difficulty, size).severity
        owned = [self.own.pair(rng, size, severity) for _ in range(self.pairs)]
        return joined(self.fakes.make(step, size, difficulty), to_batch(owned, self.device))


def joined(first: Batch, second: Batch) -> Batch:
    """Both batches' rows, the second's after the first's."""
    rows = torch.cat((first.clean_rows, second.clean_rows + len(first.images)))
    images, labels, masks, clean, erased = (
        torch.cat((getattr(first, name), getattr(second, name)))
        for name in ("images", "labels", "masks", "clean", "erased")
    )
    return Batch(images, labels, masks, clean, rows, erased)


def to_batch(pairs: list[Pair], device: str, erased: Sequence[Image] = ()) -> Batch:
    """Pairs as tensors: rows alternate real and fake, clean and erased views apart."""
    images = np.concatenate([pair.images[:2] for pair in pairs])
    masks = np.stack([part for pair in pairs for part in (np.zeros_like(pair.mask), pair.mask)])
    clean_pairs = [index for index, pair in enumerate(pairs) if len(pair.images) > 2]
    empty = np.zeros((0, *images.shape[1:]), np.uint8)
    clean = np.concatenate([empty] + [pairs[index].images[2:] for index in clean_pairs])
    rows = torch.tensor([row for index in clean_pairs for row in (2 * index, 2 * index + 1)], dtype=torch.long)
    labels = torch.tensor([0.0, 1.0]).repeat(len(pairs))
    return Batch(
        _pictures(images, device),
        labels.to(device),
        torch.from_numpy(masks).to(device),
        _pictures(clean, device),
        rows.to(device),
        _pictures(np.stack(erased) if erased else empty, device),
    )


def _pictures(images: np.ndarray, device: str) -> torch.Tensor:
    tensor = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255.0)
    return tensor.contiguous(memory_format=torch.channels_last)
