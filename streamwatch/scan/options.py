"""What a scan was asked to do."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamwatch.config import DetectorSettings, DeviceSettings, EnsembleSettings
from streamwatch.inference.engine import EngineSettings, LocalEngine
from streamwatch.inference.ensemble import CropOptions
from streamwatch.inference.weights import MANIFEST, find_set, read_manifest, store_directory
from streamwatch.inference.weights_import import ORIGINAL_BLAZEFACE

Format = Literal["csv", "json", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "json", "jsonl", "parquet")
FRAMES_IN_FLIGHT = 8
"""Frames of one file that may be on their way at once: enough for full batches, little enough for 4K."""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """`frames_per_video` None: all. `device` as in `device.devices`. `jobs` files are worked on at once."""

    paths: tuple[Path, ...]
    output: Path
    weights: str = "bundled"
    members: tuple[str, ...] | None = None
    device: str = "auto"
    threads: int = 0
    frames_per_video: int | None = 32
    face_policy: Literal["scale", "tight"] = "scale"
    face_size: int = 224
    threshold: float | None = None
    annotate: bool = False
    annotate_format: Literal["mp4", "avi"] = "mp4"
    best_face_only: bool = False
    report: bool = True
    jobs: int = 2
    formats: tuple[Format, ...] = ("csv", "json", "jsonl")

    def engine_settings(self) -> EngineSettings:
        """Raises WeightsError or ConfigError where the set is not there."""
        seed = find_set(self.weights).is_seed
        in_flight = self.jobs * FRAMES_IN_FLIGHT
        return EngineSettings(
            # A full queue is not an error here, the frames in flight bound it: 64 faces a frame at most.
            device=DeviceSettings(devices=(self.device,), threads=self.threads, max_queue=in_flight * 64),
            detector=DetectorSettings(weights=_original_detector() if seed else None),
            ensemble=EnsembleSettings(weights=self.weights, members=self.members, threshold=self.threshold),
            crop=CropOptions(self.face_policy, self.face_size),
            seed_detection=seed,
        )

    def fingerprint(self, engine: LocalEngine) -> str:
        """Equal where a file's result would be the same: what decides on scores, and what is written beside them."""
        decisive = [
            engine.weights.hash, engine.threshold, self.frames_per_video, self.face_policy, self.face_size,
            self.annotate, self.annotate_format, self.best_face_only, self.report,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def _original_detector() -> Path | None:
    """The detector that DF-Spot used, where it was imported."""
    store = store_directory()
    if not (store / MANIFEST).is_file():
        return None
    record = read_manifest(store).detectors.get(ORIGINAL_BLAZEFACE)
    return store / record.file if record is not None else None
