"""The engine: faces and scores for frames of many streams, on every device at once. Implements `protocols.Engine`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from streamwatch.config import DetectorSettings, DeviceSettings, EnsembleSettings
from streamwatch.domain import Face, FaceScore, Frame, Image
from streamwatch.errors import Expired
from streamwatch.inference.batcher import Batcher, LaneLimits
from streamwatch.inference.devices import choose_devices, device_name, host_image, torch_threads
from streamwatch.inference.ensemble import CropOptions, Cropper, make_cropper
from streamwatch.inference.faces import Detection
from streamwatch.inference.models import DETECT, SCORE, CropScore, DeviceModels, FrameJob, ModelPlan, detector_source
from streamwatch.inference.tiles import TILINGS
from streamwatch.inference.weights import find_set
from streamwatch.inference.worker import DeviceWorker
from streamwatch.observer import Observer
from streamwatch.protocols import FindOptions

log = logging.getLogger(__name__)

FRAMES_PER_FACE = 4
"""A detector batch takes a quarter as many frames as a scoring batch takes faces: a frame has several tiles."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The configuration's slices that concern the engine."""

    device: DeviceSettings = field(default_factory=DeviceSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    crop: CropOptions = field(default_factory=CropOptions)
    seed_detection: bool = False
    """Find faces as DF-Spot did, for its checkpoints: its tiles and threshold, no limits but the number of faces."""


class LocalEngine:
    """All devices of this machine behind one pair of queues. `async with` starts and stops it.

    Starting loads and warms the networks (seconds) and raises WeightsError, DeviceError or ConfigError. Stopping lets
    running batches end, fails waiting work with DeviceError, joins every thread and raises again what ended one.
    """

    def __init__(self, settings: EngineSettings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._devices = choose_devices(settings.device.devices)
        self.weights = find_set(settings.ensemble.weights).choose(settings.ensemble.members)
        self._plan = ModelPlan(
            detector_source(settings.detector),
            None if settings.seed_detection else TILINGS[settings.detector.tiles],
            self.weights,
            settings.device.dtype,
            settings.crop.size,
        )
        self._batcher = Batcher(_lanes(settings.device), observer)
        self._models = [DeviceModels(name, self._plan, observer) for name in self._devices]
        self._workers = [
            DeviceWorker(models.device, models.build, self._batcher, torch_threads(settings.device, models.device))
            for models in self._models
        ]
        self._crop: Cropper | None = None
        # Crops are cut beside the device threads, so that the next batch is ready when a device is free.
        self._croppers = ThreadPoolExecutor(max_workers=max(1, min(4, len(self._devices))), thread_name_prefix="crop")

    async def __aenter__(self) -> LocalEngine:
        try:
            for worker in self._workers:
                await asyncio.wrap_future(worker.start())  # one after another: loading is memory- and disk-bound
            self._crop = make_cropper(self.weights, self._models[0].crop_size, self._settings.crop)
        except BaseException:
            await self._stop(quiet=True)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def threshold(self) -> float:
        """The configured threshold, else the weight set's own."""
        configured = self._settings.ensemble.threshold
        return self.weights.record.threshold if configured is None else configured

    async def find(self, frame: Frame, options: FindOptions, deadline: float) -> tuple[Face, ...]:
        """Faces of the frame, best first, within `options`."""
        (future,) = self._batcher.submit(DETECT, [FrameJob(host_image(frame.image), options)], deadline)
        found: list[Detection] = await asyncio.wrap_future(future)
        return tuple(Face(face.box, face.score, face.keypoints) for face in found)

    async def score(self, frame: Frame, faces: Sequence[Face], deadline: float) -> tuple[FaceScore, ...]:
        """One score for each face, in order."""
        if not faces:
            return ()
        if time.monotonic() >= deadline:
            raise Expired(f"the deadline of {len(faces)} faces passed before they were cropped")
        crops = await asyncio.get_running_loop().run_in_executor(self._croppers, self._crop_all, frame.image, faces)
        futures = self._batcher.submit(SCORE, crops, deadline)
        scores: list[CropScore] = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return tuple(
            FaceScore(face, score.logit, score.members, crop, score.heat)
            for face, crop, score in zip(faces, crops, scores, strict=True)
        )

    def failing(self) -> tuple[str, ...]:
        """Devices whose thread has ended, or whose newest batches all failed."""
        return tuple(worker.name for worker in self._workers if not worker.working)

    def describe(self) -> dict[str, Any]:
        """What runs here, as plain JSON values, for the system page and the logs."""
        record = self.weights.record
        return {
            "devices": [
                {"device": m.device, "name": device_name(m.device), "dtype": m.dtypes, "alive": worker.working}
                for m, worker in zip(self._models, self._workers, strict=True)
            ],
            "weights": {
                "set": self.weights.name,
                "version": record.version,
                "hash": self.weights.hash,
                "fusion": record.fusion,
                "threshold": self.threshold,
                "threshold_basis": record.threshold_basis,
                "disagreement_p99": record.disagreement_p99,
                "figures": dict(record.figures),
                "members": [
                    {"name": member.name, "sha256": member.sha256, "figures": dict(member.figures)}
                    for member in record.members
                ],
            },
            "detector": {"file": self._plan.detector.path.name, "score_threshold": self._plan.detector.threshold},
            "batches": {lane: asdict(figures) for lane, figures in self._batcher.statistics().items()},
        }

    def _crop_all(self, image: Image, faces: Sequence[Face]) -> list[Image]:
        assert self._crop is not None, "the engine has not been started"
        begun = time.perf_counter()
        picture = host_image(image)
        crops = [self._crop(picture, face.box) for face in faces]
        self._observer.stage("crop", time.perf_counter() - begun)
        return crops

    async def _stop(self, *, quiet: bool = False) -> None:
        self._batcher.close()
        self._croppers.shutdown(wait=False, cancel_futures=True)
        errors = []
        for worker in self._workers:
            try:
                await asyncio.to_thread(worker.join)
            except Exception as error:
                log.error("the device %s had failed: %r", worker.name, error)
                errors.append(error)
        if errors and not quiet:
            raise errors[0]


def _lanes(settings: DeviceSettings) -> tuple[LaneLimits, LaneLimits]:
    wait = settings.max_wait_ms / 1000
    frames = max(1, settings.max_batch // FRAMES_PER_FACE)
    return (
        LaneLimits(DETECT, frames, settings.max_queue, wait),
        LaneLimits(SCORE, settings.max_batch, settings.max_queue, wait),
    )
