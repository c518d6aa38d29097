"""Prove that the bundled weights are the ones that the manifest describes, and still give the figures in it.

Files, hashes, sizes, architectures, crops and cards are verified; the scores of fixed pictures are computed anew. With
the development data at hand (STREAMWATCH_DATA_DIR), the image AUC of a few held-out pairs is computed anew as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data

from streamwatch.domain import Box, Floats, Image
from streamwatch.errors import StreamWatchError, WeightsCorrupt
from streamwatch.inference.ensemble import Cropper, load_ensemble, make_cropper, probe_crops
from streamwatch.inference.weights import DetectorRecord, SetRecord, WeightSet, file_hash, find_set, read_manifest
from streamwatch.training.bundle import LARGEST_FILE, LARGEST_SET, read_raw_manifest, write_set
from streamwatch.training.cards import card, card_name
from streamwatch.training.fakes import make_fake
from streamwatch.training.geometry import FaceGeometry
from streamwatch.training.heldout import held_out
from streamwatch.training.metrics import auc
from streamwatch.training.scored import score_crops

ASTRONAUT_BOX = Box(177.0, 70.0, 277.0, 175.0)
"""The face in scikit-image's portrait of Eileen Collins (public domain), measured by hand."""
LOGIT_TOLERANCE = 0.05
AUC_TOLERANCE = 0.02
CHECK_PAIRS = 24
DATA_VARIABLE = "STREAMWATCH_DATA_DIR"


def fixed_crops(crop: Cropper, size: int) -> Image:
    """Pictures that are always the same: two of noise, a portrait, and two fakes made of it."""
    portrait: Image = np.asarray(data.astronaut(), np.uint8)
    geometry = FaceGeometry.from_box(ASTRONAUT_BOX)
    fakes = [make_fake(portrait, geometry, np.random.default_rng(seed)).image for seed in (1, 2)]
    faces = [crop(picture, ASTRONAUT_BOX) for picture in (portrait, *fakes)]
    return np.concatenate((probe_crops(2, size), np.stack(faces)))


def fixed_figures(weights: WeightSet) -> dict[str, Any]:
    """Logits of the fixed pictures, and what calibration says; with the data, a held-out AUC as well.

    Raises WeightsCorrupt where this version cuts another crop than the set's."""
    ensemble = load_ensemble(weights)
    crop = make_cropper(weights, ensemble.crop_size)
    members, fused = score_crops(ensemble, fixed_crops(crop, ensemble.crop_size))
    figures: dict[str, Any] = {
        "fixed_logits": [[round(float(v), 3) for v in row] for row in members],
        "fixed_fused": [round(float(v), 3) for v in fused],
        "fixed_calibration": calibration_digest(weights.record),
    }
    if place := os.environ.get(DATA_VARIABLE):
        faces = held_out(Path(place) / "faces", CHECK_PAIRS, ensemble.crop_size)
        _, fused = score_crops(ensemble, faces.crops)
        figures["fixed_auc"] = round(auc(faces.labels, fused), 4)
    return figures


