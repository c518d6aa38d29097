"""Measure a weight set: on held-out pseudo-fakes, and on labelled clips of real deepfakes. The two are kept apart.

A figure on pseudo-fakes says how well the task of the training is learnt; only the clips speak of deepfakes.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from streamwatch.errors import ConfigError
from streamwatch.inference.ensemble import Ensemble, load_ensemble
from streamwatch.inference.weights import find_set
from streamwatch.training.bundle import fingerprint, read_raw_manifest
from streamwatch.training.clips import Sampling, all_clip_faces, split_groups
from streamwatch.training.faces import DatasetError
from streamwatch.training.heldout import find_reconstruct, held_out
from streamwatch.training.layouts import find_clips
from streamwatch.training.metrics import auc, sigmoid
from streamwatch.training.own import bundled_finder
from streamwatch.training.provenance import as_asked
from streamwatch.training.report import (
    SIZES,
    Curve,
    as_text,
    auc_by,
    clip_figures,
    held_out_figures,
    plot_reliability,
    plot_roc,
    write_report,
)
from streamwatch.training.scored import ScoredClip, clips_of, refuse_foreign_crop, score_clips, score_crops


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="bundled", help="the set to measure, by name or directory")
    parser.add_argument("--data-dir", type=Path, help="folder with faces/ and clips/")
    parser.add_argument("--clips", type=Path, help="other labelled clips: a CSV or a data set's folder")
    parser.add_argument(
        "--half",
        choices=("report", "calibrate", "all"),
        help="which groups of the clips (default: report; all, where --clips names other ones)",
    )
    parser.add_argument("--autoencoders", type=Path, help="folder of auto-encoders for reconstructed fakes")
    parser.add_argument("--pairs", type=int, default=400, help="held-out pairs of a real face and its fake (0: none)")
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second of the clips")
    parser.add_argument("--frames", type=int, default=0, help="at most so many frames per clip (0: all)")
    parser.add_argument(
        "--recode",
        type=int,
        metavar="CRF",
        help="compress the clips once more before, as a live camera would (x264, say 28; 0 to 51)",
    )
    parser.add_argument("--output", type=Path, help="folder for evaluation.json and the plots")
    parser.add_argument("--cache", type=Path, help="folder that keeps the clips' faces between runs")
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.rate <= 0 or args.pairs < 0 or args.frames < 0:
        raise ConfigError("evaluate: needs --rate above 0, and --pairs and --frames of at least 0")
    if args.recode is not None and not 0 <= args.recode <= 51:
        raise ConfigError(f"evaluate: --recode is a constant rate factor of x264, 0 to 51, got {args.recode}")
    weights = find_set(args.weights)
    refuse_foreign_crop(weights)
    table = clips_of(args.data_dir, args.clips)
    if table is None and (args.data_dir is None or args.pairs == 0):
        raise ConfigError("evaluate: nothing to measure on: give --data-dir with faces or clips, or --clips")
    if table is None and args.recode is not None:
        raise ConfigError("evaluate: --recode is for clips, and there are none: give --clips")
    ensemble = load_ensemble(weights)
    figures: dict[str, Any] = {
        "weights": f"{weights.name} {weights.record.version}",
        "fingerprint": fingerprint(read_raw_manifest(weights.directory)["sets"][weights.name]),
        "command": as_asked("streamwatch", "evaluate"),
        "measured": f"{time.strftime('%Y-%m-%d')}, {processor()}, torch {torch.__version__}, {args.threads} threads",
    }
    curves: list[Curve] = []
    if args.data_dir is not None and args.pairs > 0:
        figures["held_out_pseudo_fakes"], curve = _held_out(args, ensemble)
        curves.append(curve)
    if table is not None:
        scored, missed = _clips(args, table, ensemble)
        figures["clips"] = clip_figures(scored, ensemble.names, weights.record.threshold, weights.record.fusion)
        figures["clips"]["half"] = _half(args)
        if args.recode is not None:
            figures["clips"]["recoded_at_crf"] = args.recode
        found = [clip.coverage for clip in scored]
        figures["clips"]["coverage"] = round(float(np.mean([*found, *(0.0 for _ in missed)])), 4)
        figures["clips"]["without_a_face"] = missed
        figures["scored"] = [
            {
                "clip": s.clip.name,
                "label": s.clip.label,
                "method": s.clip.method,
                "group": s.clip.group,
                "score": round(float(sigmoid(s.logit)), 4),
            }
            for s in scored
        ]
        curves.append(("clips", [s.clip.label for s in scored], [s.logit for s in scored]))
    print(as_text({key: value for key, value in figures.items() if key != "scored"}))
    if args.output is not None:
        write_report(figures, args.output)
        plot_roc(curves, args.output / "roc.png")
        plot_reliability(curves, args.output / "reliability.png")
    return 0


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.machine()


def _held_out(args: argparse.Namespace, ensemble: Ensemble) -> tuple[dict[str, Any], Curve]:
    faces = held_out(args.data_dir, args.pairs, ensemble.crop_size, find_reconstruct(args.autoencoders))
    members, fused = score_crops(ensemble, faces.crops)
    figures = held_out_figures(faces.labels, members, fused, faces.compression, ensemble.names, ensemble.fusion)
    figures["by_face_size"] = _by_size(faces.labels, fused, faces.heights)
    figures["by_kind"] = auc_by(faces.labels, fused, faces.kinds)
    return figures, ("held-out pseudo-fakes", faces.labels.tolist(), fused.tolist())


def _by_size(labels: np.ndarray, fused: np.ndarray, heights: np.ndarray) -> dict[str, float]:
    rows = {f"{low:.0f}-{high:.0f} px": (heights >= low) & (heights < high) for low, high in SIZES}
    return {name: round(auc(labels[chosen], fused[chosen]), 4) for name, chosen in rows.items()}


def _half(args: argparse.Namespace) -> str:
    """What was calibrated on is left out of the figures, where it is among the clips."""
    return str(args.half or ("report" if args.clips is None else "all"))


def _clips(args: argparse.Namespace, table: Path, ensemble: Ensemble) -> tuple[list[ScoredClip], list[str]]:
    """The chosen clips, scored, and the names of those without a face."""
    clips = find_clips(table)
    calibrating, reporting = split_groups(clips)
    half = _half(args)
    chosen = {"report": reporting, "calibrate": calibrating, "all": reporting | calibrating}[half]
    clips = [clip for clip in clips if clip.group in chosen]
    if not clips:
        raise DatasetError(f"{table}: has no clips in the half '{half}'; try --half all")
    finder, version = bundled_finder()
    sampling = Sampling(args.rate, args.frames, ensemble.crop_size, args.recode)
    faces = all_clip_faces(clips, finder, sampling, args.cache, version)
    scored = score_clips(ensemble, faces)
    if not scored:
        raise DatasetError(f"{table}: no face was found in any of its clips")
    return scored, [found.clip.name for found in faces if not len(found.crops)]


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(run(_parser.parse_args()))
