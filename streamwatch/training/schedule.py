"""How a training goes over its length: sizes, difficulty, learning rate and averaged weights. All pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Schedule:
    """`images` is the length. `sizes` are (from which share of the length, input size). `easy` is the share during

    which the fakes harden from easy to full strength (0: full strength at once)."""

    images: int
    sizes: tuple[tuple[float, int], ...] = ((0.0, 128), (0.7, 224))
    easy: float = 0.35
    rate: float = 1e-3
    warmup: float = 0.02
    floor: float = 0.02

    def size(self, seen: int) -> int:
        share = seen / self.images
        return [size for start, size in self.sizes if start <= share][-1]

    def difficulty(self, seen: int) -> float:
        """0 for the first half of the easy phase, then rising to 1 at its end."""
        if self.easy <= 0:
            return 1.0
        return float(min(1.0, max(0.0, 2.0 * seen / self.images / self.easy - 1.0)))

    def learning_rate(self, seen: int) -> float:
        """Linear warm-up, then a cosine down to `floor` times the rate."""
        share = min(1.0, seen / self.images)
        if share < self.warmup:
            return self.rate * (share + 1e-3) / (self.warmup + 1e-3)
        wave = 0.5 * (1 + math.cos(math.pi * (share - self.warmup) / (1 - self.warmup)))
        return self.rate * (self.floor + (1 - self.floor) * wave)


class Ema:
    """An exponential mean of a network's weights, short at first; integer buffers and statistics are copied."""

    def __init__(self, network: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {key: value.detach().clone() for key, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in network.state_dict().items():
            mean = self.state[key]
            if mean.dtype.is_floating_point:
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:
                mean.copy_(value)
