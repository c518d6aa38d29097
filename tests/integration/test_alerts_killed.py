"""kill -9 at random moments while alerts open and resolve: none lost, none out of order, the evidence verifies."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from streamwatch.alerts.chain import CHAIN, read
from streamwatch.alerts.payload import event_key
from streamwatch.alerts.verify import verify
from streamwatch.domain import AlertEvent, AlertPhase
from streamwatch.history.rows import alert_of
from streamwatch.history.schema import alert_events
from streamwatch.history.store import History
from tests.fakes.alert_process import history_settings
from tests.fakes.webhook import Receiver, webhook_receiver

ROOT = Path(__file__).parents[2]


def start(directory: Path, receiver: Receiver, *mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fakes.alert_process", str(directory), receiver.url, *mode]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    except BaseException:  # the limit of the test too: what it started must not outlive it
        process.kill()
        process.wait()
        raise
    return process


def finish(process: subprocess.Popen[str], timeout: float) -> int:
    with process:
        return process.wait(timeout)


async def recorded(directory: Path) -> dict[str, list[str]]:
    """alert -> keys of its events, in order, as the database has them."""
    history = History(history_settings(directory))
    events: dict[str, list[str]] = {}
    async with history.scores._database.reading() as connection:
        rows = await connection.execute(select(alert_events).order_by(alert_events.c.alert_id, alert_events.c.sequence))
        for row in rows.mappings():
            event = AlertEvent(AlertPhase(row["phase"]), None, alert_of(row["after"]))
            events.setdefault(row["alert_id"], []).append(event_key(event))
    assert await history.alerts.active() == []
    await history.close()
    return events


@pytest.mark.parametrize(
    "kills",
    [
        2,
        pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
        pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_killed_at_random_moments(tmp_path: Path, kills: int) -> None:
    moments = random.Random(kills)
    with webhook_receiver() as receiver:
        for _ in range(kills):
            process = start(tmp_path, receiver)
            time.sleep(moments.uniform(0.05, 1.2))
            process.send_signal(signal.SIGKILL)
            assert finish(process, 10) == -signal.SIGKILL
        assert finish(start(tmp_path, receiver, "drain"), 60) == 0
        requests = list(receiver.requests)
    expected = asyncio.run(recorded(tmp_path))
    assert len(expected) > kills, "the process opened too few alerts for this to say anything"
    told: dict[str, list[str]] = {}
    for request in requests:
        for alert in request.json["alerts"]:
            events = told.setdefault(alert["labels"]["alert_id"], [])
            if alert["annotations"]["event"] not in events:  # at least once: the same event may come again
                events.append(alert["annotations"]["event"])
    assert told == expected
    assert verify(tmp_path / "evidence").bundles >= len(expected)
    sealed = {link.alert for link in read(tmp_path / "evidence" / CHAIN)}
    assert expected.keys() <= sealed, "an alert without evidence"
