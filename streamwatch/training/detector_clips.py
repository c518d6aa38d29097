"""How the detector behaves on real video: coverage, second faces, and how still its boxes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from streamwatch.inference.blazeface import iou
from streamwatch.inference.faces import Detection, FaceFinder
from streamwatch.training.clips import read_clips


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """One clip, or the part of it that one label speaks of. Rates are per sampled frame; `jitter` is the median change
    of the box's height between consecutive frames, as a share of the height."""

    clip: str
    frames: int
    coverage: float
    second_faces: float
    jitter: float


def clip_figures(finder: FaceFinder, path: Path, region: tuple[int, int, int, int] | None, rate: float) -> ClipFigures:
    """Coverage and second faces at `rate` frames a second, and the jitter of the largest face over pairs of frames."""
    capture = cv2.VideoCapture(str(path))
    step = max(2, round((capture.get(cv2.CAP_PROP_FPS) or 25.0) / rate))
    counts, changes = [], []
    previous: Detection | None = None
    index = 0
    try:
        while True:
            ok, frame = capture.read()
            if not ok:
                break
            phase = index % step
            index += 1
            if phase > 1:
                continue
            rgb = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
            if region is not None:
                rgb = np.ascontiguousarray(rgb[region[1] : region[3], region[0] : region[2]])
            faces = finder.find([rgb])[0]
            largest = max(faces, key=lambda face: face.box.height, default=None)
            if phase == 0:
                counts.append(len(faces))
            elif (
                largest
                and previous
                and iou(np.array(largest.box, np.float32), np.array([previous.box], np.float32))[0] > 0.4
            ):
                changes.append(abs(largest.box.height - previous.box.height) / previous.box.height)
            previous = largest
    finally:
        capture.release()
    tally = np.array(counts or [0])
    jitter = float(np.median(changes)) if changes else float("nan")
    return ClipFigures(path.stem, len(counts), float((tally > 0).mean()), float((tally > 1).mean()), jitter)


def all_clips(finder: FaceFinder, data_dir: Path, rate: float) -> list[ClipFigures]:
    """Every labelled part of the clips in `data_dir`. Raises DatasetError."""
    clips = read_clips(data_dir / "clips" / "clips.csv")
    return [clip_figures(finder, clip.path, clip.region, rate) for clip in clips]


def summarise_clips(clips: Sequence[ClipFigures]) -> dict[str, object]:
    """Over all labelled parts of the clips; most show one person, so second faces are mostly false ones."""
    return {
        "parts": len(clips),
        "coverage": round(float(np.mean([clip.coverage for clip in clips])), 4),
        "least_coverage": round(min(clip.coverage for clip in clips), 3),
        "second_faces": round(float(np.mean([clip.second_faces for clip in clips])), 3),
        "parts_without_second_face": sum(clip.second_faces == 0 for clip in clips),
        "jitter": round(float(np.nanmedian([clip.jitter for clip in clips])), 4),
    }
