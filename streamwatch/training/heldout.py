"""Held-out pseudo-fakes: the `val` faces, full-strength augmentation, a fixed seed. Not deepfake accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from streamwatch.domain import Floats, Image
from streamwatch.inference.crop import SIDE_PER_HEIGHT
from streamwatch.inference.members import MaskMember
from streamwatch.training.autoencoder import load_autoencoders, reconstructor
from streamwatch.training.faces import FaceSet, load_labelled_faces
from streamwatch.training.fakes import Reconstruct
from streamwatch.training.pairs import PairSettings, make_pair

HELD_OUT_SEED = 20_260_101
CALIBRATION_SEED = 20_260_102
"""Calibration draws other fakes than the figures are measured on, and takes the people from the other end."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Face crops (N, S, S, 3) with labels (N,), face heights in pixels as seen (N,), a quality bin each, and of which

    kind the fake of its pair is."""

    crops: Image
    labels: npt.NDArray[np.int64]
    heights: Floats
    compression: tuple[str, ...]
    kinds: tuple[str, ...]


def find_reconstruct(folder: Path | None) -> Reconstruct | None:
    """The generator behind auto-encoder fakes, from the folder of trained ones; None where none is named."""
    return reconstructor(load_autoencoders(folder)) if folder is not None else None


def held_out(
    faces: Path, pairs: int, size: int, reconstruct: Reconstruct | None = None, seed: int = HELD_OUT_SEED
) -> Labelled:
    """`pairs` reals and as many fakes of the `val` faces in `faces`."""
    people = load_labelled_faces(faces, "val")
    rows = list(_rows(len(people), pairs, backwards=seed == CALIBRATION_SEED))
    settings = PairSettings(size=size)
    crops, heights, compression, kinds = [], [], [], []
    for index in rows:
        # A generator for each pair keeps the first n pairs the same whatever their number.
        pair = make_pair(people, index[0], np.random.default_rng((seed, index[1])), settings, reconstruct)
        crops.append(pair.images[:2])
        heights += [pair.look.size / SIDE_PER_HEIGHT] * 2
        compression += [pair.look.compression] * 2
        kinds += [pair.kind] * 2
    labels = np.tile(np.array([0, 1]), pairs)
    return Labelled(np.concatenate(crops), labels, np.asarray(heights, np.float32), tuple(compression), tuple(kinds))


def _rows(people: int, pairs: int, *, backwards: bool = False) -> Iterator[tuple[int, int]]:
    order = np.random.default_rng(HELD_OUT_SEED).permutation(people)
    if backwards:
        order = order[::-1]
    for number in range(pairs):
        yield int(order[number % people]), number


@torch.inference_mode()
def score_pairs(
    member: MaskMember, faces: FaceSet, settings: PairSettings, reconstruct: Reconstruct | None = None
) -> tuple[npt.NDArray[np.int64], Floats]:
    """One pair of each face through one member: labels and raw logits (2N,). The member's mode is restored."""
    mode = member.training
    member.eval()
    logits = []
    for index in range(len(faces)):
        pair = make_pair(faces, index, np.random.default_rng((HELD_OUT_SEED, index)), settings, reconstruct)
        crops = torch.from_numpy(pair.images[:2]).permute(0, 3, 1, 2).float() / 255.0
        logits.append(member(crops).logit.numpy())
    member.train(mode)
    return np.tile(np.array([0, 1]), len(faces)), np.concatenate(logits)
