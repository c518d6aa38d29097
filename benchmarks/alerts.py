"""The alert rules against one another at the same false-alarm rate: how many fakes they find, and how soon.

    python -m benchmarks.alerts                      simulated scores
    python -m benchmarks.alerts --clips [--hours 1]  the real clips of STREAMWATCH_DATA_DIR, with the bundled weights

Four rules: a single frame over 0.3, as DF-Spot decides; a single frame, its threshold set like the others'; the
window's trimmed mean; CUSUM. Each threshold is the lowest one that gives at most `--rate` false alarms per scored
hour of the real faces of the same run. The alarms that are told are those of the real rule engine on the real window.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.alert_sequences import PAUSE, Clips, Timeline, simulated, stitched, thinned
from streamwatch.alerts.conditions import CUSUM_CAP, CUSUM_CLIP, CUSUM_MAX_STEP, CUSUM_UNIT
from streamwatch.alerts.rules import RuleEngine
from streamwatch.config import AlertSettings, ScoringSettings
from streamwatch.domain import AlertPhase, Box, Instant, StreamScore, TrackScore, Verdict, sigmoid
from streamwatch.replay.simulate import upper_bound
from streamwatch.scoring.verdicts import Counts, unknown_reason
from streamwatch.scoring.window import Rate, Sample, TrackWindow, trimmed_mean

COOLDOWN = 30.0
WITHIN = (5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Rule:
    """`make` gives the settings of the rule at a threshold; `frames` replaces the window's score by the newest
    frame's."""

    name: str
    make: Callable[[float], dict[str, object]]
    frames: bool = False
    grid: Sequence[float] = ()


RULES = (
    Rule("single frame, 0.3", lambda t: {"kind": "window", "threshold": 0.3, "release": 0.3}, frames=True),
    Rule(
        "single frame",
        lambda t: {"kind": "window", "threshold": t, "release": t},
        frames=True,
        grid=tuple(sigmoid(v) for v in np.arange(-4.0, 12.0, 0.1)),
    ),
    Rule(
        "window, 10 s",
        lambda t: {"kind": "window", "threshold": t, "for": 1.0},
        grid=tuple(sigmoid(v) for v in np.arange(-4.0, 8.0, 0.05)),
    ),
    Rule("CUSUM", lambda t: {"kind": "cusum", "threshold": t, "drift": 0.0}, grid=tuple(np.arange(5.0, 400.0, 2.5))),
)


@dataclass(frozen=True)
class Result:
    threshold: float
    false_alarms: int
    hours: float
    delays: tuple[float, ...]
    onsets: int
    already: int
    """fakes at whose onset the rule was in alarm, falsely: it finds nothing new in them"""

    def found(self, seconds: float) -> float:
        return sum(d <= seconds for d in self.delays) / max(1, self.onsets)


def records(timeline: Timeline, frames: bool, settings: ScoringSettings) -> list[list[StreamScore]]:
    """What the scoring room says of each piece: the same window, trimming, coverage and reasons."""
    said, start = [], 0.0
    length = max(settings.window, 10.0 / timeline.fps)
    for number, piece in enumerate(timeline.pieces, start=1):
        window, rate = TrackWindow(start), Rate(timeline.fps)
        scores = []
        for i, logit in enumerate(piece.logits):
            at = start + (i + 1) / timeline.fps
            known = math.isfinite(logit)
            if known:
                window.add(Sample(at, float(logit), 1.0, {}))
            else:
                window.gate(at, "size")
            window.prune(at - length)
            counts = Counts(len(window.samples), len(window.gated), window.coverage(at, length, rate))
            score = None
            if frames:
                score = sigmoid(float(logit)) if known else None
            elif unknown_reason(counts, settings) is None:
                score = sigmoid(trimmed_mean(window.samples, settings.trim).logit)
            scores.append(_record(number, at, score, float(logit) if known else None))
        said.append(scores)
        start += len(piece.logits) / timeline.fps + PAUSE
    return said


def _record(track: int, at: float, score: float | None, logit: float | None) -> StreamScore:
    verdict = Verdict.UNKNOWN if score is None else Verdict.REAL
    face = TrackScore(track, Box(0, 0, 100, 120), score, verdict, None, 1.0, 1.0, True, {}, True, logit)
    return StreamScore("s", int(at * 100), Instant(at, at), verdict, None, score, 0.7, 1.0, (face,), worst_track=track)


def judged(timeline: Timeline, said: Sequence[Sequence[StreamScore]], rule: Rule, threshold: float) -> Result:
    """The real engine over all pieces. An alarm on a real face is a false one; a fake is found by the first alarm
    after its onset."""
    ids = itertools.count()
    options = {**rule.make(threshold), "cooldown": COOLDOWN}
    engine = RuleEngine(
        AlertSettings.model_validate({"rules": {"rule": options}}), hysteresis=0.05, new_id=lambda: str(next(ids))
    )
    false_alarms, already, delays = 0, 0, []
    for piece, scores in zip(timeline.pieces, said, strict=True):
        begun = scores[0].at.mono - 1.0 / timeline.fps
        onset = math.inf if piece.onset is None else begun + piece.onset
        found, began = None, False
        for score in scores:
            if score.at.mono > onset and not began:
                began = True
                already += bool(engine.active)
            for event in engine.on_score(score):
                if event.phase is not AlertPhase.OPENED:
                    continue
                if score.at.mono <= onset:
                    false_alarms += 1
                elif found is None:
                    found = score.at.mono - onset
        if found is not None:
            delays.append(found)
        engine.remove("s", scores[-1].at.shifted(1.0))  # the next piece is another person
    return Result(threshold, false_alarms, timeline.real_hours, tuple(delays), timeline.onsets, already)


