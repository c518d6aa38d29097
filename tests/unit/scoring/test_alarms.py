"""From faces to alerts, without engine and clock: what a whole stream makes the default rules say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from skimage import data

from streamwatch.alerts.rules import RuleEngine
from streamwatch.config import AlertSettings, ScoringSettings
from streamwatch.domain import AlertEvent, Box, Face, FaceScore, Frame, FrameScores, Image, StreamState
from streamwatch.scoring.stream import Levelling, StreamScoring
from tests.fakes.records import instant, status

PORTRAIT: Image = np.asarray(data.astronaut(), dtype=np.uint8)
FACE = Box(172.0, 68.0, 276.0, 190.0)


class Chain:
    """A stream of one face, seen `fps` times a second, as its monitor publishes it; the rules are looked at each
    second."""

    def __init__(self, fps: float) -> None:
        ids = map(str, itertools.count(1))
        self.scoring = StreamScoring("lobby", ScoringSettings(), Levelling(0.7, None, fps))
        self.rules = RuleEngine(AlertSettings(), hysteresis=0.05, new_id=lambda: next(ids))
        self.events: list[AlertEvent] = self.rules.on_status(status(0.0, StreamState.LIVE))
        self._fps, self._seq, self._published = fps, 0, 0.0

    def run(self, seconds: float, logit: float | None) -> list[tuple[str, str]]:
        """(phase, rule) of all that was said. `logit` None: each score expires."""
        for second in range(round(seconds)):
            while self._seq / self._fps < second:
                self._frame(logit)
            if second - self._published >= max(1.0, 1.5 / self._fps):
                self.events += self.rules.on_score(self.scoring.tick(instant(second)))
                self._published = second
            self.events += self.rules.on_tick(instant(second))
        return [(e.phase.value, e.after.rule) for e in self.events]

    def _frame(self, logit: float | None) -> None:
        at = instant(self._seq / self._fps)
        frame = Frame("lobby", self._seq, at, None, PORTRAIT)
        self._seq += 1
        _, accepted = self.scoring.observe(frame, [Face(FACE, 0.9)])
        if logit is not None:
            scores = tuple(FaceScore(face, logit, {"a": logit}) for face in accepted)
            self.events += self.rules.on_score(self.scoring.conclude(FrameScores(frame, scores, at)))
            self._published = at.mono


@pytest.mark.parametrize("logit", [float("nan"), None], ids=["no number", "expired"])
def test_a_live_stream_that_is_never_scored_is_reported(logit: float | None) -> None:
    assert Chain(2.0).run(60, logit) == [("opened", "stream-stale")]


@pytest.mark.parametrize("fps", [2.0, 0.5, 0.15, 0.1])
def test_a_face_that_stays_fake_is_one_alert_at_whatever_rate(fps: float) -> None:
    """At the pacer's floor ten seconds lie between two records: they are no silence."""
    assert Chain(fps).run(1200, 3.0) == [("opened", "deepfake")]
