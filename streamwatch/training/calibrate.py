"""Give a weight set its temperatures, its threshold at a stated false-alarm rate, and its limit of disagreement.

All are set on the `val` faces, seen through the stream look, and on one half of the labelled clips (by group): the
other half stays for the figures.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from streamwatch.domain import Floats
from streamwatch.errors import ConfigError
from streamwatch.inference.ensemble import Ensemble, load_ensemble
from streamwatch.inference.weights import Fusion, find_set
from streamwatch.training.bundle import read_raw_manifest, write_set
from streamwatch.training.clips import Sampling, all_clip_faces, split_groups
from streamwatch.training.heldout import CALIBRATION_SEED, Labelled, find_reconstruct, held_out
from streamwatch.training.layouts import find_clips
from streamwatch.training.metrics import fit_temperature, sigmoid, threshold_at
from streamwatch.training.own import bundled_finder
from streamwatch.training.provenance import as_asked
from streamwatch.training.scored import (
    ScoredClip,
    clips_of,
    fused_logits,
    refuse_foreign_crop,
    score_clips,
    score_crops,
)

LARGEST_TEMPERATURE = 50.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperatures and biases of the members, the score threshold, and the 99th percentile of their spread."""

    temperatures: tuple[float, ...]
    biases: tuple[float, ...]
    threshold: float
    disagreement_p99: float


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What calibration sees: raw logits of single faces (N, M) with labels, and clips with raw logits."""

    logits: Floats
    labels: npt.NDArray[np.int64]
    clips: Sequence[ScoredClip]


def calibrate(evidence: Evidence, false_alarm_rate: float, fusion: Fusion = "logit_mean") -> Calibration:
    """Platt scaling per member, faces and clips weighing the same and reals and fakes too; then the threshold that at

    most `false_alarm_rate` of the real examples reach: real faces and real clips' windows weighing the same."""
    frames = [scored.members for scored in evidence.clips]
    owners = np.repeat([scored.clip.label for scored in evidence.clips], [len(rows) for rows in frames])
    logits = np.concatenate([evidence.logits, *frames])
    labels = np.concatenate([evidence.labels, owners]).astype(np.int64)
    source = np.concatenate([np.zeros(len(evidence.labels)), np.ones(len(owners))])
    weights = _balanced(labels, source)
    fitted = [fit_temperature(labels, column, weights) for column in logits.T]
    temperatures = tuple(min(LARGEST_TEMPERATURE, temperature) for temperature, _ in fitted)
    biases = tuple(bias for _, bias in fitted)
    members, shares = _real_examples(evidence, np.array(temperatures), np.array(biases))
    threshold = threshold_at(sigmoid(fused_logits(members, fusion)), false_alarm_rate, shares)
    spreads = np.ptp(members, axis=1)
    return Calibration(temperatures, biases, min(0.99, threshold), _percentile(spreads, shares, 99))


def _balanced(labels: npt.NDArray[np.int64], source: Floats) -> npt.NDArray[np.float64]:
    weights = np.zeros(len(labels), np.float64)
    for kind in (0, 1):
        for place in (0, 1):
            rows = (labels == kind) & (source == place)
            if rows.any():
                weights[rows] = 1.0 / rows.sum()
    return weights


def _real_examples(
    evidence: Evidence, temperatures: npt.NDArray[np.float64], biases: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Members' calibrated logits (N, M) of real faces and of real clips' windows, and each one's weight: faces and

    windows weigh the same."""
    rows = [np.asarray((evidence.logits[evidence.labels == 0] + biases) / temperatures, np.float64)]
    windows: list[Floats] = []
    for scored in evidence.clips:
        if scored.clip.label == 0:
            adjusted = replace(scored, members=((scored.members + biases) / temperatures).astype(np.float32))
            windows += [members for _, members in adjusted.windows()]
    if windows:
        rows.append(np.stack(windows).astype(np.float64))
    shares = np.concatenate([np.full(len(part), 1.0 / len(part)) for part in rows if len(part)])
    return np.concatenate(rows), shares


def _percentile(values: npt.NDArray[np.floating], weights: npt.NDArray[np.float64], percent: float) -> float:
    """The lowest value that at least `percent` of the weights do not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][int(np.argmax(reached >= percent / 100 - 1e-9))])


