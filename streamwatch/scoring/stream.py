"""The scoring room's front door: one `StreamScoring` for each stream, from faces to its verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamwatch.config import ScoringSettings
from streamwatch.domain import (
    Face,
    FaceScore,
    Frame,
    FrameScores,
    Instant,
    StreamScore,
    TrackScore,
    UnknownReason,
    Verdict,
    sigmoid,
)
from streamwatch.scoring.quality import measure
from streamwatch.scoring.tracks import FaceTracker, appearance, scene_signature
from streamwatch.scoring.verdicts import Counts, Levels, disagree, unknown_reason
from streamwatch.scoring.window import Rate, Sample, TrackWindow, trimmed_mean

EXPECTED_FRAMES = 10
"""At low rates the window grows until it should hold so many frames."""

_SEVERITY = (Verdict.UNKNOWN, Verdict.REAL, Verdict.SUSPECT, Verdict.FAKE)


@dataclass(frozen=True, slots=True)
class Levelling:
    """What the weight set and the stream's settings say: the threshold (a score, 0 to 1), the 99th percentile of the
    members' disagreement on validation reals (logits; None: not judged), and the expected analysed frames a second."""

    threshold: float
    disagreement_p99: float | None
    fps: float


class StreamScoring:
    """Tracks, quality gate, windows and verdict of one stream.

    For each frame: `observe` the detected faces, have those it returns scored, `conclude`. A frame that was never
    scored (expired, overloaded) is simply not concluded and lowers the coverage. `tick` when time passes without
    frames."""

    def __init__(self, stream: str, settings: ScoringSettings, levelling: Levelling) -> None:
        self._stream = stream
        self._settings = settings
        self._levelling = levelling
        self._levels = Levels.of(levelling.threshold, settings)
        self._rate = Rate(levelling.fps)
        self._tracker = FaceTracker(settings.confirm_hits, settings.lost_after)
        self._windows: dict[int, TrackWindow] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._faces: dict[int, Face] = {}
        """the newest sight of each live track"""
        self._visible: frozenset[int] = frozenset()
        self._now: Instant | None = None
        self._started: Instant | None = None
        self._observed_at: Instant | None = None
        self._warming_since: float | None = None
        self._frame_size: tuple[int, int] | None = None
        self._concluded = 0
        self._cut = False
        self._last: StreamScore | None = None
        self.set_rate(levelling.fps)

    def set_rate(self, fps: float) -> None:
        """From now on `fps` analysed frames a second are expected: the lower of the sampling rate and the source's
        own."""
        self._rate.change(fps, self._now.mono if self._now else 0.0)
        self._tracker.lost_after = max(self._settings.lost_after, 2.5 / fps)
        self._length = max(self._settings.window, EXPECTED_FRAMES / fps)
        self._stale_after = max(self._settings.stale_after, 3.0 / fps)

    def succeed(self, earlier: StreamScoring) -> None:
        """Takes the place of another scoring of this stream: its faces are others, and get numbers of their own."""
        self._tracker.ids = earlier._tracker.ids

    def observe(self, frame: Frame, faces: Sequence[Face]) -> tuple[tuple[Face, ...], tuple[Face, ...]]:
        """(all faces with quality and track, those of them that are good enough to be scored). `faces` come from this
        frame."""
        now = self._advance(frame.captured_at)
        self._observed_at, self._frame_size = now, frame.size
        if self._started is None:
            self._started = now
        looks = [appearance(frame.image, f.box) for f in faces]
        update = self._tracker.update(now, faces, scene_signature(frame.image), looks)
        self._forget(update.lost)
        self._cut = self._cut or update.cut
        tagged = tuple(
            replace(f, quality=measure(frame.image, f.box, f.keypoints, self._settings, frame.quantiser))
            for f in update.faces
        )
        for face in tagged:
            assert face.track is not None
            self._faces[face.track] = face
            window = self._windows.setdefault(face.track, TrackWindow(now.mono))
            if face.quality is not None and face.quality.gate is not None:
                window.gate(now.mono, face.quality.gate)
        self._visible = frozenset(f.track for f in tagged if f.track is not None)
        return tagged, tuple(f for f in tagged if not _gated(f))

    def conclude(self, scores: FrameScores) -> StreamScore:
        """Takes in the scores of an observed frame; what the window says then. Faces of tracks that ended meanwhile
        are ignored."""
        now = self._advance(scores.frame.captured_at)
        self._concluded += 1
        newest: dict[int, FaceScore] = {}
        for scored in scores.faces:
            track, quality = scored.face.track, scored.face.quality
            if track is None or track not in self._windows or _gated(scored.face):
                continue
            if not all(map(math.isfinite, (scored.logit, *scored.members.values()))):
                continue  # a network that overflowed has said nothing; the coverage shows it
            weight = quality.weight if quality is not None else 1.0
            self._windows[track].add(Sample(now.mono, scored.logit, weight, dict(scored.members)))
            newest[track] = scored
        score = self._evaluate(now, newest)
        cut, self._cut = self._cut, False
        self._last = replace(
            score, seq=scores.frame.seq, frame_size=scores.frame.size, scored_at=scores.scored_at, scene_cut=cut
        )
        return self._last

    def tick(self, now: Instant) -> StreamScore:
        """What the window says now that time went by without a frame; UNKNOWN(stale) once it has been too long."""
        now = self._advance(now)
        self._started = self._started or now
        self._forget(self._tracker.expire(now, self._stale_after))
        score = self._evaluate(now, {})
        if now.mono - (self._observed_at or self._started).mono >= self._stale_after:
            score = _stale(score)
            self._warming_since = None  # what comes after a silence warms up anew
        score = replace(score, frame_size=self._frame_size)
        if self._last is not None:
            score = replace(score, seq=self._last.seq, scored_at=self._last.scored_at)
        return score

    def _advance(self, at: Instant) -> Instant:
        # Time never goes back, whatever a record says; an Instant sorts by its monotonic clock.
        self._now = at if self._now is None else max(at, self._now)
        return self._now

    def _forget(self, tracks: Sequence[int]) -> None:
        for track in tracks:
            self._windows.pop(track, None)
            self._verdicts.pop(track, None)
            self._faces.pop(track, None)

    def _evaluate(self, now: Instant, newest: dict[int, FaceScore]) -> StreamScore:
        for window in self._windows.values():
            window.prune(now.mono - self._length)
        tracks = tuple(self._track(track, now.mono, newest.get(track)) for track in sorted(self._windows))
        confirmed = [t for t in tracks if t.confirmed]
        known = [t for t in confirmed if t.score is not None]
        # Hysteresis is a face's own: by the score alone the stream's verdict would flicker between two of them.
        worst = max(known, key=lambda t: (_SEVERITY.index(t.verdict), t.score or 0.0), default=None)
        shown = worst or max(confirmed, key=lambda t: t.coverage, default=None)
        logits = [t.logit for t in confirmed if t.logit is not None]
        return StreamScore(
            stream=self._stream,
            seq=0,
            at=now,
            verdict=worst.verdict if worst else Verdict.UNKNOWN,
            reason=self._lasting(now.mono, None if worst else self._reason(shown, tracks)),
            gate=None if worst or shown is None else shown.gate,
            score=worst.score if worst else None,
            threshold=self._levelling.threshold,
            coverage=shown.coverage if shown else 0.0,
            tracks=tracks,
            worst_track=worst.track if worst else None,
            window=self._length,
            instant_logit=max(logits, default=None),
        )

    def _reason(self, shown: TrackScore | None, tracks: Sequence[TrackScore]) -> UnknownReason:
        if shown is not None and shown.reason is not None:
            return shown.reason
        if tracks or self._concluded < self._settings.min_frames:
            return UnknownReason.WARMING_UP
        return UnknownReason.NO_FACE

    def _lasting(self, now: float, reason: UnknownReason | None) -> UnknownReason | None:
        """Who has been warming up for a whole window, be it with ever new faces, is not being scored."""
        if reason is not UnknownReason.WARMING_UP:
            self._warming_since = None
            return reason
        if self._warming_since is None:
            self._warming_since = now
        return UnknownReason.STALE if now - self._warming_since >= self._length else reason

    def _track(self, track: int, now: float, newest: FaceScore | None) -> TrackScore:
        window, face = self._windows[track], self._faces[track]
        coverage = window.coverage(now, self._length, self._rate)
        young = now - window.started < self._length
        reason = unknown_reason(Counts(len(window.samples), len(window.gated), coverage, young), self._settings)
        said = trimmed_mean(window.samples, self._settings.trim) if window.samples else None
        if reason is None and said and disagree(said, self._levelling.threshold, self._levelling.disagreement_p99):
            reason = UnknownReason.DISAGREEMENT
        score = sigmoid(said.logit) if said is not None and reason is None else None
        verdict = Verdict.UNKNOWN
        if score is not None:
            verdict = self._levels.verdict(score, self._verdicts.get(track, Verdict.UNKNOWN))
            self._verdicts[track] = verdict
        return TrackScore(
            track=track,
            box=face.box,
            score=score,
            verdict=verdict,
            reason=reason,
            gate=window.usual_gate if reason is UnknownReason.LOW_QUALITY else None,
            coverage=coverage,
            quality=face.quality.weight if face.quality else 1.0,
            confirmed=self._tracker.confirmed(track),
            members={name: sigmoid(logit) for name, logit in said.members.items()} if said else {},
            visible=track in self._visible,
            logit=newest.logit if newest else None,
        )


def _gated(face: Face) -> bool:
    return face.quality is not None and face.quality.gate is not None


def _stale(score: StreamScore) -> StreamScore:
    stale = UnknownReason.STALE
    tracks = tuple(
        replace(t, score=None, verdict=Verdict.UNKNOWN, reason=stale, gate=None, visible=False) for t in score.tracks
    )
    return replace(
        score,
        verdict=Verdict.UNKNOWN,
        reason=stale,
        gate=None,
        score=None,
        tracks=tracks,
        worst_track=None,
        coverage=0.0,
    )
