"""Evidence for tests: a short stream, alerts at its end, and the bundles of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamwatch.alerts.evidence import Evidence, EvidenceOptions
from streamwatch.config import EvidenceSettings
from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    Box,
    Face,
    FaceScore,
    Frame,
    FrameScores,
    Instant,
    Severity,
)
from streamwatch.ingest.recorder import Recorder
from tests.fakes.records import stream_score

IDENTITY = {"weights": "bundled-0123", "config_sha256": "ab"}


def settings(directory: Path, **changes: Any) -> EvidenceSettings:
    return EvidenceSettings.model_validate({"directory": directory, "post_roll": 0.2, "pre_roll": 3.0, **changes})


def scored_frame(seq: int, at: Instant, logit: float) -> FrameScores:
    rng = np.random.default_rng(seq)
    frame = Frame("lobby", seq, at, None, rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    crop = np.full((64, 64, 3), seq * 10 % 255, np.uint8)
    heat = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    face = Face(Box(10, 10, 90, 90), 0.9, track=1)
    return FrameScores(frame, (FaceScore(face, logit, {"TimmV2": logit}, crop, heat),), at)


def opened(name: str, at: Instant) -> AlertEvent:
    return AlertEvent(
        AlertPhase.OPENED,
        None,
        Alert(
            id=name,
            kind=AlertKind.DEEPFAKE,
            rule="deepfake",
            stream="lobby",
            severity=Severity.CRITICAL,
            opened_at=at,
            updated_at=at,
            value=0.9,
            peak=0.9,
            threshold=0.7,
            summary="Face 1 on lobby",
            labels={"tracks": "1"},
        ),
    )


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def grey(path: Path) -> int:
    picture = cv2.imread(str(path))
    assert picture is not None
    return int(picture[0, 0, 0])


async def gather(evidence: Evidence, *names: str, recorder: Recorder | None = None, wait: bool = True) -> None:
    """Three seconds of a stream, alerts at their end, and bundles for them."""
    runner = asyncio.create_task(evidence.run())
    end = Instant(time.monotonic(), time.time())
    for i in range(15):
        at = end.shifted((i - 15) / 5)
        scores = scored_frame(i, at, logit=float(i) - 5)
        if recorder is not None:
            recorder.frame("lobby", scores.frame)
        score = stream_score(0, 0.9)
        evidence.observe(replace(score, at=at, seq=i), scores)
    for name in names:
        evidence.submit(opened(name, end))
        if wait:
            await until(lambda name=name: evidence.directories(name))  # type: ignore[misc]
    await asyncio.sleep(0)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def make(directory: Path, **changes: Any) -> Evidence:
    return Evidence(settings(directory, **changes), EvidenceOptions(lambda stream: IDENTITY))
