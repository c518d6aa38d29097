"""`streamwatch train detector`: trains the bundled BlazeFace from scratch, in resumable slices."""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from streamwatch.errors import ConfigError
from streamwatch.inference.blazeface import BlazeFace, load_blazeface, make_anchors, normalise
from streamwatch.training.detector_faces import load_faces, make_backgrounds
from streamwatch.training.detector_loss import add_batch_norm, detector_loss, fold_batch_norm
from streamwatch.training.detector_scenes import SceneMaker, Targets, batch_of
from streamwatch.training.options import check_positive, in_a_line

log = logging.getLogger(__name__)
EMA_HORIZON = 800
UNLOADABLE = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError, SafetensorError)


@dataclass(frozen=True, slots=True)
class DetectorTraining:
    """What one run does. The schedule follows the images seen; a run ends after `minutes` where they are given."""

    data_dir: Path
    checkpoint: Path
    output: Path
    images: int = 400_000
    minutes: float | None = None
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0
    start_from: Path | None = None
    faces: int | None = None
    backgrounds: int = 3000


class DetectorTrainer:
    """One network in training: its optimiser, moving average, progress and checkpoint file."""

    def __init__(self, settings: DetectorTraining) -> None:
        self._settings = settings
        torch.manual_seed(settings.seed)
        if settings.start_from:
            self.model = _start(settings.start_from).requires_grad_(True)
        else:
            self.model = add_batch_norm(BlazeFace())
            with torch.no_grad():
                for head in (self.model.classifier_8, self.model.classifier_16):
                    assert head.bias is not None
                    head.bias.fill_(-4.6)  # one anchor in a hundred: the many backgrounds do not swamp the first steps
        self.model.train().to(memory_format=torch.channels_last)
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        self._optimiser = torch.optim.AdamW(self.model.parameters(), settings.learning_rate, weight_decay=1e-3)
        self.images_seen = 0
        self.seconds = 0.0
        if settings.checkpoint.exists():
            self._resume()

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, 0 to 1."""
        return min(1.0, self.images_seen / self._settings.images)

    @property
    def _warm_up(self) -> float:
        """Rises to 1 over the first 150 steps, or the first twentieth of a short schedule."""
        images = min(150 * self._settings.batch_size, self._settings.images // 20)
        return min(1.0, (self.images_seen + 1) / max(1, images))

    def step(self, images: Tensor, targets: Targets, anchors: Tensor) -> dict[str, float]:
        """One optimiser step on uint8 images (B, 128, 128, 3); returns the loss and its parts."""
        rate = (
            self._settings.learning_rate * self._warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        regressors, logits = self.model(normalise(images).contiguous(memory_format=torch.channels_last))
        labels, boxes, keypoints = map(torch.from_numpy, (targets.labels, targets.boxes, targets.keypoints))
        parts = detector_loss(regressors, logits, (labels, boxes, keypoints), anchors)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(parts["loss"])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self._optimiser.step()
        self.images_seen += len(images)
        self._follow()
        return {name: float(value.detach()) for name, value in parts.items()}

    def _follow(self) -> None:
        steps = self.images_seen / self._settings.batch_size
        decay = min(1 - 1 / EMA_HORIZON, steps / (steps + 10))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)

    def save(self) -> None:
        """Write the checkpoint, and the averaged network in the plain layout to `output`."""
        settings = self._settings
        settings.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self._optimiser.state_dict(),
            "images_seen": self.images_seen,
            "seconds": self.seconds,
        }
        partial = settings.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(settings.checkpoint)
        save_file({key: value.contiguous() for key, value in fold_batch_norm(self.average).items()}, settings.output)

    def _resume(self) -> None:
        path = self._settings.checkpoint
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average = state["average"]
            self._optimiser.load_state_dict(state["optimiser"])
            self.images_seen, self.seconds = state["images_seen"], state["seconds"]
        except UNLOADABLE as error:
            raise ConfigError(f"{path}: cannot be gone on from: {in_a_line(error)}") from error
        log.info("resumed after %d images, %.0f s", self.images_seen, self.seconds)


def _start(path: Path) -> BlazeFace:
    """ConfigError where there are no weights of a BlazeFace."""
    try:
        return load_blazeface(path)
    except UNLOADABLE as error:
        raise ConfigError(f"start_from: {path}: {in_a_line(error)}") from error


def train(settings: DetectorTraining, save_every: float = 90.0) -> DetectorTrainer:
    """Train until the schedule or the run's time ends, saving every `save_every` seconds and at the end (also when

    interrupted)."""
    started = time.monotonic()
    trainer = DetectorTrainer(settings)
    rng = np.random.default_rng([settings.seed, trainer.images_seen])
    faces = load_faces(settings.data_dir, "train", settings.faces, max_side=256)
    maker = SceneMaker(faces, make_backgrounds(faces, rng, settings.backgrounds))
    anchors = make_anchors()
    log.info("%d faces loaded in %.0f s", len(faces), time.monotonic() - started)
    last = saved = begun = time.monotonic()
    length = float("inf") if settings.minutes is None else 60 * settings.minutes
    running: dict[str, float] = {}
    try:
        while trainer.progress < 1.0 and last - begun < length:
            images, targets = batch_of([maker.draw(rng) for _ in range(settings.batch_size)])
            parts = trainer.step(torch.from_numpy(images), targets, anchors)
            now = time.monotonic()
            trainer.seconds, last = trainer.seconds + now - last, now
            running = {name: 0.98 * running.get(name, value) + 0.02 * value for name, value in parts.items()}
            if now - saved > save_every:
                saved = now
                trainer.save()
                figures = " ".join(f"{name} {value:.4f}" for name, value in running.items())
                log.info("%5.1f%% %d images %s", 100 * trainer.progress, trainer.images_seen, figures)
    finally:
        trainer.save()
    return trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with faces/labels.npz and the pictures")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("runs/detector.pt"), help="resumed from where it exists"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/blazeface.safetensors"), help="averaged weights")
    parser.add_argument("--images", type=int, default=400_000, help="pictures of the schedule")
    parser.add_argument("--minutes", type=float, help="stop after so long; the next run goes on")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-from", type=Path, help="weights to fine-tune, such as the bundled ones")
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    check_positive(args, "images", "minutes", "batch_size", "learning_rate", "threads")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    names = (
        "data_dir",
        "checkpoint",
        "output",
        "images",
        "minutes",
        "batch_size",
        "learning_rate",
        "seed",
        "start_from",
    )
    train(DetectorTraining(**{name: getattr(args, name) for name in names}))
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = argparse.ArgumentParser(description=__doc__)
    add_arguments(arguments)
    raise SystemExit(run(arguments.parse_args()))
