"""Prove that the bundled weights are the ones that the manifest describes, and still give the figures in it.

Files, hashes, sizes, architectures and cards are verified; the scores of fixed pictures are computed anew. With the
development data at hand (STREAMWATCH_DATA_DIR), the image AUC of a few held-out pairs is computed anew as well.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data

from streamwatch.domain import Floats, Image
from streamwatch.errors import StreamWatchError, WeightsCorrupt
from streamwatch.inference.crop import crop_face
from streamwatch.inference.ensemble import Ensemble, load_ensemble, probe_crops
from streamwatch.inference.weights import WeightSet, bundled_directory, file_hash, find_set, read_manifest
from streamwatch.training.bundle import LARGEST_FILE, LARGEST_SET, read_raw_manifest, write_set
from streamwatch.training.fakes import make_fake
from streamwatch.training.geometry import FaceGeometry
from streamwatch.training.heldout import held_out
from streamwatch.training.metrics import auc
from streamwatch.training.scored import score_crops

ASTRONAUT_BOX = (177.0, 70.0, 277.0, 175.0)
"""The face in scikit-image's portrait of Eileen Collins (public domain), measured by hand."""
LOGIT_TOLERANCE = 0.05
AUC_TOLERANCE = 0.02
CHECK_PAIRS = 24
DATA_VARIABLE = "STREAMWATCH_DATA_DIR"


def fixed_crops(size: int) -> Image:
    """Pictures that are always the same: two of noise, a portrait, and two fakes made of it."""
    portrait: Image = np.asarray(data.astronaut(), np.uint8)
    geometry = FaceGeometry.from_box(ASTRONAUT_BOX)
    fakes = [make_fake(portrait, geometry, np.random.default_rng(seed))[0] for seed in (1, 2)]
    faces = [crop_face(picture, ASTRONAUT_BOX, size) for picture in (portrait, *fakes)]
    return np.concatenate((probe_crops(2, size), np.stack(faces)))


def fixed_figures(ensemble: Ensemble) -> dict[str, Any]:
    """The members' logits of the fixed pictures; with the data, a held-out AUC as well."""
    members, _ = score_crops(ensemble, fixed_crops(ensemble.crop_size))
    figures: dict[str, Any] = {"fixed_logits": [[round(float(v), 3) for v in row] for row in members]}
    if place := os.environ.get(DATA_VARIABLE):
        faces = held_out(Path(place) / "faces", CHECK_PAIRS, ensemble.crop_size)
        _, fused = score_crops(ensemble, faces.crops)
        figures["fixed_auc"] = round(auc(faces.labels, fused), 4)
    return figures


def differences(stated: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    """Where the figures computed now leave the manifest's, in words."""
    found = []
    logits: Floats = np.array(computed["fixed_logits"], np.float32)
    expected = np.array(stated.get("fixed_logits", []), np.float32)
    if expected.shape != logits.shape:
        found.append(f"figures.fixed_logits: has shape {expected.shape}, expected {logits.shape}")
    elif (worst := float(np.abs(expected - logits).max())) > LOGIT_TOLERANCE:
        found.append(f"figures.fixed_logits: differ by {worst:.3f}, more than {LOGIT_TOLERANCE}")
    if "fixed_auc" in computed and "fixed_auc" in stated:
        gap = abs(stated["fixed_auc"] - computed["fixed_auc"])
        if gap > AUC_TOLERANCE:
            found.append(f"figures.fixed_auc: {computed['fixed_auc']}, the manifest says {stated['fixed_auc']}")
    return found


def file_faults(weights: WeightSet) -> list[str]:
    """What is wrong with the set's files and cards."""
    faults = []
    directory, total = weights.directory, 0
    for member in weights.record.members:
        path = directory / member.file
        if file_hash(path) != member.sha256:
            faults.append(f"{member.file}: is not the file of the manifest (sha256)")
        size = path.stat().st_size
        total += size
        if size > LARGEST_FILE:
            faults.append(f"{member.file}: {size} bytes, at most {LARGEST_FILE} are allowed")
        if not (directory / f"{path.stem}.md").is_file():
            faults.append(f"{path.stem}.md: the model card is missing")
    if total > LARGEST_SET:
        faults.append(f"the set has {total} bytes, at most {LARGEST_SET} are allowed")
    for name, detector in read_manifest(directory).detectors.items():
        if file_hash(directory / detector.file) != detector.sha256:
            faults.append(f"{detector.file}: is not the file of the manifest's detector {name} (sha256)")
    return faults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="bundled", help="the set, by name or directory")
    parser.add_argument("--write", action="store_true", help="put the figures computed now into the manifest")


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    weights = find_set(args.weights)
    computed = fixed_figures(load_ensemble(weights))
    if args.write:
        directory = bundled_directory() if args.weights == "bundled" else Path(args.weights)
        record = read_raw_manifest(directory)["sets"][weights.name]
        write_set(directory, weights.name, {**record, "figures": {**record.get("figures", {}), **computed}})
        return 0
    faults = file_faults(weights) + differences(dict(weights.record.figures), computed)
    for fault in faults:
        print(f"weights-check: {fault}", file=sys.stderr)
    if faults:
        raise WeightsCorrupt(f"{weights.directory}: {len(faults)} faults")
    names = ", ".join(member.name for member in weights.record.members)
    print(f"{weights.name} {weights.record.version}: {names}: files and figures are as the manifest says")
    return 0


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    try:
        raise SystemExit(run(_parser.parse_args()))
    except StreamWatchError as _error:
        raise SystemExit(f"weights-check: {_error}") from _error
