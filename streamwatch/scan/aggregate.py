"""From the faces of a file's frames to one score and verdict. Pure.

DF-Spot's formula for its sets: the mean over the members of sigmoid(mean over frames of the logit), on the best face
of each frame. Ours: faces that stay in place are one person, a person's score is the quality-weighted trimmed mean of
the fused logits, and the file's is its worst person's.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamwatch.domain import Box, FaceScore, Quality, UnknownReason, Verdict, sigmoid
from streamwatch.scoring.verdicts import disagree
from streamwatch.scoring.window import WindowScore, trimmed_weights

TRIM = 0.1
CONFIRMED_FRAMES = 3
"""A person counts from so many accepted frames on (or from the most that any has, in shorter material)."""
REACH = 0.75
"""Box heights that a face may move between two analysed frames and still be the same person."""
FORGET_FRAMES = 100
"""A face that comes back after so many analysed frames is a new person."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a file is judged. `seed` takes DF-Spot's formulas; `disagreement` None: members may disagree."""

    threshold: float
    seed: bool = False
    suspect_margin: float = 0.1
    disagreement: float | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    score: float | None
    reason: UnknownReason | None = None
    members: Mapping[str, float] = field(default_factory=dict)
    person: int | None = None


@dataclass(slots=True, eq=False)
class _Person:
    """A face that stays in place: its last box and frame; accepted logits as flat arrays (some 50 bytes a frame)."""

    box: Box
    seen: int
    logits: array[float] = field(default_factory=lambda: array("d"))
    weights: array[float] = field(default_factory=lambda: array("d"))
    members: dict[str, array[float]] = field(default_factory=dict)

    def add(self, scored: FaceScore, weight: float) -> None:
        self.logits.append(scored.logit)
        self.weights.append(weight)
        for name, value in scored.members.items():
            self.members.setdefault(name, array("d")).append(value)

    def score(self) -> WindowScore:
        kept = trimmed_weights(np.array(self.logits), np.array(self.weights), TRIM)
        kept /= kept.sum()
        members = {name: float(kept @ np.array(values)) for name, values in self.members.items()}
        return WindowScore(float(kept @ np.array(self.logits)), members)


class Tally:
    """Takes one frame after the other, and gives the file's judgement at the end."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._people: list[_Person] = []
        self._sums: dict[str, float] = {}
        self.frames = self.frames_with_face = self.faces = self.gated = 0

    def add(self, faces: Sequence[FaceScore], qualities: Sequence[Quality]) -> list[int]:
        """One frame's faces, best first; returns the person that each belongs to."""
        self.frames += 1
        self.faces += len(faces)
        self.frames_with_face += bool(faces)
        if faces:
            for name, value in faces[0].members.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        people = self._assign([scored.face.box for scored in faces])
        for scored, quality, person in zip(faces, qualities, people, strict=True):
            if quality.gate is None:
                self._people[person].add(scored, quality.weight)
            else:
                self.gated += 1
        return people

    def people(self) -> list[dict[str, float]]:
        """Those who were scored, worst first."""
        rows = [
            {"person": index, "score": sigmoid(person.score().logit), "frames": len(person.logits)}
            for index, person in enumerate(self._people)
            if len(person.logits)
        ]
        return sorted(rows, key=lambda row: -row["score"])

    def judge_video(self) -> Judgement:
        return self._judge_seed_video() if self._rules.seed else self._judge_people()

    def judge_image(self) -> Judgement:
        """One frame was added. DF-Spot's rule for images cuts the score to four decimals, and 0.3 itself is real."""
        if not self._rules.seed:
            return self._judge_people()
        judged = self._judge_seed_video()
        if judged.score is None:
            return judged
        cut = int(judged.score * 10_000) / 10_000
        verdict = Verdict.REAL if cut <= self._rules.threshold else Verdict.FAKE
        return Judgement(verdict, judged.score, members=judged.members)

    def _judge_seed_video(self) -> Judgement:
        if not self.frames_with_face:
            return Judgement(Verdict.UNKNOWN, None, UnknownReason.NO_FACE)
        members = {name: sigmoid(total / self.frames_with_face) for name, total in self._sums.items()}
        score = sum(members.values()) / len(members)
        verdict = Verdict.REAL if score < self._rules.threshold else Verdict.FAKE
        return Judgement(verdict, score, members=members)

    def _judge_people(self) -> Judgement:
        counts = [len(person.logits) for person in self._people]
        most = max(counts, default=0)
        if not most:
            reason = UnknownReason.LOW_QUALITY if self.gated else UnknownReason.NO_FACE
            return Judgement(Verdict.UNKNOWN, None, reason)
        confirmed = [index for index, count in enumerate(counts) if count >= min(CONFIRMED_FRAMES, most)]
        worst, window = max(
            ((index, self._people[index].score()) for index in confirmed), key=lambda item: item[1].logit
        )
        score = sigmoid(window.logit)
        members = {name: sigmoid(value) for name, value in window.members.items()}
        if disagree(window, self._rules.threshold, self._rules.disagreement):
            return Judgement(Verdict.UNKNOWN, score, UnknownReason.DISAGREEMENT, members, worst)
        return Judgement(self._level(score), score, None, members, worst)

    def _level(self, score: float) -> Verdict:
        if score >= self._rules.threshold:
            return Verdict.FAKE
        return Verdict.SUSPECT if score >= self._rules.threshold - self._rules.suspect_margin else Verdict.REAL

    def _assign(self, boxes: Sequence[Box]) -> list[int]:
        """Nearest first; a face without a person in reach is a new one."""
        pairs = sorted(
            (distance, face, person)
            for face, box in enumerate(boxes)
            for person, known in enumerate(self._people)
            if self.frames - known.seen <= FORGET_FRAMES and (distance := _distance(box, known.box)) < REACH
        )
        taken: dict[int, int] = {}
        for _, face, person in pairs:
            if face not in taken and person not in taken.values():
                taken[face] = person
        for face, box in enumerate(boxes):
            if face not in taken:
                taken[face] = len(self._people)
                self._people.append(_Person(box, self.frames))
            self._people[taken[face]].box, self._people[taken[face]].seen = box, self.frames
        return [taken[face] for face in range(len(boxes))]


def _distance(a: Box, b: Box) -> float:
    """Between centres, in heights of the larger; infinite where one is more than twice the other."""
    larger, smaller = max(a.height, b.height), min(a.height, b.height)
    if smaller <= 0 or larger > 2 * smaller:
        return float("inf")
    dx, dy = (a.x0 + a.x1 - b.x0 - b.x1) / 2, (a.y0 + a.y1 - b.y0 - b.y1) / 2
    return float(np.hypot(dx, dy)) / larger
