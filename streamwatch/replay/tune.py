"""`streamwatch rules tune --false-alarms-per-hour X`: the lowest threshold that the recorded hours can answer for.

The records are taken to show real people alone, so every alert is a false one. (From a service's history, `--history`,
alerts that an operator confirmed are left out.) What T hours cannot prove is refused: without a single false alarm they
leave a rate of 3 / T possible. A threshold at which the rule hardly opens because it hardly closes is refused
too. What is printed is a configuration: the rule as it was tried, and what it was tried on as comments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from streamwatch.config import AlertSettings, Config, RuleSettings, ScoringSettings, load
from streamwatch.errors import ConfigError
from streamwatch.replay.past import Past
from streamwatch.replay.records import Record, read
from streamwatch.replay.simulate import Simulation, Watched, upper_bound

GRIDS = {
    "window": tuple(round(0.30 + 0.01 * i, 2) for i in range(70)),
    "cusum": tuple(float(v) for v in range(10, 305, 5)),
}
LASTING = 60.0
"""Seconds in alarm for each false alarm that is wanted, at most: a rule that stays in alarm is blind to what comes
meanwhile, however seldom it opens. By the rate, so that one stream in alarm for ever shows among hundreds."""
Source = Callable[[], Iterable[Record]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One threshold on all records. `hours` are scored ones, of `streams`; `in_alarm` is a share of them."""

    threshold: float
    alarms: int
    hours: float
    in_alarm: float
    streams: tuple[str, ...]

    @property
    def bound(self) -> float:
        """The rate per scored hour that cannot be excluded (95 %)."""
        return upper_bound(self.alarms, self.hours)

    def keeps_to(self, wanted: float) -> bool:
        return self.bound <= wanted and self.in_alarm <= wanted * LASTING / 3600.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """The thresholds that were tried, rising, and the one to take; None: the records allow none."""

    trials: Sequence[Trial]
    best: Trial | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", type=Path, nargs="*", help="recorded by `streamwatch tail --json`")
    parser.add_argument("--false-alarms-per-hour", type=float, required=True, metavar="X")
    parser.add_argument("--rules", type=Path, metavar="CONFIG", help="a configuration file; default: the default rules")
    parser.add_argument("--rule", default="deepfake", help="name of the rule to tune (default: %(default)s)")
    parser.add_argument("--history", action="store_true", help="take the scores from the history of CONFIG")
    parser.add_argument("--days", type=float, default=7.0, help="of the history (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    config = load(args.rules)
    rule = config.alerts.rules.get(args.rule)
    if rule is None or rule.kind not in GRIDS:
        raise ConfigError(f"--rule {args.rule}: is no window or cusum rule of the configuration")
    if not args.false_alarms_per_hour > 0:
        raise ConfigError("--false-alarms-per-hour: must be greater than 0")
    source = _source(args, config, rule)
    tuning = tune(source, args.rule, config, args.false_alarms_per_hour)
    if isinstance(source, Past) and source.thinned_hours:
        _say(
            f"{source.thinned_hours:.2f} older scored hours are left out: the history keeps one row a minute of what is"
            f" older than history.downsample_after_hours ({config.history.downsample_after_hours:g})"
        )
    return _report(tuning, args.rule, rule, args.false_alarms_per_hour)


def tune(source: Source, name: str, config: Config, wanted: float) -> Tuning:
    """The lowest threshold of the rule `name` that keeps to `wanted` false alarms per hour, as all above it do.

    A rule that stays silent at one threshold stays silent at every higher one, so where silence begins is found by
    bisection. Below that nothing is certain (an alarm that never closes is a single one): each step is tried.
    """
    rule = config.alerts.rules[name]
    grid, watched = GRIDS[rule.kind], watched_by(config, name)
    trials: dict[int, Trial] = {}

    def trial(step: int) -> Trial:
        if step not in trials:
            trials[step] = _try(source, rule, config.scoring, grid[step], watched)
        return trials[step]

    top = len(grid) - 1
    if upper_bound(0, trial(top).hours) > wanted:
        return Tuning([trial(top)], None)
    low, silent = -1, top if trial(top).alarms == 0 else top + 1
    while silent - low > 1:
        middle = (low + silent) // 2
        low, silent = (low, middle) if trial(middle).alarms == 0 else (middle, silent)
    best = None
    for step in range(min(silent, top), -1, -1):
        if not trial(step).keeps_to(wanted):
            break
        best = trial(step)
    return Tuning([trials[step] for step in sorted(trials)], best)


def watched_by(config: Config, name: str) -> Callable[[str], bool]:
    """Whether a stream is judged by the threshold of the rule `name`: one with a rule of its own is not. A canary is
    fake by turns on purpose: its alarms are not false, and its hours prove nothing."""
    rules = config.alerts.rules
    canaries = {stream for rule in rules.values() if rule.kind == "canary" for stream in rule.streams or ()}
    own = {stream for stream, changes in config.alerts.overrides.items() if name in changes}
    only = rules[name].streams
    return lambda stream: stream not in canaries | own and (only is None or stream in only)


def _try(
    source: Source, rule: RuleSettings, scoring: ScoringSettings, threshold: float, watched: Callable[[str], bool]
) -> Trial:
    records = (record for record in source() if watched(record.stream))
    outcome = Simulation(AlertSettings(rules={"rule": _with(rule, threshold)}), scoring).feed(records)
    time = outcome.rules.get("rule", Watched())
    share = time.in_alarm / time.hours if time.hours else 0.0
    return Trial(threshold, len(outcome.opened), time.hours, share, tuple(sorted(outcome.hours)))


def _with(rule: RuleSettings, threshold: float) -> RuleSettings:
    """The rule as it is tried. A release of before may lie above the threshold."""
    return rule.model_copy(update={"threshold": threshold, "release": None, "enabled": True})


def _source(args: argparse.Namespace, config: Config, rule: RuleSettings) -> Source:
    if args.history == bool(args.scores):
        raise ConfigError("rules tune: give either files of scores or --history")
    if not args.history:
        paths: Sequence[Path] = args.scores
        return lambda: read(paths)
    if rule.kind == "cusum":
        raise ConfigError("rules tune: the history keeps no single frames; record them with `streamwatch tail --json`")
    return Past(config.history, args.days, watched_by(config, args.rule))


def _report(tuning: Tuning, name: str, rule: RuleSettings, wanted: float) -> int:
    hours, streams = tuning.trials[0].hours, tuning.trials[0].streams
    floor = upper_bound(0, hours)
    of = ", ".join(streams) if 0 < len(streams) <= 4 else f"{len(streams)} streams"
    _say(
        f"{hours:.2f} scored hours of {of}; without any false alarm they prove at best {floor:.3g} per hour (3/T, 95 %)"
    )
    for trial in tuning.trials:
        _say(
            f"  threshold {trial.threshold:g}: {trial.alarms} alarms, at most {trial.bound:.3g} per hour (95 %),"
            f" in alarm {3600.0 * trial.in_alarm:.3g} s an hour"
        )
    if tuning.best is not None:
        tuned = _with(rule, tuning.best.threshold).model_dump(mode="json", by_alias=True)
        print(yaml.safe_dump({"alerts": {"rules": {name: tuned}}}, sort_keys=False), end="")
        return 0
    why = f"no threshold keeps below {wanted:g} per hour on these records, and in alarm for no more than"
    why += f" {wanted * LASTING:g} s an hour"
    if floor > wanted:
        need = upper_bound(0, 1.0) / wanted
        why = f"{wanted:g} per hour needs at least {need:.0f} scored hours without a false alarm"
    print(f"refused: {why}", file=sys.stderr)
    return 1


def _say(text: str) -> None:
    """A comment of the configuration that is printed."""
    print(f"# {text}")
