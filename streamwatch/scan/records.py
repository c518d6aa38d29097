"""What a scan says, in the form in which it is written: plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from streamwatch.domain import FaceScore, Quality, sigmoid

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """One face of one frame. Scores 0 to 1, logits calibrated; `person` numbers the faces that stay in place."""

    box: tuple[float, float, float, float]
    confidence: float
    score: float
    logit: float
    members: Mapping[str, float]
    member_logits: Mapping[str, float]
    weight: float
    gate: str | None
    quality: Mapping[str, float]
    person: int = 0

    @classmethod
    def of(cls, scored: FaceScore, quality: Quality, person: int) -> FaceRecord:
        return cls(
            box=tuple(round(value, 1) for value in scored.face.box),  # type: ignore[arg-type]  # a Box has four
            confidence=round(scored.face.confidence, 4),
            score=scored.score,
            logit=scored.logit,
            members={name: sigmoid(value) for name, value in scored.members.items()},
            member_logits=dict(scored.members),
            weight=quality.weight,
            gate=quality.gate,
            quality={name: round(float(value), 3) for name, value in quality.measures.items()},
            person=person,
        )

    def to_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One analysed frame: its index in the file, seconds from the start, faces best first."""

    index: int
    time: float
    faces: tuple[FaceRecord, ...]

    def to_json(self) -> Json:
        return {"frame": self.index, "time": round(self.time, 4), "faces": [face.to_json() for face in self.faces]}

    @classmethod
    def from_json(cls, values: Json) -> FrameRecord:
        faces = tuple(FaceRecord(**{**face, "box": tuple(face["box"])}) for face in values["faces"])
        return cls(values["frame"], values["time"], faces)


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file's row. `verdict` is real, suspect, fake or unknown (then with a reason), or error; `score` None where
    nothing could be scored. `details` holds a FrameRecord a line."""

    path: str
    kind: str
    key: str
    verdict: str
    score: float | None = None
    reason: str | None = None
    error: str | None = None
    warning: str | None = None
    threshold: float | None = None
    members: Mapping[str, float] = field(default_factory=dict)
    people: tuple[Json, ...] = ()
    frames_analysed: int = 0
    frames_with_face: int = 0
    faces: int = 0
    media: Json = field(default_factory=dict)
    weights: Json = field(default_factory=dict)
    details: str | None = None
    report: str | None = None
    annotated: str | None = None
    seconds: float = 0.0

    @property
    def prediction(self) -> str:
        """The word of the seed's files: real or fake, where there is one to say."""
        if self.error is not None:
            return f"error: {self.error}"
        return "real" if self.verdict == "suspect" else self.verdict

    @property
    def shown_path(self) -> str:
        """The path for people: a name that is no Unicode cannot be printed as it is."""
        return self.path.encode("utf-8", "replace").decode("utf-8")

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Json) -> FileResult:
        return cls(**{**values, "people": tuple(values["people"])})
