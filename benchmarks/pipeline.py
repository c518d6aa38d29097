"""The engine against its bare networks, and the whole service on eight cameras.

    python -m benchmarks.pipeline [--seconds 60] [--streams 8] [--repeats 5]

Efficiency: faces scored per second by `LocalEngine` from decoded frames, over the bare detector plus the bare ensemble
back to back on the same prepared tensors, in the same run, in turns, with one and with four faces a frame.
Service: RTSP cameras of 720p25 with one person each in a process of their own; capture-to-score, drops, CPU and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from pydantic import SecretStr

from benchmarks.machine import describe
from streamwatch.app import Service
from streamwatch.config import DetectorSettings, DeviceSettings, EnsembleSettings, StreamSettings, parse
from streamwatch.demo.clip import encode
from streamwatch.demo.finder import bundled_finder
from streamwatch.demo.scene import FPS, Portrait, load_portraits, render
from streamwatch.domain import Frame, Image, Instant
from streamwatch.inference.devices import torch_threads
from streamwatch.inference.engine import EngineSettings, LocalEngine
from streamwatch.inference.ensemble import load_ensemble, make_cropper
from streamwatch.inference.faces import FaceFinder, FinderSettings
from streamwatch.inference.models import detector_source
from streamwatch.inference.tiles import cut
from streamwatch.inference.weights import find_set
from streamwatch.observer import NullObserver
from streamwatch.protocols import FindOptions

WIDTH, HEIGHT = 1280, 720
FAR = 3600.0
RINGS_FULL = 35.0
"""Seconds after which the first stream's ring of packets, kept for evidence, grows no more."""


def picture(portraits: Sequence[Portrait], faces: int, t: float) -> Image:
    """A 720p frame with one face in its middle, or four side by side."""
    canvas = np.full((HEIGHT, WIDTH, 3), 96, np.uint8)
    if faces == 1:
        canvas[:, 320:960] = render(portraits[1], t, 48.0, 0.0)
        return canvas
    for index in range(faces):
        panel = render(portraits[index % 2], t, 48.0, index)
        step = WIDTH // faces
        canvas[:, index * step : (index + 1) * step] = panel[:, 160 : 160 + step]
    return canvas


def frames(portraits: Sequence[Portrait], faces: int, count: int) -> list[Image]:
    return [picture(portraits, faces, index * 0.5) for index in range(count)]


