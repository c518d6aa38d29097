"""Timelines of frame scores with known onsets: simulated, or stitched from the real clips of STREAMWATCH_DATA_DIR."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamwatch.config import DeviceSettings, ScoringSettings
from streamwatch.domain import Frame, FrameScores, Instant
from streamwatch.inference.engine import EngineSettings, LocalEngine
from streamwatch.observer import NullObserver
from streamwatch.protocols import FindOptions
from streamwatch.scoring.stream import Levelling, StreamScoring
from streamwatch.training.clips import Clip, Sampling, read_clips, read_frames

Floats = NDArray[np.float64]
PAUSE = 60.0
"""Seconds between two pieces of a timeline: longer than any window, hold or cooldown, so that pieces do not touch."""
LIMIT = 40
"""Frames of one clip at most."""


@dataclass(frozen=True)
class Piece:
    """One face: logits at a steady rate, NaN where the frame had no usable face; fake from `onset` seconds on, if at
    all."""

    logits: Floats
    onset: float | None = None


@dataclass(frozen=True)
class Timeline:
    fps: float
    pieces: tuple[Piece, ...]

    @property
    def real_hours(self) -> float:
        """Scored hours of real faces."""
        frames = sum(np.isfinite(p.logits[: self._real(p)]).sum() for p in self.pieces)
        return float(frames) / self.fps / 3600.0

    @property
    def onsets(self) -> int:
        return sum(p.onset is not None for p in self.pieces)

    def _real(self, piece: Piece) -> int | None:
        return None if piece.onset is None else int(piece.onset * self.fps)


def correlated(rng: np.random.Generator, count: int, fps: float, tau: float, deviation: float) -> Floats:
    """A first-order autoregressive process with correlation time `tau` seconds, the same at every rate."""
    keep = np.exp(-1.0 / (fps * tau))
    noise = rng.normal(0.0, deviation * np.sqrt(1.0 - keep**2), count)
    values = np.empty(count)
    values[0] = rng.normal(0.0, deviation)
    for i in range(1, count):
        values[i] = keep * values[i - 1] + noise[i]
    return values


def simulated(fps: float, hours: float, fakes: int, seed: int = 1) -> Timeline:
    """People of two minutes each, with an offset of their own, slow wander, frame noise and bursts of glitches; fakes
    of a minute after half a minute of the same person's real face."""
    rng = np.random.default_rng(seed)
    pieces = [Piece(_person(rng, fps, 120.0, fake_from=None)) for _ in range(int(hours * 30))]
    pieces += [Piece(_person(rng, fps, 90.0, fake_from=30.0), 30.0) for _ in range(fakes)]
    return Timeline(fps, tuple(pieces))


def _person(rng: np.random.Generator, fps: float, seconds: float, fake_from: float | None) -> Floats:
    count = int(seconds * fps)
    logits = -2.0 + rng.normal(0.0, 0.5) + correlated(rng, count, fps, 6.0, 0.7) + rng.normal(0.0, 0.6, count)
    if fake_from is not None:
        logits[int(fake_from * fps) :] += 3.5 + rng.normal(0.0, 1.0)
    for _ in range(rng.poisson(seconds / 600.0)):  # six glitches an hour, a second on average
        start = int(rng.uniform(0, count))
        logits[start : start + max(1, int(rng.exponential(1.0) * fps))] += 4.0
    return logits


def thinned(timeline: Timeline, fps: float) -> Timeline:
    """The same pieces at a lower rate: every frame that a sampler of that rate would have taken."""
    step = timeline.fps / fps
    pieces = (Piece(p.logits[np.arange(0, len(p.logits), step).astype(int)], p.onset) for p in timeline.pieces)
    return Timeline(fps, tuple(pieces))


# --- real clips ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clips:
    """Which clips (`most` 0: all; those with a fake counterpart first), where their scores are kept, threads of
    torch."""

    data: Path
    cache: Path
    most: int = 0
    threads: int = 1


def stitched(source: Clips, fps: float, hours: float) -> tuple[Timeline, float]:
    """(pieces of real clips and of real clips that turn into their fake, the hours of different real footage in them).

    A clip is shorter than the rules need, so it is played forth and back. Scores are kept, by weight set.
    """
    source.cache.mkdir(parents=True, exist_ok=True)
    clips = read_clips(source.data / "clips" / "clips.csv")
    faked = {c.group for c in clips if c.label == 1}
    clips = sorted(clips, key=lambda c: c.group not in faked)[: source.most or None]
    logits = asyncio.run(_scored(clips, source.cache, fps, source.threads))
    rng = np.random.default_rng(3)
    reals = [c for c in clips if c.label == 0 and np.isfinite(logits[c.name]).sum() >= 10]
    pieces = []
    for fake in (c for c in clips if c.label == 1):
        pairs = [c for c in reals if c.group == fake.group] or reals
        real = pairs[int(rng.integers(len(pairs)))]
        before, after = _played(logits[real.name], 30.0, fps), _played(logits[fake.name], 60.0, fps)
        pieces.append(Piece(np.concatenate([before, after]), 30.0))
    minutes = (reals[i % len(reals)].name for i in range(int(hours * 60)))
    pieces.extend(Piece(_played(logits[name], 60.0, fps)) for name in minutes)
    unique = sum(np.isfinite(logits[c.name]).sum() for c in reals) / fps / 3600.0
    return Timeline(fps, tuple(pieces)), float(unique)


def _played(logits: Floats, seconds: float, fps: float) -> Floats:
    there_and_back = np.concatenate([logits, logits[::-1]])
    return np.resize(there_and_back, int(seconds * fps))


async def _scored(clips: list[Clip], cache: Path, fps: float, threads: int) -> dict[str, Floats]:
    settings = EngineSettings(device=DeviceSettings(devices=("cpu",), threads=threads))
    async with LocalEngine(settings, NullObserver()) as engine:
        kept = cache / f"clips-{engine.weights.hash[:12]}-{fps:g}.json"
        known: dict[str, list[float | None]] = json.loads(kept.read_text()) if kept.exists() else {}
        for clip in clips:
            if clip.name not in known:
                known[clip.name] = [v async for v in _clip_logits(engine, clip, fps)]
                kept.write_text(json.dumps(known))
    return {name: np.array([np.nan if v is None else v for v in values]) for name, values in known.items()}


async def _clip_logits(engine: LocalEngine, clip: Clip, fps: float) -> AsyncIterator[float | None]:
    """The logit of the largest good face of each frame, None where there is none: the way of the service, its gate
    included."""
    scoring = StreamScoring(clip.name, ScoringSettings(), Levelling(engine.threshold, None, fps))
    for seq, (at, image) in enumerate(_pictures(clip, fps)):
        frame = Frame(clip.name, seq, Instant(at, at), at, image)
        faces = await engine.find(frame, FindOptions(), time.monotonic() + 600)
        _, todo = scoring.observe(frame, faces)
        scores = await engine.score(frame, todo, time.monotonic() + 600)
        scoring.conclude(FrameScores(frame, scores, frame.captured_at))
        largest = max(scores, key=lambda s: s.face.box.height, default=None)
        yield None if largest is None else round(largest.logit, 4)


def _pictures(clip: Clip, fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    for at, picture in read_frames(clip.path, Sampling(rate=fps, limit=LIMIT)):
        if clip.region is None:
            yield at, picture
        else:
            x0, y0, x1, y1 = clip.region
            yield at, np.ascontiguousarray(picture[y0:y1, x0:x1])
