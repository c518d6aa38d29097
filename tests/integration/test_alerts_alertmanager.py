"""The alertmanager sink: what is open is told again, and every name is one that Alertmanager takes."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamwatch.alerts.payload import alertmanager
from streamwatch.domain import AlertEvent, AlertKind, Severity
from streamwatch.history.store import History
from streamwatch.observer import NullObserver
from tests.fakes.alerting import dispatching, now, opened, resolved, until
from tests.fakes.monitoring import RULES, program
from tests.fakes.ports import free_port
from tests.fakes.webhook import Receiver
from tests.require import prometheus


def labelled(event: AlertEvent, **labels: str) -> AlertEvent:
    return replace(event, after=replace(event.after, labels=labels))


def manager(url: str, **settings: str) -> dict[str, object]:
    return {"am": {"kind": "alertmanager", "url": url, **settings}}


def told(receiver: Receiver) -> list[tuple[str, bool]]:
    """(alert id, whether its end is still to come) of each alert in each request."""
    moment = now().wall
    return [
        (alert["labels"]["alert_id"], datetime.fromisoformat(alert["endsAt"]).timestamp() > moment)
        for request in list(receiver.requests)
        for alert in request.json
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"cost-center": "7"}, {"cost_center": "7"}),
        ({"7th floor": "x", "": "y", "größe": "z"}, {"_7th_floor": "x", "_": "y", "gr__e": "z"}),
        ({"a_b": "kept", "a-b": "gone"}, {"a_b": "kept"}),
        ({"summary": "not the label's"}, {}),
    ],
)
def test_names_are_what_alertmanager_takes(names: dict[str, str], expected: dict[str, str]) -> None:
    event = labelled(opened("a1"), **names)
    (alert,) = alertmanager([event.after], now().wall)
    own = {"summary": "Face 1 on lobby", "value": "0.9", "peak": "0.9", "threshold": "0.7"}
    assert alert["annotations"] == {**own, **expected}


async def test_what_is_open_is_told_again_until_it_is_resolved(history: History, receiver: Receiver) -> None:
    """And nothing that the sink was never told of."""
    sinks = manager(receiver.url, min_severity="critical")
    async with dispatching(history.alerts, sinks, renew_every=0.2) as dispatcher:
        quiet = opened("quiet")
        dispatcher.submit(replace(quiet, after=replace(quiet.after, silenced=True)))
        dispatcher.submit(opened("small", severity=Severity.WARNING))
        event = opened("a1")
        dispatcher.submit(event)
        await until(lambda: told(receiver).count(("a1", True)) >= 4)
        assert await history.alerts.pending() == 0
        assert len(await history.alerts.deliveries("a1")) == dispatcher.statistics.delivered == 1
        dispatcher.submit(resolved(event))
        await until(lambda: ("a1", False) in told(receiver))
        await asyncio.sleep(0.6)
    assert told(receiver)[-1] == ("a1", False)
    assert {alert for alert, _ in told(receiver)} == {"a1"}


async def test_a_renewal_that_fails_is_counted_and_is_no_failure_of_the_sink(
    history: History, receiver: Receiver
) -> None:
    class Counting(NullObserver):
        def __init__(self) -> None:
            self.outcomes: list[str] = []

        def delivery(self, sink: str, outcome: str) -> None:
            self.outcomes.append(outcome)

    problems: list[str | None] = []

    def report(kind: AlertKind, name: str, problem: str | None) -> None:
        if kind is AlertKind.SINK_FAILING:
            problems.append(problem)

    counting = Counting()
    options: dict[str, Any] = {"observer": counting, "report": report, "renew_every": 0.1}
    async with dispatching(history.alerts, manager(receiver.url), **options) as dispatcher:
        dispatcher.submit(opened("a1"))
        await until(lambda: receiver.requests)
        receiver.status = 500
        await until(lambda: counting.outcomes.count("not_renewed") >= 4)
        assert dispatcher.statistics.failed_attempts == 0
        receiver.status = 200
        before = len(receiver.requests)
        await until(lambda: len(receiver.requests) > before)
    assert problems == [None]


@pytest.mark.prometheus
async def test_alertmanager_knows_after_its_restart_what_is_open(history: History, tmp_path: Path) -> None:
    """Its own program; one of the alerts has a label that it would not take by that name."""
    (path,) = prometheus("prometheus-alertmanager")
    url = f"http://127.0.0.1:{free_port()}"

    def running() -> AbstractAsyncContextManager[None]:
        return program(
            path,
            f"--config.file={RULES.with_name('alertmanager.yml')}",
            f"--storage.path={tmp_path / 'manager'}",
            f"--web.listen-address={url.removeprefix('http://')}",
            "--cluster.listen-address=",
            ready=f"{url}/-/ready",
        )

    async def shown(http: httpx.AsyncClient, expected: dict[str, str | None]) -> None:
        """Waits until exactly these alerts are there, with that annotation."""
        found: dict[str, str | None] = {}
        async with asyncio.timeout(20):
            while found != expected:
                await asyncio.sleep(0.1)
                alerts = (await http.get(f"{url}/api/v2/alerts")).json()
                found = {a["labels"]["alert_id"]: a["annotations"].get("cost_center") for a in alerts}

    async with dispatching(history.alerts, manager(url), renew_every=0.5) as dispatcher, httpx.AsyncClient() as http:
        async with running():
            events = [opened("a1"), labelled(opened("a2"), **{"cost-center": "7"}), opened("a3")]
            for event in events:
                dispatcher.submit(event)
            await shown(http, {"a1": None, "a2": "7", "a3": None})
            dispatcher.submit(resolved(events[2]))
            await shown(http, {"a1": None, "a2": "7"})
        async with running():
            await shown(http, {"a1": None, "a2": "7"})
        assert dispatcher.statistics.dead == 0
