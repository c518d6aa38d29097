"""`streamwatch replay scores.jsonl --rules config.yaml`: the alerts that the rules would have opened."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from streamwatch.config import load
from streamwatch.domain import Alert
from streamwatch.replay.records import read
from streamwatch.replay.simulate import Outcome, Simulation, Watched, upper_bound


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", type=Path, nargs="+", help="recorded by `streamwatch tail --json`")
    parser.add_argument("--rules", type=Path, metavar="CONFIG", help="a configuration file; default: the default rules")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    config = load(args.rules)
    outcome = Simulation(config.alerts, config.scoring).feed(read(args.scores))
    print(json.dumps(_document(outcome), indent=1) if args.json else "\n".join(_lines(outcome)))
    return 0


def _lines(outcome: Outcome) -> list[str]:
    lines = [_line(alert, outcome.closed.get(alert.id)) for alert in outcome.opened]
    hours = outcome.scored_hours
    lines.append(f"{outcome.records} records of {len(outcome.hours)} scored streams, {hours:.2f} scored hours")
    alerts = Counter(a.rule for a in outcome.opened)
    rules = sorted({*alerts, *outcome.rules})
    return [*lines, *(_rate(rule, alerts[rule], outcome.rules.get(rule, Watched())) for rule in rules)]


def _rate(rule: str, alerts: int, watched: Watched) -> str:
    said = f"{rule}: {alerts} alerts in {watched.hours:.2f} scored hours of its streams"
    if not watched.hours:
        return said
    bound = upper_bound(alerts, watched.hours)
    share = watched.in_alarm / watched.hours
    return f"{said}, {alerts / watched.hours:.2f} an hour, at most {bound:.2f} (95 %); in alarm {share:.1%} of them"


def _line(alert: Alert, closed: Alert | None) -> str:
    lasted = f"{closed.updated_at.wall - alert.opened_at.wall:6.1f} s" if closed else "  open  "
    return f"{_clock(alert)}  {alert.rule:<16} {alert.stream:<16} {alert.severity.value:<8} {lasted}  {alert.summary}"


def _document(outcome: Outcome) -> dict[str, object]:
    return {
        "records": outcome.records,
        "scored_hours": outcome.hours,
        "rules": {
            name: {"scored_hours": watched.hours, "in_alarm_hours": watched.in_alarm}
            for name, watched in outcome.rules.items()
        },
        "alerts": [
            {
                "rule": a.rule,
                "stream": a.stream,
                "kind": a.kind.value,
                "severity": a.severity.value,
                "opened_at": _clock(a),
                "seconds": outcome.closed[a.id].updated_at.wall - a.opened_at.wall if a.id in outcome.closed else None,
                "value": a.value,
                "threshold": a.threshold,
                "summary": a.summary,
            }
            for a in outcome.opened
        ],
    }


def _clock(alert: Alert) -> str:
    return datetime.fromtimestamp(alert.opened_at.wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
