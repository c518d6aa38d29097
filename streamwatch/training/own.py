"""A user's own labelled videos and pictures as training samples, mixed with the pseudo-fakes.

Where nobody knows where a fake was altered, the dense mask loss leaves it out (its mask is -1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamwatch.domain import Floats, Image
from streamwatch.inference.blazeface import load_blazeface
from streamwatch.inference.faces import FaceFinder, FinderSettings
from streamwatch.inference.weights import bundled_directory, read_manifest
from streamwatch.training.clips import Sampling, all_clip_faces
from streamwatch.training.faces import DatasetError
from streamwatch.training.layouts import find_clips
from streamwatch.training.pairs import Pair
from streamwatch.training.streamlook import apply_look, draw_look

UNKNOWN_MASK = -1.0


@dataclass(frozen=True, slots=True, eq=False)
class OwnFaces:
    """Crops (N, S, S, 3) and the footage (N,) of each, real and fake; a fake pairs with a real of its own if it can."""

    reals: Image
    fakes: Image
    real_footage: np.ndarray
    fake_footage: np.ndarray

    def pair(self, rng: np.random.Generator, size: int, severity: float) -> Pair:
        """A fake and a real, seen through one stream look."""
        fake = int(rng.integers(len(self.fakes)))
        same = np.flatnonzero(self.real_footage == self.fake_footage[fake])
        real = int(rng.choice(same)) if len(same) else int(rng.integers(len(self.reals)))
        look = draw_look(rng, self.fakes.shape[1], severity)
        images = [apply_look(picture, look, size) for picture in (self.reals[real], self.fakes[fake])]
        mask: Floats = np.full((size, size), UNKNOWN_MASK, np.float32)
        return Pair(np.stack(images), mask, look, "own")


def bundled_finder(folder: Path | None = None) -> tuple[FaceFinder, str]:
    """The bundled face detector and the first digits of its sha256."""
    directory = folder or bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    settings = FinderSettings(score_threshold=record.score_threshold)
    return FaceFinder(load_blazeface(directory / record.file), settings=settings), record.sha256[:16]


def read_own_data(place: Path, size: int, frames: int = 12, cache: Path | None = None) -> OwnFaces:
    """Faces of every clip of a CSV or data set's folder; DatasetError where a kind has none."""
    finder, version = bundled_finder()
    found = all_clip_faces(find_clips(place), finder, Sampling(rate=1.0, limit=frames, size=size), cache, version)
    kinds = []
    for label in (0, 1):
        chosen = [faces for faces in found if faces.clip.label == label and len(faces.crops)]
        if not chosen:
            raise DatasetError(f"{place}: no face was found in any {('real', 'fake')[label]} clip")
        footage = [faces.clip.footage or faces.clip.group for faces in chosen]
        crops = np.concatenate([faces.crops for faces in chosen])
        kinds.append((crops, np.repeat(footage, [len(faces.crops) for faces in chosen])))
    return OwnFaces(kinds[0][0], kinds[1][0], kinds[0][1], kinds[1][1])
