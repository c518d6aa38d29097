"""Clips and crops through an ensemble: calibrated logits, a score for each clip, and alarms over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from streamwatch.domain import Floats, Image
from streamwatch.errors import ConfigError
from streamwatch.inference.crop import CROP_VERSION
from streamwatch.inference.ensemble import Ensemble, fuse
from streamwatch.inference.weights import Fusion, WeightSet
from streamwatch.training.clips import Clip, ClipFaces
from streamwatch.training.metrics import trimmed_mean

BATCH = 16
WINDOW_SECONDS = 10.0
FEWEST_FRAMES = 5


@dataclass(frozen=True, slots=True, eq=False)
class ScoredClip:
    """A clip's frames: members' calibrated logits (F, M), their fusion (F,), times and face heights (F,)."""

    clip: Clip
    members: Floats
    fused: Floats
    times: Floats
    heights: Floats
    coverage: float

    @property
    def logit(self) -> float:
        """The clip's score as a logit: the trimmed mean of its frames; NaN where no face was found."""
        return trimmed_mean(self.fused)

    def windows(self, seconds: float = WINDOW_SECONDS) -> list[tuple[float, Floats]]:
        """(trimmed mean of the fused logits, members' trimmed means) of the window that ends at each frame.

        A window counts from its fifth frame on, as in serving.
        """
        found = []
        for index, time in enumerate(self.times):
            rows = np.flatnonzero(self.times[: index + 1] > time - seconds)
            if len(rows) >= FEWEST_FRAMES:
                members = np.array([trimmed_mean(column) for column in self.members[rows].T], np.float32)
                found.append((trimmed_mean(self.fused[rows]), members))
        return found


def score_crops(ensemble: Ensemble, crops: Image) -> tuple[Floats, Floats]:
    """Crops (N, S, S, 3) to calibrated logits of the members (N, M) and fused (N,)."""
    members, fused = [np.zeros((0, len(ensemble.names)), np.float32)], [np.zeros(0, np.float32)]
    for start in range(0, len(crops), BATCH):
        output = ensemble.score(torch.from_numpy(crops[start : start + BATCH]))
        members.append(output.members)
        fused.append(output.fused)
    return np.concatenate(members), np.concatenate(fused)


def refuse_foreign_crop(weights: WeightSet) -> None:
    """ConfigError where a set's members want another crop than the one that clips and faces are cut with here."""
    crops = {member.crop for member in weights.record.members} - {CROP_VERSION}
    if weights.is_seed or crops:
        raise ConfigError(f"{weights.name}: its members were trained on another crop than {CROP_VERSION}")


def clips_of(data: Path | None, given: Path | None) -> Path | None:
    """The labelled clips: those that were given, else DATA/clips/clips.csv where it is there."""
    if given is not None or data is None:
        return given
    table = data / "clips" / "clips.csv"
    return table if table.exists() else None


def fused_logits(members: npt.NDArray[np.floating], fusion: Fusion) -> npt.NDArray[np.float64]:
    """Members' calibrated logits (N, M) to one (N,), as serving fuses them."""
    return np.asarray(fuse(torch.from_numpy(np.ascontiguousarray(members, np.float64)), fusion).numpy(), np.float64)


def score_clips(ensemble: Ensemble, clips: Sequence[ClipFaces]) -> list[ScoredClip]:
    """Every clip that has a face, scored."""
    scored = []
    for faces in track([faces for faces in clips if len(faces.crops)], "scores"):
        members, fused = score_crops(ensemble, faces.crops)
        scored.append(ScoredClip(faces.clip, members, fused, faces.times, faces.heights, faces.coverage))
    return scored


@dataclass(frozen=True, slots=True)
class Alarms:
    """Alarms on real clips: how often the window's score rose over the threshold, in how much scored time."""

    count: int
    hours: float

    @property
    def per_hour(self) -> float:
        return self.count / self.hours if self.hours else float("nan")

    def __str__(self) -> str:
        if self.count == 0 and self.hours:
            return f"0 in {self.hours:.3f} scored hours (shows only < {3 / self.hours:.0f} per hour)"
        return f"{self.count} in {self.hours:.3f} scored hours ({self.per_hour:.0f} per hour)"


def false_alarms(clips: Sequence[ScoredClip], threshold_logit: float) -> Alarms:
    """Upward crossings of the threshold by the 10 s window, over the real clips' time that had a score."""
    count, seconds = 0, 0.0
    for scored in clips:
        if scored.clip.label == 1 or len(scored.times) < FEWEST_FRAMES:
            continue
        levels = [logit >= threshold_logit for logit, _ in scored.windows()]
        count += sum(now and not before for before, now in zip([False, *levels], levels, strict=False))
        # A window speaks for the time until the next frame: what came before the first one was not scored.
        seconds += len(levels) * float(np.median(np.diff(scored.times)))
    return Alarms(count, seconds / 3600)
