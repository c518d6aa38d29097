"""`streamwatch rules tune --false-alarms-per-hour X`: the lowest threshold that the recorded hours can answer for.

The records are taken to show real people alone, so every alert is a false one. (From a service's history, `--history`,
alerts that an operator confirmed are left out.) What T hours cannot prove is refused: without a single false alarm they
leave a rate of 3 / T possible.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamwatch.config import AlertSettings, Config, RuleSettings, load
from streamwatch.errors import ConfigError
from streamwatch.replay.past import Past
from streamwatch.replay.records import Record, read
from streamwatch.replay.simulate import Simulation, upper_bound

GRIDS = {
    "window": tuple(round(0.30 + 0.01 * i, 2) for i in range(70)),
    "cusum": tuple(float(v) for v in range(10, 305, 5)),
}
Source = Callable[[], Iterable[Record]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One threshold on all records. `bound` is the rate per scored hour that cannot be excluded (95 %)."""

    threshold: float
    alarms: int
    hours: float

    @property
    def bound(self) -> float:
        return upper_bound(self.alarms, self.hours)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", type=Path, nargs="*", help="recorded by `streamwatch tail --json`")
    parser.add_argument("--false-alarms-per-hour", type=float, required=True, metavar="X")
    parser.add_argument("--rules", type=Path, metavar="CONFIG", help="a configuration file; default: the default rules")
    parser.add_argument("--rule", default="deepfake", help="name of the rule to tune (default: %(default)s)")
    parser.add_argument("--history", action="store_true", help="take the scores from the history of CONFIG")
    parser.add_argument("--days", type=float, default=7.0, help="of the history (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    config = load(args.rules, environ={})
    rule = config.alerts.rules.get(args.rule)
    if rule is None or rule.kind not in GRIDS:
        raise ConfigError(f"--rule {args.rule}: is no window or cusum rule of the configuration")
    if not args.false_alarms_per_hour > 0:
        raise ConfigError("--false-alarms-per-hour: must be greater than 0")
    source = _source(args, config, rule)
    trials = tune(source, rule, config, args.false_alarms_per_hour)
    return _report(trials, args.rule, rule, args.false_alarms_per_hour)


def tune(source: Source, rule: RuleSettings, config: Config, wanted: float) -> list[Trial]:
    """The thresholds that were tried, by bisection: alarms fall as the threshold rises. The last one tried is the
    highest; the lowest whose bound keeps to `wanted` is the answer, if there is one."""
    grid = GRIDS[rule.kind]
    trials = {len(grid) - 1: _try(source, rule, config, grid[-1])}
    if trials[len(grid) - 1].bound > wanted:
        return list(trials.values())
    low, high = -1, len(grid) - 1  # high keeps to it, low does not
    while high - low > 1:
        middle = (low + high) // 2
        trials[middle] = _try(source, rule, config, grid[middle])
        low, high = (low, middle) if trials[middle].bound <= wanted else (middle, high)
    return [trials[i] for i in sorted(trials)]


def _try(source: Source, rule: RuleSettings, config: Config, threshold: float) -> Trial:
    tried = rule.model_copy(update={"threshold": threshold, "release": None, "enabled": True})
    settings = AlertSettings(rules={"rule": tried})
    canaries = {
        name for other in config.alerts.rules.values() if other.kind == "canary" for name in other.streams or ()
    }
    # A canary is fake by turns on purpose: its alarms are not false, and its hours prove nothing.
    records = (record for record in source() if record.stream not in canaries)
    outcome = Simulation(settings, config.scoring).feed(records)
    return Trial(threshold, len(outcome.opened), outcome.scored_hours)


def _source(args: argparse.Namespace, config: Config, rule: RuleSettings) -> Source:
    if args.history == bool(args.scores):
        raise ConfigError("rules tune: give either files of scores or --history")
    if not args.history:
        paths: Sequence[Path] = args.scores
        return lambda: read(paths)
    if rule.kind == "cusum":
        raise ConfigError("rules tune: the history keeps no single frames; record them with `streamwatch tail --json`")
    return Past(config.history, args.days)


def _report(trials: Sequence[Trial], name: str, rule: RuleSettings, wanted: float) -> int:
    hours = trials[0].hours
    floor = upper_bound(0, hours)
    print(f"{hours:.2f} scored hours; without any false alarm they prove at best {floor:.3g} per hour (3/T, 95 %)")
    for trial in trials:
        print(f"  threshold {trial.threshold:g}: {trial.alarms} alarms, at most {trial.bound:.3g} per hour (95 %)")
    if floor > wanted:
        need = upper_bound(0, 1.0) / wanted
        print(
            f"refused: {wanted:g} per hour needs at least {need:.0f} scored hours without a false alarm",
            file=sys.stderr,
        )
        return 1
    fitting = [t for t in trials if t.bound <= wanted]
    if not fitting:
        print(f"refused: no threshold keeps below {wanted:g} per hour on these records", file=sys.stderr)
        return 1
    best = fitting[0]
    print(f"alerts:\n  rules:\n    {name}:\n      kind: {rule.kind}\n      threshold: {best.threshold:g}")
    return 0
