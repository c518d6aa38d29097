"""The training loop: batches of pairs made in this process, AdamW, averaged weights, checkpoints that resume."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bar
from torch import nn

from streamwatch.inference.members import MaskMember
from streamwatch.training.faces import FaceSet
from streamwatch.training.fakes import Reconstruct
from streamwatch.training.losses import DEFAULT_LOSSES, Batch, LossWeights, member_loss
from streamwatch.training.pairs import DEFAULT_PAIRS, Pair, PairSettings, PairSource, make_pair
from streamwatch.training.schedule import Ema, Schedule

CHECKPOINT_SECONDS = 120.0
LOG_STEPS = 50
OWN_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """One member's training. `frozen_norms` keeps the statistics of batch normalisation as they are: right where a

    trained network is refined, whose statistics come from more data than the refinement sees."""

    schedule: Schedule
    pairs: PairSettings = DEFAULT_PAIRS
    losses: LossWeights = DEFAULT_LOSSES
    batch_pairs: int = 16
    weight_decay: float = 0.02
    seed: int = 0
    device: str = "cpu"
    frozen_norms: bool = False
    bf16: bool = False
    command: str = ""


@dataclass(slots=True)
class Progress:
    """What a checkpoint remembers besides the weights."""

    seen: int = 0
    step: int = 0
    seconds: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Owns a member while it learns. `run` returns at the end, or early (having saved) on SIGTERM or SIGINT."""

    def __init__(
        self,
        member: MaskMember,
        faces: FaceSet,
        recipe: Recipe,
        folder: Path,
        *,
        reconstruct: Reconstruct | None = None,
        own: PairSource | None = None,
    ) -> None:
        self.member = member.to(recipe.device).to(memory_format=torch.channels_last)
        self.faces = faces
        self.recipe = recipe
        self.folder = folder
        self.reconstruct = reconstruct
        self.own = own
        decayed = [p for p in member.parameters() if p.ndim > 1]
        plain = [p for p in member.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.schedule.rate)
        self.ema = Ema(self.member)
        self.progress = Progress()
        self._stop = False

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> bool:
        """Go on from the folder's checkpoint if there is one."""
        if not self.checkpoint.exists():
            return False
        saved = torch.load(self.checkpoint, map_location=self.recipe.device, weights_only=True)
        self.member.load_state_dict(saved["member"])
        self.ema.state = saved["ema"]
        self.ema.steps = int(saved["progress"]["step"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(**saved["progress"])
        return True

    def save(self, path: Path | None = None) -> None:
        """Write a checkpoint; a crash while writing leaves the one before."""
        path = path or self.checkpoint
        progress = self.progress
        saved: dict[str, Any] = {
            "spec": self.member.spec.to_dict(),
            "member": self.member.state_dict(),
            "ema": self.ema.state,
            "optimizer": self.optimizer.state_dict(),
            "command": self.recipe.command,
            "progress": {"seen": progress.seen, "step": progress.step, "seconds": progress.seconds},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(saved, part)
        part.replace(path)

    def run(self, max_seconds: float | None = None) -> Progress:
        """Train to the schedule's end, or for `max_seconds`; the checkpoint is written either way."""
        schedule, progress = self.recipe.schedule, self.progress
        started = saved = logged = time.monotonic()
        before = progress.seconds
        self._to_training_mode()
        bar = Bar(*Bar.get_default_columns(), MofNCompleteColumn(), disable=not sys.stderr.isatty())
        task = bar.add_task("images", total=schedule.images, completed=progress.seen)
        with bar, self._stopped_by_signals():
            while progress.seen < schedule.images and not self._stop:
                progress.seen += self._step()
                progress.step += 1
                now = time.monotonic()
                progress.seconds = before + now - started
                bar.update(task, completed=progress.seen)
                if progress.step % LOG_STEPS == 0:
                    self._log(LOG_STEPS / (now - logged))
                    logged = now
                if now - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = now
                if max_seconds is not None and now - started > max_seconds:
                    break
        self.save()
        return progress

    def _to_training_mode(self) -> None:
        self.member.train()
        if self.recipe.frozen_norms:
            for module in self.member.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _step(self) -> int:
        schedule, progress = self.recipe.schedule, self.progress
        rate = schedule.learning_rate(progress.seen)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self._batch(schedule.size(progress.seen), schedule.difficulty(progress.seen))
        loss, terms, logits = member_loss(self.member, batch, self.recipe.losses, bf16=self.recipe.bf16)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.member.parameters(), 5.0)
        self.optimizer.step()
        self.ema.update(self.member)
        terms["loss"] = float(loss.detach())
        terms["pairs_won"] = float((logits[1::2] > logits[0::2]).float().mean())
        for name, value in terms.items():
            progress.terms[name] = 0.95 * progress.terms.get(name, value) + 0.05 * value
        return len(batch.images)

    def _batch(self, size: int, difficulty: float) -> Batch:
        """Deterministic in the recipe's seed and the step, so that a resumed training sees what it would have."""
        rng = np.random.default_rng((self.recipe.seed, self.progress.step))
        settings = self.recipe.pairs.at_difficulty(difficulty, size)
        rows = rng.integers(0, len(self.faces), self.recipe.batch_pairs)
        owned = round(OWN_SHARE * len(rows)) if self.own is not None else 0
        pairs = [make_pair(self.faces, int(row), rng, settings, self.reconstruct) for row in rows[owned:]]
        if self.own is not None:
            pairs += [self.own.pair(rng, size, settings.severity) for _ in range(owned)]
        return to_batch(pairs, self.recipe.device)

    def _log(self, steps_per_second: float) -> None:
        progress = self.progress
        line = {
            "seen": progress.seen,
            "size": self.recipe.schedule.size(progress.seen),
            "difficulty": round(self.recipe.schedule.difficulty(progress.seen), 3),
            "images_per_second": round(2 * self.recipe.batch_pairs * steps_per_second, 1),
            **{name: round(value, 4) for name, value in progress.terms.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        def stop(signum: int, frame: object) -> None:
            self._stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def to_batch(pairs: list[Pair], device: str) -> Batch:
    """Pairs as tensors: rows alternate real and fake, clean views apart."""
    images = np.concatenate([pair.images[:2] for pair in pairs])
    masks = np.stack([part for pair in pairs for part in (np.zeros_like(pair.mask), pair.mask)])
    clean_pairs = [index for index, pair in enumerate(pairs) if len(pair.images) > 2]
    empty = np.zeros((0, *images.shape[1:]), np.uint8)
    clean = np.concatenate([empty] + [pairs[index].images[2:] for index in clean_pairs])
    rows = torch.tensor([row for index in clean_pairs for row in (2 * index, 2 * index + 1)], dtype=torch.long)
    labels = torch.tensor([0.0, 1.0]).repeat(len(pairs))
    return Batch(
        _pictures(images, device), labels.to(device), torch.from_numpy(masks).to(device), _pictures(clean, device), rows
    )


def _pictures(images: np.ndarray, device: str) -> torch.Tensor:
    tensor = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255.0)
    return tensor.contiguous(memory_format=torch.channels_last)
