"""The detector and the ensemble of one device, and where the detector comes from."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from streamwatch.config import DetectorSettings
from streamwatch.domain import Floats, Image
from streamwatch.errors import DeviceError, WeightsCorrupt, WeightsMissing
from streamwatch.inference.blazeface import BlazeFace, load_blazeface
from streamwatch.inference.ensemble import Ensemble, load_ensemble, probe_crops
from streamwatch.inference.faces import Detection, FaceFinder, FinderSettings, find_faces_like_seed
from streamwatch.inference.tiles import TILINGS, Tiling
from streamwatch.inference.weights import WeightSet, bundled_directory, load_tensors, read_manifest
from streamwatch.inference.worker import Handler
from streamwatch.observer import Observer
from streamwatch.protocols import FindOptions

log = logging.getLogger(__name__)

DETECT, SCORE = "detect", "score"


class FrameJob(NamedTuple):
    image: Image
    options: FindOptions


class CropScore(NamedTuple):
    """Calibrated logits of one crop, fused and by member's name; `heat` float32 (h, w) 0 to 1."""

    logit: float
    members: Mapping[str, float]
    heat: Floats | None


class DetectorSource(NamedTuple):
    """Where the detector comes from; `sha256` None for a file of the user's own."""

    path: Path
    sha256: str | None
    threshold: float

    @property
    def name(self) -> str:
        return self.path.name

    def load(self) -> BlazeFace:
        """Raises WeightsMissing or WeightsCorrupt, naming the file."""
        try:
            if self.sha256 is not None:
                return load_blazeface(load_tensors(self.path, self.sha256))
            return load_blazeface(self.path)
        except FileNotFoundError as error:
            raise WeightsMissing(f"{self.path}: is not there") from error
        except Exception as error:  # of a file that is none the libraries raise what they happen to stumble over
            what = str(error).strip().partition("\n")[0]
            raise WeightsCorrupt(f"{self.path}: is not a BlazeFace file: {what}") from error


def detector_source(settings: DetectorSettings) -> DetectorSource:
    directory = bundled_directory()
    detectors = read_manifest(directory).detectors
    if "blazeface" not in detectors:
        raise WeightsCorrupt(f"{directory / 'manifest.json'}: detectors.blazeface: is missing")
    record = detectors["blazeface"]
    threshold = record.score_threshold if settings.score_threshold is None else settings.score_threshold
    if settings.weights is None:
        return DetectorSource(directory / record.file, record.sha256, threshold)
    return DetectorSource(settings.weights, None, threshold)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What each device loads. `tiling` None finds faces as DF-Spot did; `input_size` is that of DF-Spot's networks."""

    detector: DetectorSource
    tiling: Tiling | None
    weights: WeightSet
    dtype: str
    input_size: int


class DeviceModels:
    """The detector and the ensemble on one device; built and used on its thread alone."""

    def __init__(self, device: str, plan: ModelPlan, observer: Observer) -> None:
        self.device = device
        self.dtypes: dict[str, str] = {}
        self.crop_size = 0
        self._plan = plan
        self._observer = observer
        self._finder: FaceFinder
        self._ensemble: Ensemble

    def build(self) -> Mapping[str, Handler]:
        """Loads and warms the networks. Raises WeightsError or DeviceError."""
        plan = self._plan
        settings = FinderSettings(tiling=plan.tiling or TILINGS["default"], score_threshold=plan.detector.threshold)
        self._finder = FaceFinder(plan.detector.load(), self.device, settings)
        self._ensemble = load_ensemble(plan.weights, self.device, plan.input_size)
        self.crop_size = self._ensemble.crop_size
        try:
            self.dtypes = self._ensemble.choose_dtype(plan.dtype)
            self._warm_up()
        except RuntimeError as error:
            raise DeviceError(f"{self.device}: the networks do not run on it: {error}") from error
        log.info("%s is ready: %s", self.device, self.dtypes)
        return {DETECT: self._detect, SCORE: self._score}

    def _warm_up(self) -> None:
        # The first call of a shape pays for kernel choice and memory; streams should not.
        self._finder.find([np.zeros((720, 1280, 3), np.uint8)])
        for count in (1, 4):
            self._ensemble.score(torch.from_numpy(probe_crops(count, self.crop_size)))

    def _detect(self, jobs: Sequence[FrameJob]) -> list[list[Detection]]:
        begun = time.perf_counter()
        if self._plan.tiling is None:
            found = [find_faces_like_seed(self._finder, job.image)[: job.options.max_faces] for job in jobs]
        else:
            found = self._finder.find([job.image for job in jobs], [job.options for job in jobs])
        self._observer.stage("detect", time.perf_counter() - begun)
        return found

    def _score(self, crops: Sequence[Image]) -> list[CropScore]:
        begun = time.perf_counter()
        output = self._ensemble.score(torch.from_numpy(np.stack(crops)))
        self._observer.stage("score", time.perf_counter() - begun)
        self._observer.batch_scored(self.device, len(crops))
        names = self._ensemble.names
        return [
            CropScore(
                float(output.fused[index]),
                dict(zip(names, map(float, output.members[index]), strict=True)),
                output.heat[index] if output.heat is not None else None,
            )
            for index in range(len(crops))
        ]