class Bare:
    """Detector and ensemble on prepared tensors, nothing around them."""

    def __init__(self, pictures: Sequence[Image], batch: int) -> None:
        torch.set_num_threads(torch_threads(DeviceSettings(), "cpu"))
        source = detector_source(DetectorSettings())
        self._finder = FaceFinder(source.load(), settings=FinderSettings(score_threshold=source.threshold))
        weights = find_set("bundled")
        self._ensemble = load_ensemble(weights, "cpu")
        self._ensemble.choose_dtype("auto")
        crop = make_cropper(weights, self._ensemble.crop_size)
        found = [self._finder.find([image], [FindOptions()])[0] for image in pictures]
        self.faces = sum(map(len, found))
        crops = [crop(image, face.box) for image, each in zip(pictures, found, strict=True) for face in each]
        tiles = [cut(image, self._finder.settings.tiling).pixels for image in pictures]
        self._tiles = [np.concatenate(tiles[i : i + batch // 4 or 1]) for i in range(0, len(tiles), batch // 4 or 1)]
        self._crops = [torch.from_numpy(np.stack(crops[i : i + batch])) for i in range(0, len(crops), batch)]

    def run(self) -> float:
        """Seconds for all of it."""
        begun = time.perf_counter()
        for tiles in self._tiles:
            self._finder._network(tiles)
        for crops in self._crops:
            self._ensemble.score(crops)
        return time.perf_counter() - begun


async def through_engine(engine: LocalEngine, pictures: Sequence[Image]) -> tuple[float, int]:
    """(seconds, faces) for frames that are all there at once, as when many streams wait."""
    far = time.monotonic() + FAR

    async def one(index: int, image: Image) -> int:
        frame = Frame(f"s{index}", index, Instant(time.monotonic(), time.time()), None, image)
        found = await engine.find(frame, FindOptions(), far)
        return len(await engine.score(frame, found, far))

    begun = time.perf_counter()
    counts = await asyncio.gather(*(one(index, image) for index, image in enumerate(pictures)))
    return time.perf_counter() - begun, sum(counts)


async def efficiency(repeats: int) -> None:
    portraits = load_portraits(bundled_finder())
    settings = EngineSettings(DeviceSettings(devices=("cpu",), max_queue=4096), DetectorSettings(), EnsembleSettings())
    async with LocalEngine(settings, NullObserver()) as engine:
        for faces in (1, 4):
            pictures = frames(portraits, faces, 24)
            bare = Bare(pictures, settings.device.max_batch)
            ratios, rates = [], []
            await through_engine(engine, pictures)
            bare.run()
            for _ in range(repeats):
                seconds, scored = await through_engine(engine, pictures)
                alone = await asyncio.to_thread(bare.run)
                ratios.append((scored / seconds) / (bare.faces / alone))
                rates.append(scored / seconds)
            print(
                f"{faces} face(s) a frame: {statistics.median(rates):.1f} faces/s through the engine, "
                f"{statistics.median(ratios):.2f} of the bare networks (min {min(ratios):.2f}, max {max(ratios):.2f})"
            )


@contextlib.asynccontextmanager
async def cameras(clip: Path, count: int) -> AsyncIterator[list[str]]:
    """RTSP cameras, each a process of its own."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streamwatch.camera", str(clip), "--port", "0", stdout=asyncio.subprocess.PIPE
        )
        for _ in range(count)
    ]  # fmt: skip
    try:
        urls = []
        for process in processes:
            assert process.stdout is not None
            urls.append((await process.stdout.readline()).decode().strip())
        yield urls
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait()


async def service(streams: int, seconds: float) -> None:
    portraits = load_portraits(bundled_finder())
    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "one.mp4"
        encode((picture(portraits, 1, index / FPS) for index in range(8 * FPS)), clip)
        # One camera process serves all streams, as one network recorder does: its cost is not the service's.
        async with cameras(clip, 1) as urls:
            config = parse(
                {
                    "streams": {"s0": {"url": urls[0]}},
                    "server": {"port": 0, "auth": {"tokens": f"{scratch}/tokens.json"}},
                    "history": {"url": f"sqlite+aiosqlite:///{scratch}/history.db"},
                    "alerts": {"evidence": {"directory": f"{scratch}/evidence"}},
                    "log_level": "warning",
                }
            )
            process = psutil.Process()
            before = process.memory_info().rss
            async with Service(config) as running:
                await asyncio.sleep(RINGS_FULL)
                alone = process.memory_info().rss
                for index in range(1, streams):
                    await running.control.add_stream(f"s{index}", StreamSettings(url=SecretStr(urls[0])))
                await asyncio.sleep(10)  # connections, the first burst
                for monitor in running.fleet.monitors.values():
                    monitor.counters.latencies.clear()
                cpu, begun = process.cpu_times(), time.monotonic()
                latencies: list[float] = []
                queued: list[int] = []
                while time.monotonic() - begun < seconds:
                    await asyncio.sleep(5)
                    batches = running.engine.describe()["batches"]
                    queued.append(sum(figures["queued"] for figures in batches.values()))
                    for monitor in running.fleet.monitors.values():
                        latencies += monitor.counters.latencies
                        monitor.counters.latencies.clear()
                used, span = process.cpu_times(), time.monotonic() - begun
                report(running, latencies, span, (used.user + used.system) - (cpu.user + cpu.system))
                half = max(1, len(queued) // 2)
                first, second = statistics.mean(queued[:half]), statistics.mean(queued[-half:])
                print(f"  queued: {first:.1f} in the first half, {second:.1f} in the second, most {max(queued)}")
                now = process.memory_info().rss
                each = (now - alone) / 1e6 / max(1, streams - 1)
                print(
                    f"  memory: {(now - before) / 1e6:.0f} MB for the service and its streams, {each:.1f} MB for each "
                    "added stream, its ring for evidence full"
                )


def report(running: Service, latencies: list[float], span: float, cpu: float) -> None:
    monitors = running.fleet.monitors.values()
    ordered = sorted(latencies)
    dropped: dict[str, int] = {}
    for monitor in monitors:
        for reason, count in monitor.counters.dropped.items():
            dropped[reason.value] = dropped.get(reason.value, 0) + count
    print(f"{len(monitors)} streams of 720p25, one face each, 2 analysed frames a second, {span:.0f} s:")
    print(
        f"  capture to score: p50 {ordered[len(ordered) // 2]:.3f} s, p95 {ordered[int(0.95 * len(ordered))]:.3f} s, "
        f"max {ordered[-1]:.3f} s over {len(ordered)} frames ({len(ordered) / span:.1f} a second)"
    )
    print(
        f"  CPU: {cpu / span:.2f} cores in all, {cpu / span / len(monitors):.3f} a stream; dropped: {dropped or 'none'}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    print(describe())
    asyncio.run(efficiency(args.repeats))
    asyncio.run(service(args.streams, args.seconds))


if __name__ == "__main__":
    main()
