"""Figures of the detector: average precision, recall by face size in 720p, time per frame; the command."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from streamwatch.domain import Floats, Image
from streamwatch.inference.blazeface import iou, load_blazeface
from streamwatch.inference.faces import Detection, FaceFinder, FinderSettings
from streamwatch.inference.tiles import TILINGS
from streamwatch.inference.weights import MANIFEST, file_hash
from streamwatch.protocols import FindOptions
from streamwatch.training.bundle import read_raw_manifest
from streamwatch.training.detector_clips import all_clips, summarise_clips
from streamwatch.training.detector_faces import LabelledFace, load_faces, make_backgrounds

EVERY_FACE = FindOptions(max_faces=64, min_size=0.0)
LOWEST_SCORE = 0.05
FRAME_SIZE = (1280, 720)
COMPOSITE_SIZES = (24, 32, 48, 64, 96, 160, 280)
COMPOSITE_COUNT = 30


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """One picture and the boxes (N, 4) of all its faces."""

    image: Image
    boxes: Floats


def average_precision(found: Sequence[Sequence[Detection]], truths: Sequence[Floats], overlap: float = 0.5) -> float:
    """Area under the precision-recall curve over all pictures (every point, precision made monotone), at one IoU."""
    ranked = sorted(
        ((face.score, index, face) for index, faces in enumerate(found) for face in faces), key=lambda row: -row[0]
    )
    taken = [np.zeros(len(boxes), bool) for boxes in truths]
    hits = []
    for _, index, face in ranked:
        best = _best_match(face, truths[index], ~taken[index], overlap)
        if best is not None:
            taken[index][best] = True
        hits.append(best is not None)
    total = sum(len(boxes) for boxes in truths)
    if not hits or not total:
        return 0.0
    right = np.cumsum(hits)
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(right / total, prepend=0.0) * precision))


def recall_and_false(
    found: Sequence[Sequence[Detection]], truths: Sequence[Floats], threshold: float, overlap: float = 0.5
) -> tuple[float, float]:
    """Share of the true faces found at a score threshold, and false faces per picture."""
    right = wrong = 0
    for faces, boxes in zip(found, truths, strict=True):
        free = np.ones(len(boxes), bool)
        for face in faces:
            if face.score < threshold:
                continue
            best = _best_match(face, boxes, free, overlap)
            if best is None:
                wrong += 1
            else:
                free[best] = False
                right += 1
    return right / max(1, sum(len(boxes) for boxes in truths)), wrong / max(1, len(truths))


def _best_match(face: Detection, boxes: Floats, free: npt.NDArray[np.bool_], overlap: float) -> int | None:
    if not len(boxes):
        return None
    overlaps = np.where(free, iou(np.array(face.box, np.float32), boxes), 0.0)
    best = int(overlaps.argmax())
    return best if overlaps[best] >= overlap else None


def composite_frames(faces: Sequence[LabelledFace], size: float, count: int, seed: int = 0) -> Iterator[Truth]:
    """720p frames with ten faces of one size (+-10 %) each, pasted at random places on face-free backgrounds."""
    rng = np.random.default_rng([seed, int(size)])
    backgrounds = make_backgrounds(list(faces), rng, 60, side=360)
    for _ in range(count):
        frame = _background_frame(backgrounds, rng)
        boxes: list[Floats] = []
        for _ in range(10):
            face = faces[int(rng.integers(len(faces)))]
            scale = size * rng.uniform(0.9, 1.1) / face.size
            picture = np.asarray(
                cv2.resize(face.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
            )[: FRAME_SIZE[1], : FRAME_SIZE[0]]
            height, width = picture.shape[:2]
            x, y = int(rng.integers(FRAME_SIZE[0] - width + 1)), int(rng.integers(FRAME_SIZE[1] - height + 1))
            if all(x > b[2] or x + width < b[0] or y > b[3] or y + height < b[1] for b in boxes):
                frame[y : y + height, x : x + width] = picture
                boxes.append((face.box * scale + np.array([x, y, x, y])).astype(np.float32))
        yield Truth(_stream_look(frame, rng), np.array(boxes, np.float32).reshape(-1, 4))


def _background_frame(backgrounds: Sequence[Image], rng: np.random.Generator) -> Image:
    rows = [[backgrounds[int(rng.integers(len(backgrounds)))] for _ in range(4)] for _ in range(2)]
    grid = np.concatenate([np.concatenate(row, 1) for row in rows])
    return np.ascontiguousarray(grid[: FRAME_SIZE[1], : FRAME_SIZE[0]])


def _stream_look(frame: Image, rng: np.random.Generator) -> Image:
    quality = int(rng.integers(35, 90))
    coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_BGR), np.uint8)


def still_precision(finder: FaceFinder, faces: Sequence[LabelledFace]) -> float:
    """Average precision at IoU 0.5 on the labelled pictures as they are, one face each."""
    found = [finder.find([face.image], [EVERY_FACE])[0] for face in faces]
    return average_precision(found, [face.box[None] for face in faces])


def milliseconds_per_frame(finder: FaceFinder, frames: Sequence[Image], repeats: int = 20) -> float:
    """Median time of one 720p frame alone through `find`."""
    times = []
    for index in range(repeats + 3):
        started = time.perf_counter()
        finder.find([frames[index % len(frames)]])
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[3:]))


def evaluate(weights: Path, data_dir: Path, threshold: float, stills: int | None = None) -> dict[str, object]:
    """The detector's figures on the `val` faces, as they stand in its card: precision at every score, recall and false
    faces at `threshold`."""
    model = load_blazeface(weights)
    faces = load_faces(data_dir, "val", stills)
    finders = {
        name: FaceFinder(model, settings=FinderSettings(tiling, LOWEST_SCORE)) for name, tiling in TILINGS.items()
    }
    results: dict[str, object] = {"threshold": threshold, "stills": len(faces)}
    results["stills_ap50"] = round(still_precision(finders["default"], faces), 4)
    for name, finder in finders.items():
        results[f"composites_{name}"] = {
            f"{size}px": _composite_figures(finder, faces, size, threshold) for size in COMPOSITE_SIZES
        }
    frames = [truth.image for truth in composite_frames(faces, 96, 4)]
    for name, finder in finders.items():
        working = FaceFinder(model, settings=replace(finder.settings, score_threshold=threshold))
        results[f"ms_per_720p_frame_{name}"] = round(milliseconds_per_frame(working, frames), 1)
    results["torch_threads"] = torch.get_num_threads()
    return results


def _composite_figures(
    finder: FaceFinder, faces: Sequence[LabelledFace], size: int, threshold: float
) -> dict[str, float]:
    truths = list(composite_frames(faces, size, COMPOSITE_COUNT))
    boxes = [truth.boxes for truth in truths]
    everything = [finder.find([truth.image], [EVERY_FACE])[0] for truth in truths]
    working = FaceFinder(finder.detector, settings=replace(finder.settings, score_threshold=threshold))
    found = [working.find([truth.image], [EVERY_FACE])[0] for truth in truths]
    recall, false = recall_and_false(found, boxes, 0.0)
    return {
        "ap50": round(average_precision(everything, boxes), 3),
        "recall": round(recall, 3),
        "false_per_frame": round(false, 2),
    }


def publish(weights: Path, directory: Path, threshold: float, figures: dict[str, object], trained: str) -> None:
    """Copy the weights into a directory of weights and put them into its manifest, leaving the rest of it as it is."""
    target = directory / "blazeface.safetensors"
    if weights.resolve() != target.resolve():
        shutil.copyfile(weights, target)
    manifest = read_raw_manifest(directory)
    manifest.setdefault("detectors", {})["blazeface"] = {
        "file": target.name,
        "sha256": file_hash(target),
        "score_threshold": threshold,
        "trained": trained,
        "figures": figures,
    }
    part = directory / (MANIFEST + ".part")
    part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    part.replace(directory / MANIFEST)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with faces/labels.npz and the pictures")
    parser.add_argument("--weights", type=Path, required=True, help="BlazeFace, safetensors or the original .pth")
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--stills", type=int, help="an even sample of the val faces; all where not given")
    parser.add_argument(
        "--clips", type=float, metavar="FPS", help="also go through the clips, at so many frames a second"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--publish", type=Path, metavar="DIR", help="put weights and figures into this directory's manifest"
    )
    parser.add_argument("--trained", default="", help="how they were trained, for the manifest: commit and command")


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    results = evaluate(args.weights, args.data_dir, args.threshold, args.stills)
    if args.clips:
        settings = FinderSettings(score_threshold=args.threshold)
        clips = all_clips(FaceFinder(load_blazeface(args.weights), settings=settings), args.data_dir, args.clips)
        for clip in clips:
            print(
                f"{clip.clip:44} {clip.frames:4d} frames  coverage {clip.coverage:.2f}  "
                f"second faces {clip.second_faces:.2f}  jitter {clip.jitter:.3f}"
            )
        results["clips"] = summarise_clips(clips)
    print(json.dumps(results, indent=1))
    if args.publish:
        publish(args.weights, args.publish, args.threshold, results, args.trained)
    return 0


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    add_arguments(arguments)
    raise SystemExit(run(arguments.parse_args()))