def peaks(timeline: Timeline, said: Sequence[Sequence[StreamScore]], rule: Rule) -> list[float]:
    """The highest value that the rule's quantity reaches on each real face. A threshold just above all but k of them
    gives about k false alarms: it starts the search."""
    found = []
    for piece, scores in zip(timeline.pieces, said, strict=True):
        count = len(scores) if piece.onset is None else int(piece.onset * timeline.fps)
        if rule.name == "CUSUM":
            found.append(_cusum_peak([s.tracks[0].logit for s in scores[:count]], 1.0 / timeline.fps))
        else:
            found.append(max((s.score for s in scores[:count] if s.score is not None), default=0.0))
    return found


def _cusum_peak(logits: Sequence[float | None], dt: float) -> float:
    state = peak = 0.0
    step = min(dt, CUSUM_MAX_STEP) / CUSUM_UNIT
    for logit in logits:
        if logit is not None:
            state = min(CUSUM_CAP * 400.0, max(0.0, state + max(-CUSUM_CLIP, min(CUSUM_CLIP, logit)) * step))
            peak = max(peak, state)
    return peak


def calibrated(timeline: Timeline, said: Sequence[Sequence[StreamScore]], rule: Rule, rate: float) -> Result:
    """The lowest threshold of the grid with at most `rate` false alarms per scored hour."""
    allowed = int(rate * timeline.real_hours)
    highest = sorted(peaks(timeline, said, rule), reverse=True)
    # A piece may alarm more than once, so the threshold lies above the (allowed + 1)st highest peak, or somewhat
    # above that.
    floor = highest[min(allowed, len(highest) - 1)]
    low = next((i for i, t in enumerate(rule.grid) if t > floor), len(rule.grid) - 1)
    high = len(rule.grid) - 1
    best = judged(timeline, said, rule, rule.grid[low])
    if best.false_alarms <= allowed:
        return best
    while high - low > 1:
        middle = (low + high) // 2
        result = judged(timeline, said, rule, rule.grid[middle])
        low, high = (low, middle) if result.false_alarms <= allowed else (middle, high)
        best = result if result.false_alarms <= allowed else best
    return best


def table(timelines: Sequence[Timeline], rate: float) -> None:
    print(
        "\n| rate | rule | threshold | false alarms /h (95 % bound) | in alarm | 5 s | 10 s | 30 s | delay p50 | p90 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for timeline in timelines:
        said = {frames: records(timeline, frames, ScoringSettings()) for frames in (False, True)}
        for rule in RULES:
            scores = said[rule.frames]
            result = calibrated(timeline, scores, rule, rate) if rule.grid else judged(timeline, scores, rule, 0.3)
            print(_row(f"{timeline.fps:g} fps", rule, result), flush=True)


def _row(label: str, rule: Rule, result: Result) -> str:
    found = " | ".join(f"{result.found(s):.0%}" for s in WITHIN)
    p50, p90 = (f"{np.quantile(result.delays, q):.1f} s" if result.delays else "-" for q in (0.5, 0.9))
    held = f"{result.already / max(1, result.onsets):.0%}"
    alarms = f"{result.false_alarms / result.hours:.2f} ({upper_bound(result.false_alarms, result.hours):.2f})"
    return f"| {label} | {rule.name} | {result.threshold:.3g} | {alarms} | {held} | {found} | {p50} | {p90} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", action="store_true")
    parser.add_argument("--most", type=int, default=0, metavar="N", help="at most N clips, those with a fake first")
    parser.add_argument("--hours", type=float, help="of real faces (default: 20 simulated, 1 of clips)")
    parser.add_argument("--fakes", type=int, default=200, help="simulated ones")
    parser.add_argument("--rate", type=float, help="false alarms per scored hour (default: 0.2 simulated, 1 on clips)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("runs/alerts"))
    args = parser.parse_args()
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    if args.clips:
        if "STREAMWATCH_DATA_DIR" not in os.environ:
            parser.error("--clips needs STREAMWATCH_DATA_DIR, the folder that holds clips/clips.csv")
        source = Clips(Path(os.environ["STREAMWATCH_DATA_DIR"]), args.cache, args.most, args.threads)
        timeline, unique = stitched(source, 5.0, args.hours or 1.0)
        print(f"{timeline.real_hours:.2f} h of real faces, from {unique * 60:.1f} minutes of footage")
        rate = args.rate or 1.0
    else:
        timeline, rate = simulated(10.0, args.hours or 20.0, args.fakes), args.rate or 0.2
        print(f"{timeline.real_hours:.2f} h of real faces, {timeline.onsets} onsets, simulated")
    rates = (5.0, 2.0, 1.0)
    table([thinned(timeline, fps) for fps in rates], rate)


if __name__ == "__main__":
    main()
