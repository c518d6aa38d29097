"""What was last seen of each stream, kept in memory and bounded, so that an alert can show what led to it.

Scores for as long as the stream's own window (longer where it is seldom looked at) and the rolls; of pictures only the
newest few faces and the worst of each track, and none at all where `store_frames` is `never`. Nothing of it reaches the
disk without an alert."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from streamwatch.domain import FaceScore, FrameScores, StreamScore

MAX_WINDOW = 600.0
"""Seconds of scores before an alert that are kept at most, however seldom a stream is looked at."""
WINDOW = 10.0
"""The window of a record that does not say its own."""
MARGIN = 5.0
"""Seconds beyond window and rolls, until a bundle that is due comes to be written."""
MAX_RATE = 240
"""Scores a second that are kept: as often as a stream may be looked at, so that nothing of the window is missing."""
MAX_FACES = 12
"""Crops kept for each track besides its worst; one is about 150 kB."""
MAX_TRACKS = 8
"""Tracks of a stream whose crops are kept: those seen last."""


@dataclass(frozen=True, slots=True, eq=False)
class SeenFace:
    """A scored face with its crop, and when it was captured (Unix seconds)."""

    wall: float
    scored: FaceScore


@dataclass(slots=True)
class _Track:
    newest: deque[SeenFace] = field(default_factory=lambda: deque(maxlen=MAX_FACES))
    worst: SeenFace | None = None

    def add(self, seen: SeenFace, oldest: float) -> None:
        self.newest.append(seen)
        if self.worst is not None and self.worst.wall < oldest:
            self.worst = max(self.newest, key=lambda f: f.scored.logit)
        if self.worst is None or seen.scored.logit >= self.worst.scored.logit:
            self.worst = seen

    def faces(self) -> list[SeenFace]:
        return [*self.newest, *([self.worst] if self.worst and self.worst not in self.newest else [])]


@dataclass(slots=True)
class _Stream:
    window: float = WINDOW
    scores: deque[dict[str, Any]] = field(default_factory=deque)
    tracks: OrderedDict[int | None, _Track] = field(default_factory=OrderedDict)


class Recent:
    """Scores and the worst face are kept for a stream's window, at least `pre_roll` seconds, and `post_roll` longer."""

    def __init__(self, pre_roll: float, post_roll: float) -> None:
        self._pre_roll = pre_roll
        self._post_roll = post_roll
        self._streams: dict[str, _Stream] = {}

    def observe(self, score: StreamScore, scores: FrameScores | None, pictures: bool) -> None:
        stream = self._streams.setdefault(score.stream, _Stream())
        stream.window = WINDOW if score.window is None else score.window
        stream.scores.append(score_record(score, scores))
        kept = self._back(stream) + self._post_roll + MARGIN
        # By the clock that nobody sets: a wall clock that is set back would keep everything until it has caught up.
        while stream.scores[0]["monotonic"] < score.at.mono - kept or len(stream.scores) > kept * MAX_RATE:
            stream.scores.popleft()
        if scores is None or not pictures:
            return
        for scored in scores.faces:
            if scored.crop is not None:
                track = stream.tracks.setdefault(scored.face.track, _Track())
                track.add(SeenFace(scores.frame.captured_at.wall, scored), score.at.wall - kept)
                stream.tracks.move_to_end(scored.face.track)
        while len(stream.tracks) > MAX_TRACKS:
            stream.tracks.popitem(last=False)

    def forget(self, stream: str) -> None:
        self._streams.pop(stream, None)

    def led_to(self, stream: str, at: float) -> list[dict[str, Any]]:
        """The records of what a verdict at wall time `at` rests on, in order. To be asked then: the window becomes
        shorter when the stream is looked at more often, which a suspicion brings about."""
        known = self._streams.get(stream)
        return self.scores(stream, at - self._back(known), at) if known else []

    def scores(self, stream: str, after: float, until: float) -> list[dict[str, Any]]:
        """Records between two wall times, in order; none of the first moment itself."""
        known = self._streams.get(stream)
        return [r for r in known.scores if after < r["at"] <= until] if known else []

    def faces(self, stream: str, tracks: Iterable[int]) -> dict[str, SeenFace]:
        """`worst` and `typical` (nearest to the median) of the faces in memory; of the given tracks alone,
        or of all where none is given: evidence must never show somebody else."""
        known = self._streams.get(stream)
        if known is None:
            return {}
        wanted: list[int | None] = [*tracks] or [*known.tracks]
        chosen = [face for track in wanted if track in known.tracks for face in known.tracks[track].faces()]
        if not chosen:
            return {}
        middle = median(f.scored.logit for f in chosen)
        return {
            "worst": max(chosen, key=lambda f: f.scored.logit),
            "typical": min(chosen, key=lambda f: abs(f.scored.logit - middle)),
        }

    def _back(self, stream: _Stream) -> float:
        return max(self._pre_roll, min(stream.window, MAX_WINDOW))


def score_record(score: StreamScore, scores: FrameScores | None) -> dict[str, Any]:
    """One line of `scores.json`: the window's verdict, its tracks, and what each member said of each face of the
    frame."""
    return {
        "at": score.at.wall,
        "monotonic": score.at.mono,
        "seq": score.seq,
        "verdict": score.verdict.value,
        "reason": score.reason.value if score.reason else None,
        "score": score.score,
        "threshold": score.threshold,
        "coverage": score.coverage,
        "tracks": [
            {
                "track": t.track,
                "box": [round(v, 1) for v in t.box],
                "score": t.score,
                "verdict": t.verdict.value,
                "coverage": t.coverage,
                "members": dict(t.members),
            }
            for t in score.tracks
        ],
        "faces": [_face_record(f) for f in scores.faces] if scores else [],
    }


def _face_record(scored: FaceScore) -> dict[str, Any]:
    face = scored.face
    return {
        "track": face.track,
        "logit": scored.logit,
        "members": dict(scored.members),
        "quality": dict(face.quality.measures) if face.quality else {},
    }
