"""Prometheus and Alertmanager as they are installed: shipped rules, configuration and board, real scrapes."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from streamwatch.domain import AlertEvent, AlertPhase, DropReason, FailureReason, StreamState, StreamStatus
from streamwatch.metrics import Metrics
from streamwatch.server.run import serving
from streamwatch.server.tokens import Scope
from tests.fakes.control import alert, build, instant, stream_score
from tests.fakes.monitoring import RULES, told, watched
from tests.fakes.people import until
from tests.fakes.webhook import webhook_receiver
from tests.require import prometheus

pytestmark = pytest.mark.prometheus
CONFIG = Path(__file__).parents[2] / "config"
TESTS = sorted(RULES.parent.glob("*_test.yml"))
RUNBOOKS = CONFIG.parent / "docs" / "runbooks.md"


def run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, check=False, cwd=RULES.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid_and_the_rules_do_as_they_should() -> None:
    promtool, amtool = prometheus("promtool", "amtool")
    run(promtool, "check", "rules", RULES)
    run(promtool, "test", "rules", *TESTS)
    run(promtool, "check", "config", RULES.with_name("prometheus.yml"))
    run(amtool, "check-config", RULES.with_name("alertmanager.yml"))


def test_the_page_and_the_rule_call_the_same_compression_hard() -> None:
    page = (CONFIG.parent / "streamwatch" / "server" / "dashboard" / "js" / "panels.js").read_text()
    said, asked = re.search(r"const HARD = (\d+);", page), re.search(r"quantiser\[\d+m\]\) > (\d+)", RULES.read_text())
    assert said is not None and asked is not None and said[1] == asked[1]


def test_the_documented_false_alarm_rate_counts_the_streams_that_are_there(tmp_path: Path) -> None:
    """A month of an hour's scores an hour: the lobby with 72 false alarms, a stream that is gone, and a canary."""
    (promtool,) = prometheus("promtool")
    text = (CONFIG.parent / "docs" / "operators.md").read_text()
    formula = re.search(r"(?m)^    (3600 \* sum.*(?:\n      .*)+)", text)
    assert formula is not None
    rule = {"record": "rate", "expr": f"round({formula[1]}, 0.001)"}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "documented", "rules": [rule]}]}))

    def scored(stream: str) -> dict[str, str]:
        return {
            "series": f'streamwatch_scored_seconds_total{{instance="a",stream="{stream}"}}',
            "values": "0+3600x720",
        }

    def reviewed(stream: str, count: int) -> dict[str, str]:
        labels = f'instance="a",stream="{stream}",review="false_alarm"'
        return {"series": f"streamwatch_alerts_by_review{{{labels}}}", "values": f"{count}x720"}

    series = [*map(scored, ("lobby", "gone", "canary")), reviewed("lobby", 72), reviewed("canary", 0)]
    expected = {"expr": "rate", "eval_time": "30d", "exp_samples": [{"labels": "rate", "value": 0.1}]}
    case = {"interval": "1h", "input_series": series, "promql_expr_test": [expected]}
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1h", "tests": [case]})
    )
    run(promtool, "test", "rules", tmp_path / "test.yml")


def test_every_alert_has_a_test_and_a_runbook() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    tested = {
        case["alertname"]
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert tested == set(alerts)
    headings = {
        f"docs/runbooks.md#{line[3:].lower()}" for line in RUNBOOKS.read_text().splitlines() if line[:3] == "## "
    }
    assert {rule["annotations"]["runbook_url"] for rule in alerts.values()} <= headings


def board_queries() -> list[str]:
    """Every query of the board, its variables filled in as Grafana would for "all"."""
    board = json.loads((CONFIG / "grafana" / "streamwatch.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries += [note["expr"] for note in board["annotations"]["list"]]
    queries += [
        re.sub(r"label_values\((.*), *\w+\)", r"\1", variable["query"]["query"])
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    return [query.replace("$instance", ".*").replace("$stream", ".*") for query in queries]


class Stream:
    """A stream whose score the test sets; everything else goes on by itself."""

    def __init__(self, metrics: Metrics) -> None:
        self.score = 0.1
        self.metrics = metrics
        self._seq = 0

    async def run(self) -> None:
        metrics = self.metrics
        while True:
            self._seq += 1
            metrics.stream_status(StreamStatus("lobby", StreamState.LIVE, instant()))
            metrics.frames_decoded("lobby", 5)
            metrics.frame_sampled("lobby")
            metrics.frame_received("lobby", instant().wall, 24.0)
            metrics.frames_dropped("lobby", DropReason.REPLACED, 1)
            metrics.reconnecting("lobby", FailureReason.TIMEOUT)
            metrics.clock_skew("lobby", 0.01)
            metrics.faces_scored("lobby", 1)
            metrics.stream_scored(stream_score("lobby", self._seq, self.score))
            metrics.capture_to_score("lobby", 0.34)
            metrics.stage("detect", 0.02)
            metrics.batch_scored("cpu", 1)
            metrics.queue_depth("ensemble", 0)
            metrics.delivery("log", "delivered")
            metrics.websocket_clients(1)
            await asyncio.sleep(0.2)


async def query(http: httpx.AsyncClient, expression: str) -> list[Any]:
    answer = (await http.get("/api/v1/query", params={"query": expression})).json()
    assert answer["status"] == "success", (expression, answer)
    found: list[Any] = answer["data"]["result"]
    return found


async def test_a_score_above_its_threshold_reaches_the_webhook_and_is_resolved_after(tmp_path: Path) -> None:
    metrics = Metrics({"version": "1", "torch": "2", "weights": "bundled"})
    auth = {"tokens": tmp_path / "tokens.json", "anonymous_loopback": False}
    services, _ = build(tmp_path, auth=auth)
    services = replace(services, metrics=metrics.exposition)
    token = services.access.tokens.create("prometheus", (Scope.METRICS,))
    stream = Stream(metrics)
    with webhook_receiver() as receiver:
        async with (
            serving(services) as address,
            watched(tmp_path, address.port, token, receiver.url) as url,
            httpx.AsyncClient(base_url=url) as http,
        ):
            running = asyncio.create_task(stream.run())
            try:
                async with asyncio.timeout(20):
                    while not await query(http, 'up{job="streamwatch"} == 1 and on() streamwatch_score_ratio'):
                        await asyncio.sleep(0.2)
                stream.score = 0.92
                metrics.alert(AlertEvent(AlertPhase.OPENED, None, alert("a1")))
                await until(lambda: bool(told(receiver, "firing")))
                fired = told(receiver, "firing")[0]
                assert (fired["labels"]["alertname"], fired["labels"]["stream"]) == ("DeepfakeSuspected", "lobby")
                assert "score 0.92" in fired["annotations"]["summary"]
                empty = board_queries()
                assert len(empty) > 30
                async with asyncio.timeout(20):
                    while empty := [each for each in empty if not await query(http, each)]:
                        await asyncio.sleep(0.5)
                stream.score = 0.1
                await until(lambda: bool(told(receiver, "resolved")))
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        names = {a["labels"]["alertname"] for status in ("firing", "resolved") for a in told(receiver, status)}
    assert names == {"DeepfakeSuspected"}
