"""What finding faces costs: `python -m benchmarks.detector [--threads N]`. Bounded run time, under a minute.

Milliseconds per frame by frame size, tiling and frames per call, and where they go: cutting the tiles, the network, and
what is left for decoding and merging. The network alone on the same inputs is the floor.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import psutil
import skimage
import torch

from benchmarks.ensemble import in_turns
from streamwatch.domain import Face, Frame, Image, Instant
from streamwatch.inference.blazeface import load_blazeface, normalise
from streamwatch.inference.faces import FaceFinder, FinderSettings
from streamwatch.inference.tiles import TILINGS, cut
from streamwatch.inference.weights import bundled_directory, load_tensors, read_manifest
from streamwatch.scoring.follow import FaceFollower

SIZES = {"480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080), "2160p": (3840, 2160)}
ROUNDS = 7


def frame_of(size: tuple[int, int]) -> Image:
    """A textured frame with one face of a fifth of its height."""
    width, height = size
    frame = cv2.resize(skimage.data.coffee(), size, interpolation=cv2.INTER_LINEAR)
    portrait = cv2.resize(skimage.data.astronaut(), (height, height), interpolation=cv2.INTER_AREA)
    frame[:, (width - height) // 2 : (width - height) // 2 + height] = portrait
    return np.asarray(frame, np.uint8)


def median_ms(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def measure(name: str, tiles: str, count: int) -> None:
    directory = bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    model = load_blazeface(load_tensors(directory / record.file, record.sha256))
    finder = FaceFinder(model, settings=FinderSettings(TILINGS[tiles], record.score_threshold))
    frames = [frame_of(SIZES[name])] * count
    inputs = np.concatenate([cut(frame, TILINGS[tiles]).pixels for frame in frames])
    x = normalise(torch.from_numpy(inputs)).contiguous(memory_format=torch.channels_last)

    def network() -> object:
        with torch.inference_mode():
            return finder.detector(x)

    cutting = median_ms(lambda: [cut(frame, TILINGS[tiles]) for frame in frames]) / count
    bare = median_ms(network) / count
    whole = median_ms(lambda: finder.find(frames)) / count
    print(
        f"{name:>6} {tiles:8} {count} frame(s): {len(inputs) // count:2d} inputs, {whole:6.1f} ms a frame "
        f"(cutting {cutting:.1f}, network {bare:.1f}); {len(finder.find(frames[:1])[0])} face(s)"
    )


def measure_batch(count: int) -> None:
    """The inputs of many frames in one call of the network, and in several, as they are served: in turns."""
    directory = bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    finder = FaceFinder(load_blazeface(load_tensors(directory / record.file, record.sha256)))
    inputs = np.concatenate([cut(frame_of(SIZES["720p"]), TILINGS["default"]).pixels] * count)
    whole = FaceFinder(finder.detector)
    whole._largest_batch = lambda: len(inputs)  # type: ignore[method-assign]
    once, served = in_turns([lambda: whole._network(inputs), lambda: finder._network(inputs)])
    ratio = f"{served / once:.2f}"
    print(f"  720p {count} frames: {once / count:.1f} ms a frame in one call, as served {served / count:.1f} ({ratio})")


def measure_folding() -> None:
    """The network on the inputs of one frame, as it is loaded and as it is served: in turns."""
    directory = bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    model = load_blazeface(load_tensors(directory / record.file, record.sha256)).to(memory_format=torch.channels_last)
    finder = FaceFinder(model)
    x = normalise(torch.from_numpy(cut(frame_of(SIZES["720p"]), TILINGS["default"]).pixels))
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        loaded, served = in_turns([lambda: model(x), lambda: finder.detector(x)])
    print(f"  720p network: {loaded:.1f} ms a frame as loaded, paddings folded {served:.1f} ({served / loaded:.2f})")


def measure_following(name: str) -> None:
    """A frame between two detections against a detected one, in the same run."""
    directory = bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    model = load_blazeface(load_tensors(directory / record.file, record.sha256))
    finder = FaceFinder(model, settings=FinderSettings(TILINGS["default"], record.score_threshold))
    images = [frame_of(SIZES[name]), np.roll(frame_of(SIZES[name]), 4, axis=1)]
    faces = [Face(found.box, found.score, found.keypoints) for found in finder.find(images[:1])[0]]
    follower, at = FaceFollower(1e-3), itertools.count()

    def frame() -> Frame:
        number = next(at)
        return Frame("", number, Instant(number / 25, 0.0), None, images[number % 2])

    def follow() -> None:
        assert follower.follow(frame())

    follower.detected(frame(), faces)
    followed, detected = median_ms(follow), median_ms(lambda: finder.find(images[:1]))
    print(f"{name:>6} followed by motion: {followed:5.1f} ms a frame, {followed / detected:.2f} of a detection")


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    print(
        f"{datetime.now(UTC):%Y-%m-%d}; {psutil.cpu_count()} cores {processor} ({platform.machine()}), "
        f"{threads} thread(s); load before {psutil.getloadavg()[0]:.1f}; torch {torch.__version__}"
    )
    for name in SIZES:
        measure(name, "default", 1)
    measure("720p", "default", 4)
    measure("720p", "fine", 1)
    measure_folding()
    measure_batch(8)
    for name in ("720p", "1080p"):
        measure_following(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args().threads)