def calibration_digest(record: SetRecord) -> str:
    """Changes with any number that calibration wrote. Not all of them move the fixed pictures' logits."""
    members = [(member.name, member.temperature, member.bias) for member in record.members]
    said = json.dumps([record.fusion, record.threshold, record.disagreement_p99, members])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def differences(stated: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    """Where the figures computed now leave the manifest's, in words. A set may lack the two newest ones."""
    found = _moved("fixed_logits", stated.get("fixed_logits", []), computed["fixed_logits"])
    if "fixed_fused" in stated:
        found += _moved("fixed_fused", stated["fixed_fused"], computed["fixed_fused"])
    if "fixed_calibration" in stated and stated["fixed_calibration"] != computed["fixed_calibration"]:
        found.append("figures.fixed_calibration: threshold, fusion, disagreement or a temperature has changed since")
    if "fixed_auc" in computed:
        said = stated.get("fixed_auc")
        if said is None or not abs(said - computed["fixed_auc"]) <= AUC_TOLERANCE:
            found.append(f"figures.fixed_auc: {computed['fixed_auc']}, the manifest says {said}")
    return found


def _moved(name: str, stated: list[Any], computed: list[Any]) -> list[str]:
    expected: Floats = np.array(stated, np.float32)
    logits: Floats = np.array(computed, np.float32)
    if expected.shape != logits.shape:
        return [f"figures.{name}: has shape {expected.shape}, expected {logits.shape}"]
    worst = float(np.abs(expected - logits).max())
    if not worst <= LOGIT_TOLERANCE:  # NaN is no agreement
        return [f"figures.{name}: differ by {worst:.3f}, more than {LOGIT_TOLERANCE}"]
    return []


def file_faults(weights: WeightSet) -> list[str]:
    """What is wrong with the set's files and cards, the detectors' and the auto-encoders'."""
    faults = []
    directory, total = weights.directory, 0
    record = read_raw_manifest(directory)["sets"][weights.name]
    for member, said in zip(weights.record.members, record["members"], strict=True):
        path = directory / member.file
        if file_hash(path) != member.sha256:
            faults.append(f"{member.file}: is not the file of the manifest (sha256)")
        size = path.stat().st_size
        total += size
        if size > LARGEST_FILE:
            faults.append(f"{member.file}: {size} bytes, at most {LARGEST_FILE} are allowed")
        faults += _card_faults(directory, member.file, card(said, record))
    if total > LARGEST_SET:
        faults.append(f"the set has {total} bytes, at most {LARGEST_SET} are allowed")
    for name, detector in read_manifest(directory).detectors.items():
        if file_hash(directory / detector.file) != detector.sha256:
            faults.append(f"{detector.file}: is not the file of the manifest's detector {name} (sha256)")
        faults += _detector_card_faults(directory, detector)
    present = autoencoder_hashes(directory)
    for file, digest in record.get("autoencoders", {}).items():
        if present.get(file) != digest:
            faults.append(f"{file}: is not the auto-encoder that the held-out figures were made with (sha256)")
    return faults


def autoencoder_hashes(directory: Path) -> dict[str, str]:
    """sha256 of the auto-encoders beside the weights. The held-out figures cannot be had again without them."""
    files = sorted((directory / "autoencoders").glob("*.safetensors"))
    return {file.relative_to(directory).as_posix(): file_hash(file) for file in files}


def _card_faults(directory: Path, file: str, expected: str) -> list[str]:
    name = card_name(file)
    text = _read(directory / name)
    if text is None:
        return [f"{name}: the model card is missing"]
    return [] if text == expected else [f"{name}: is not what `streamwatch.training.cards` writes from the manifest"]


def _detector_card_faults(directory: Path, detector: DetectorRecord) -> list[str]:
    name = card_name(detector.file)
    text = _read(directory / name)
    if text is None:
        return [f"{name}: the model card is missing"]
    words = " ".join(text.split())  # where its lines break says nothing
    return [
        f"{name}: does not say {said!r}, as the manifest does" for said in detector_words(detector) if said not in words
    ]


def detector_words(detector: DetectorRecord) -> list[str]:
    """What a detector's card, which is written by hand, must say of the manifest's figures."""
    figures = detector.figures
    words = [f"threshold of {detector.score_threshold:g} "]
    if "stills_ap50" in figures:
        words.append(f"average precision at IoU 0.5: {figures['stills_ap50']}**")
    for size, row in figures.get("composites_default", {}).items():
        cells = [
            f"{part['recall']:.3f} | {part['false_per_frame']:.1f} | {part['ap50']:.3f}"
            for part in (row, figures["composites_fine"][size])
        ]
        words.append(f"| {size} | {cells[0]} | {cells[1]} |")
    return words


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="bundled", help="the set, by name or directory")
    parser.add_argument("--write", action="store_true", help="put the figures computed now into the manifest")


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    weights = find_set(args.weights)
    computed = fixed_figures(weights)
    if args.write:
        record = read_raw_manifest(weights.directory)["sets"][weights.name]
        written = {**record, "figures": {**record.get("figures", {}), **computed}}
        written["autoencoders"] = autoencoder_hashes(weights.directory)
        write_set(weights.directory, weights.name, written)
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