def gather(ensemble: Ensemble, faces: Labelled, clips: Sequence[ScoredClip]) -> Evidence:
    """Raw logits of the faces; `clips` must have been scored by the same uncalibrated ensemble."""
    logits, _ = score_crops(ensemble, faces.crops)
    return Evidence(logits, faces.labels, clips)


def uncalibrated(ensemble: Ensemble) -> Ensemble:
    """The same members with temperature 1 and bias 0."""
    for member in ensemble.members:
        member.temperature, member.bias = 1.0, 0.0
    return ensemble


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="bundled", help="the set to calibrate, by name or directory")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with faces/ and clips/")
    parser.add_argument("--clips", type=Path, help="other labelled clips: a CSV or a data set's folder")
    parser.add_argument("--autoencoders", type=Path, help="folder of auto-encoders for reconstructed fakes")
    parser.add_argument("--pairs", type=int, default=400, help="held-out pairs of a real face and its fake")
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second of the clips")
    parser.add_argument("--false-alarms", type=float, default=0.05, help="share of real examples that may alarm")
    parser.add_argument("--cache", type=Path, help="folder that keeps the clips' faces between runs")
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.pairs < 1 or not 0 <= args.false_alarms < 1 or args.rate <= 0:
        raise ConfigError("calibrate: needs --pairs of at least 1, --false-alarms of 0 to 1, and --rate above 0")
    weights = find_set(args.weights)
    refuse_foreign_crop(weights)
    ensemble = uncalibrated(load_ensemble(weights))
    scored: list[ScoredClip] = []
    table = clips_of(args.data_dir, args.clips)
    if table is not None:
        clips = find_clips(table)
        choose, _ = split_groups(clips)
        finder, version = bundled_finder()
        sampling = Sampling(args.rate, 0, ensemble.crop_size)
        chosen = [clip for clip in clips if clip.group in choose]
        scored = score_clips(ensemble, all_clip_faces(chosen, finder, sampling, args.cache, version))
    reconstruct = find_reconstruct(args.autoencoders)
    faces = held_out(args.data_dir, args.pairs, ensemble.crop_size, reconstruct, CALIBRATION_SEED)
    calibration = calibrate(gather(ensemble, faces, scored), args.false_alarms, weights.record.fusion)
    record = read_raw_manifest(weights.directory)["sets"][weights.name]
    windows = any(clip.clip.label == 0 and clip.windows() for clip in scored)
    written = calibrated_record(record, calibration, args.false_alarms, with_clips=windows)
    write_set(weights.directory, weights.name, {**written, "calibrated": as_asked("streamwatch", "calibrate")})
    print(f"threshold {calibration.threshold:.4f}, disagreement {calibration.disagreement_p99:.3f}")
    for name, temperature, bias in zip(ensemble.names, calibration.temperatures, calibration.biases, strict=True):
        print(f"{name}: temperature {temperature:.3f}, bias {bias:+.3f}")
    return 0


def calibrated_record(
    record: dict[str, Any], calibration: Calibration, rate: float, *, with_clips: bool
) -> dict[str, Any]:
    """The manifest's set with the calibration in it."""
    windows = ", and the 10 s windows of the real clips of the half that calibrates, weighing the same"
    basis = (
        f"at most {rate:.1%} of real examples reach it: val faces through the stream look, one picture each"
        f"{windows if with_clips else ''}"
    )
    members = [
        {**member, "temperature": round(temperature, 4), "bias": round(bias, 4)}
        for member, temperature, bias in zip(
            record["members"], calibration.temperatures, calibration.biases, strict=True
        )
    ]
    return {
        **record,
        "threshold": math.ceil(calibration.threshold * 1e4) / 1e4,  # never below what the rate was counted at
        "threshold_basis": basis,
        "disagreement_p99": round(calibration.disagreement_p99, 4),
        "members": members,
    }


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(run(_parser.parse_args()))
