"""The training loop: AdamW over batches of pairs, averaged weights, checkpoints that resume."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bar
from torch import nn

from streamwatch.errors import StreamWatchError
from streamwatch.inference.members import MaskMember
from streamwatch.training.batches import Batches
from streamwatch.training.losses import DEFAULT_LOSSES, LossWeights, member_loss
from streamwatch.training.pairs import DEFAULT_PAIRS, PairSettings
from streamwatch.training.schedule import Ema, Schedule

CHECKPOINT_SECONDS = 120.0
LOG_STEPS = 50


class TrainingDiverged(StreamWatchError):
    """The loss or a weight is no finite number any more; the last checkpoint is from before."""


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
    options: Mapping[str, Any] = field(default_factory=dict)
    """what was asked for, as plain values: a training that goes on is asked for the same unless told otherwise"""
    commit: str = ""
    """of the source that began it"""
    start: Mapping[str, Any] = field(default_factory=dict)
    """what the weights that it began from say of their own training, as in a manifest"""


@dataclass(slots=True)
class Progress:
    """What a checkpoint remembers besides the weights."""

    seen: int = 0
    step: int = 0
    seconds: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Owns a member while it learns. `run` returns at the end, or early (having saved) on SIGTERM or SIGINT."""

    def __init__(self, member: MaskMember, batches: Batches, recipe: Recipe, folder: Path) -> None:
        self.member = member.to(recipe.device).to(memory_format=torch.channels_last)
        self.batches = batches
        self.recipe = recipe
        self.folder = folder
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
        """Write a checkpoint; a crash while writing leaves the one before, and so does a weight that is no number."""
        path = path or self.checkpoint
        # A statistic can overflow where the loss of training, which does not read it, stays a number.
        if not all(
            bool(value.isfinite().all()) for value in (*self.member.state_dict().values(), *self.ema.state.values())
        ):
            raise self._diverged("a weight")
        progress = self.progress
        saved: dict[str, Any] = {
            "spec": self.member.spec.to_dict(),
            "member": self.member.state_dict(),
            "ema": self.ema.state,
            "optimizer": self.optimizer.state_dict(),
            "command": self.recipe.command,
            "options": dict(self.recipe.options),
            "commit": self.recipe.commit,
            "start": dict(self.recipe.start),
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
        for module in self.member.modules():
            parameters = list(module.parameters())
            frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
            # A stage that is left as it is keeps its statistics too.
            if frozen or (self.recipe.frozen_norms and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)):
                module.eval()

    def _step(self) -> int:
        schedule, progress = self.recipe.schedule, self.progress
        rate = schedule.learning_rate(progress.seen)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.batches.make(progress.step, schedule.size(progress.seen), schedule.difficulty(progress.seen))
        loss, terms, logits = member_loss(self.member, batch, self.recipe.losses, bf16=self.recipe.bf16)
        if not bool(torch.isfinite(loss)):
            raise self._diverged("the loss")
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

    def _diverged(self, what: str) -> TrainingDiverged:
        again = "begin again"  # where it went wrong before the first checkpoint
        if self.checkpoint.exists():
            again = f"go on with --resume, which takes up {self.checkpoint},"
        return TrainingDiverged(
            f"{what} is no finite number after {self.progress.seen} images: {again} at a lower --rate"
        )

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
