"""From a window's score to a verdict, with hysteresis and with the reasons to give none. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from streamwatch.config import ScoringSettings
from streamwatch.domain import UnknownReason, Verdict, sigmoid
from streamwatch.scoring.window import WindowScore

_ORDER = {Verdict.UNKNOWN: 0, Verdict.REAL: 1, Verdict.SUSPECT: 2, Verdict.FAKE: 3}


@dataclass(frozen=True, slots=True)
class Levels:
    """Where a score becomes SUSPECT and FAKE, 0 to 1. Down again only `hysteresis` below."""

    fake: float
    suspect: float
    hysteresis: float

    @classmethod
    def of(cls, threshold: float, settings: ScoringSettings) -> Levels:
        return cls(threshold, max(0.0, threshold - settings.suspect_margin), settings.hysteresis)

    def verdict(self, score: float, before: Verdict) -> Verdict:
        """A verdict holds until the score has fallen by the hysteresis below the level that gave it."""
        held = _ORDER[before]
        if score >= self.fake - (self.hysteresis if held >= _ORDER[Verdict.FAKE] else 0.0):
            return Verdict.FAKE
        if score >= self.suspect - (self.hysteresis if held >= _ORDER[Verdict.SUSPECT] else 0.0):
            return Verdict.SUSPECT
        return Verdict.REAL


@dataclass(frozen=True, slots=True)
class Counts:
    """What a track's window holds. `young`: the track began less than a window ago."""

    accepted: int
    gated: int
    coverage: float
    young: bool = False


def unknown_reason(counts: Counts, settings: ScoringSettings) -> UnknownReason | None:
    """Why the window is too thin for a verdict, or None where it is not."""
    covered = counts.coverage >= settings.min_coverage
    if counts.accepted < settings.min_frames:
        if counts.gated > counts.accepted:
            return UnknownReason.LOW_QUALITY
        # Few because few were to come (a window that has just become shorter) is no failure; few for want of scores is.
        return UnknownReason.WARMING_UP if counts.young or covered else UnknownReason.STALE
    if not covered:
        return UnknownReason.LOW_QUALITY if counts.gated else UnknownReason.STALE
    return None


def disagree(window: WindowScore, threshold: float, limit: float | None) -> bool:
    """True where the members' window logits lie further apart than `limit` (the 99th percentile on validation reals;
    None: never) *and* the verdict hangs on one of them: without it the others' mean is on the other side of the
    threshold. Members that all say fake agree, however strongly each says so; and one that objects to the rest without
    changing what they say leaves no doubt about the verdict."""
    if limit is None or window.spread <= limit:
        return False
    values = list(window.members.values())
    is_fake = sigmoid(window.logit) >= threshold
    rest = ((sum(values) - value) / (len(values) - 1) for value in values)
    return any((sigmoid(logit) >= threshold) is not is_fake for logit in rest)
