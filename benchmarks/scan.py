"""The scan against a straightforward re-statement of DF-Spot's way: the same networks, clips and frames in one run.

    python -m benchmarks.scan [--weights dfspot-dfdc] [--clips 2] [--frames 4] [--size full|small] [CLIP ...]

DF-Spot's way: a video is read from the first frame to the last that is wanted, the best face of each frame is cut, and
the whole video goes through one float32 network after the other. Ours: `streamwatch scan`. Without imported checkpoints
the networks have random weights, which cost as much time; clips that are not given are made from a public-domain
portrait. Beside the wall clock the CPU's seconds are told: on a busy machine they are what can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import skimage.data
import torch

from streamwatch.config import DetectorSettings
from streamwatch.domain import Image
from streamwatch.inference.devices import choose_devices, device_name
from streamwatch.inference.ensemble import Ensemble, load_ensemble
from streamwatch.inference.faces import FaceFinder, find_faces_like_seed
from streamwatch.inference.models import detector_source
from streamwatch.inference.seed_members import SeedSpec, seed_crop, seed_network
from streamwatch.inference.weights import SEED_MEMBERS, WeightSet, find_set
from streamwatch.inference.weights_import import import_state
from streamwatch.scan.media import MediaFile, MediaKind, sample_indices
from streamwatch.scan.options import ScanOptions
from streamwatch.scan.pipeline import scan
from streamwatch.scan.records import FileResult

SMALL = {"TimmV2": "tf_efficientnetv2_b0", "ViT": "vit_tiny_patch16_224"}


class Took(NamedTuple):
    """Seconds by the clock and of all threads' work."""

    wall: float
    cpu: float


def now() -> Took:
    return Took(time.perf_counter(), time.process_time())


def since(begun: Took) -> Took:
    return Took(time.perf_counter() - begun.wall, time.process_time() - begun.cpu)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__)
    parser.add_argument("clip", nargs="*", type=Path)
    parser.add_argument("--weights", help="an imported DF-Spot set; default: random networks")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="of the random networks")
    parser.add_argument("--clips", type=int, default=2, help="how many clips are made")
    parser.add_argument("--frames", type=int, default=4, help="per video")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return compare(args, Path(folder))


def compare(args: argparse.Namespace, folder: Path) -> int:
    device = choose_devices([args.device])[0]
    if not args.weights:
        os.environ["XDG_DATA_HOME"] = str(folder)  # a store that goes when the benchmark ends
    weights = find_set(args.weights).choose(None) if args.weights else random_set(args.size)
    clips = args.clip or [make_clip(folder / f"clip{index}.mp4", index) for index in range(args.clips)]
    threads = f"{torch.get_num_threads()} threads"
    print(f"{date.today()}, {device_name(device)}, {platform.machine()}, {threads}, torch {torch.__version__}")
    print(f"{len(clips)} clips, {args.frames} frames each, networks: {weights.name}")

    seeds, theirs = seed_way(clips, args.frames, weights, device)
    ours, mine = our_way(clips, args.frames, weights, device, folder)
    faces = sum(row.faces for row in ours)
    difference = max(abs(a - (row.score or 0.0)) for a, row in zip(seeds, ours, strict=True))
    for name, took in (("DF-Spot's way", theirs), ("streamwatch", mine)):
        print(f"{name:<14}{took.wall:8.2f} s  {faces / took.wall:7.2f} faces/s  {took.cpu:8.2f} s of CPU")
    print(
        f"{theirs.wall / mine.wall:.2f} times as fast by the clock, {theirs.cpu / mine.cpu:.2f} by CPU time; "
        f"largest difference of a score {difference:.5f}"
    )
    return 0


def seed_way(clips: Sequence[Path], frames: int, weights: WeightSet, device: str) -> tuple[list[float], Took]:
    """Scores of the clips, and the seconds they took once the networks were loaded."""
    ensemble = load_ensemble(weights, device)
    for member in ensemble.members:
        member.network.to(memory_format=torch.contiguous_format)  # as torch loads them
    finder = FaceFinder(detector_source(DetectorSettings()).load(), device)
    ensemble.score(torch.zeros((1, 224, 224, 3), dtype=torch.uint8))  # warm, as ours is
    begun = now()
    scores = [_seed_video(clip, frames, ensemble, finder) for clip in clips]
    return scores, since(begun)


def _seed_video(clip: Path, frames: int, ensemble: Ensemble, finder: FaceFinder) -> float:
    with av.open(str(clip)) as container:
        wanted = set(sample_indices(container.streams.video[0].frames, frames))
        crops = []
        for index, frame in enumerate(container.decode(video=0)):
            if index not in wanted:
                continue
            image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            faces = find_faces_like_seed(finder, image)
            if faces:
                crops.append(seed_crop(image, faces[0].box))
    x = torch.from_numpy(np.stack(crops)).to(ensemble.device).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        scores = [float(member.network(x).logit.mean().sigmoid()) for member in ensemble.members]
    return sum(scores) / len(scores)


def our_way(
    clips: Sequence[Path], frames: int, weights: WeightSet, device: str, folder: Path
) -> tuple[list[FileResult], Took]:
    """The scan's rows, and its seconds without loading."""
    options = ScanOptions(
        paths=tuple(clips),
        output=folder / "output",
        weights=weights.name,
        device=device,
        frames_per_video=frames,
        best_face_only=True,
        report=False,
    )
    watch = _Stopwatch()
    rows = asyncio.run(scan(options, [MediaFile(clip, MediaKind.VIDEO) for clip in clips], watch))
    assert watch.begun is not None
    return rows, since(watch.begun)


class _Stopwatch:
    """Starts when the first file does: the engine is warm then."""

    begun: Took | None = None

    def started(self, media: MediaFile, frames: int) -> None:
        del media, frames
        self.begun = self.begun or now()

    def advanced(self, media: MediaFile) -> None:
        del media

    def finished(self, result: FileResult) -> None:
        if result.error is not None:
            raise SystemExit(f"{result.path}: {result.error}")


def random_set(size: str) -> WeightSet:
    """DF-Spot's four networks with random weights, in the store."""
    name = f"random-{size}"
    torch.manual_seed(0)
    for member in SEED_MEMBERS:
        spec = SeedSpec(member, SMALL[member.removesuffix("ST")] if size == "small" else "")
        import_state(name, spec, seed_network(spec).state_dict(), "random")
    return find_set(name).choose(None)


def make_clip(path: Path, seed: int, seconds: int = 4) -> Path:
    """A portrait that drifts over 720p."""
    portrait = np.asarray(cv2.resize(skimage.data.astronaut()[0:330, 60:390], (600, 600)), np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(25 * seconds):
            image: Image = np.full((720, 1280, 3), 90, np.uint8)
            left = 200 + 60 * seed + 2 * index
            image[60:660, left : left + 600] = portrait
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
