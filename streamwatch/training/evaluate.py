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

from streamwatch.inference.ensemble import Ensemble, load_ensemble
from streamwatch.inference.weights import WeightSet, find_set
from streamwatch.training.clips import Sampling, all_clip_faces, split_groups
from streamwatch.training.heldout import find_reconstruct, held_out
from streamwatch.training.layouts import find_clips
from streamwatch.training.metrics import auc
from streamwatch.training.own import bundled_finder
from streamwatch.training.report import (
    SIZES,
    Curve,
    as_text,
    clip_figures,
    held_out_figures,
    plot_reliability,
    plot_roc,
    write_report,
)
from streamwatch.training.scored import score_clips, score_crops


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="bundled", help="the set to measure, by name or directory")
    parser.add_argument("--data-dir", type=Path, help="folder with faces/ and clips/")
    parser.add_argument("--clips", type=Path, help="other labelled clips: a CSV or a data set's folder")
    parser.add_argument(
        "--half", choices=("report", "calibrate", "all"), default="report", help="which groups of the clips"
    )
    parser.add_argument("--autoencoders", type=Path, help="folder of auto-encoders for reconstructed fakes")
    parser.add_argument("--pairs", type=int, default=400, help="held-out pairs of a real face and its fake (0: none)")
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second of the clips")
    parser.add_argument("--frames", type=int, default=0, help="at most so many frames per clip (0: all)")
    parser.add_argument("--output", type=Path, help="folder for evaluation.json and the plots")
    parser.add_argument("--cache", type=Path, help="folder that keeps the clips' faces between runs")
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    weights = find_set(args.weights)
    ensemble = load_ensemble(weights)
    figures: dict[str, Any] = {
        "weights": f"{weights.name} {weights.record.version}",
        "measured": f"{time.strftime('%Y-%m-%d')}, {processor()}, torch {torch.__version__}, {args.threads} threads",
    }
    curves: list[Curve] = []
    if args.data_dir is not None and args.pairs > 0:
        figures["held_out_pseudo_fakes"], curve = _held_out(args, ensemble)
        curves.append(curve)
    if args.clips is not None or args.data_dir is not None:
        figures["clips"], curve = _clips(args, ensemble, weights)
        curves.append(curve)
    print(as_text(figures))
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
    faces = held_out(args.data_dir / "faces", args.pairs, ensemble.crop_size, find_reconstruct(args.autoencoders))
    members, fused = score_crops(ensemble, faces.crops)
    figures = held_out_figures(faces.labels, members, fused, faces.compression, ensemble.names)
    figures["by_face_size"] = _by_size(faces.labels, fused, faces.heights)
    return figures, ("held-out pseudo-fakes", faces.labels.tolist(), fused.tolist())


def _by_size(labels: np.ndarray, fused: np.ndarray, heights: np.ndarray) -> dict[str, float]:
    rows = {f"{low:.0f}-{high:.0f} px": (heights >= low) & (heights < high) for low, high in SIZES}
    return {name: round(auc(labels[chosen], fused[chosen]), 4) for name, chosen in rows.items()}


def _clips(args: argparse.Namespace, ensemble: Ensemble, weights: WeightSet) -> tuple[dict[str, Any], Curve]:
    clips = find_clips(args.clips or args.data_dir / "clips" / "clips.csv")
    calibrating, reporting = split_groups(clips)
    chosen = {"report": reporting, "calibrate": calibrating, "all": reporting | calibrating}[args.half]
    clips = [clip for clip in clips if clip.group in chosen]
    finder, version = bundled_finder()
    sampling = Sampling(args.rate, args.frames, ensemble.crop_size)
    faces = all_clip_faces(clips, finder, sampling, args.cache, version)
    scored = score_clips(ensemble, faces)
    figures = clip_figures(scored, ensemble.names, weights.record.threshold)
    figures["half"] = args.half
    figures["without_a_face"] = [found.clip.name for found in faces if not len(found.crops)]
    return figures, ("clips", [s.clip.label for s in scored], [s.logit for s in scored])


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(run(_parser.parse_args()))
