"""Alert events on their way to real sinks: the durable outbox, order, retries, a dead sink, a lost database,
latency."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from streamwatch.alerts.rules import RuleEngine
from streamwatch.alerts.sinks import make_sinks
from streamwatch.config import AlertSettings, SinkSettings
from streamwatch.domain import AlertKind, Severity, Verdict
from streamwatch.errors import ConfigError, DeliveryFailed
from streamwatch.history.store import History
from streamwatch.observer import NullObserver
from streamwatch.protocols import Delivery
from streamwatch.results import Desk, Results
from streamwatch.server.hub import Hub
from tests.fakes.alerting import dispatching, hook, now, opened, resolved, until
from tests.fakes.records import stream_score
from tests.fakes.webhook import Receiver


async def test_a_webhook_is_signed_and_in_alertmanagers_shape(history: History, receiver: Receiver) -> None:
    sink = {"kind": "webhook", "url": receiver.url, "secret": "s3cret"}
    async with dispatching(history.alerts, {"hook": sink}) as dispatcher:
        event = opened("a1")
        dispatcher.submit(event)
        dispatcher.submit(resolved(event))
        await until(lambda: len(receiver.requests) == 2)
    first, second = receiver.requests
    assert (first.json["version"], first.json["status"], first.json["receiver"]) == ("4", "firing", "hook")
    (alert,) = first.json["alerts"]
    assert alert["labels"] == {
        "alertname": "DeepfakeSuspected",
        "alert_id": "a1",
        "rule": "deepfake",
        "severity": "critical",
        "stream": "lobby",
    }
    assert (alert["annotations"]["summary"], alert["annotations"]["site"]) == ("Face 1 on lobby", "hq")
    assert alert["endsAt"].startswith("0001-")
    assert second.json["status"] == "resolved"
    assert second.json["alerts"][0]["fingerprint"] == alert["fingerprint"]
    # The check that docs/operators.md gives to receivers.
    stamp, _, digest = first.headers["X-StreamWatch-Signature"].partition(",v1=")
    signed = stamp.removeprefix("t=").encode() + b"." + first.body
    assert hmac.compare_digest(digest, hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest())
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


async def test_a_failing_receiver_is_tried_again_in_order(history: History, receiver: Receiver) -> None:
    receiver.status = 503
    problems: list[tuple[str, str | None]] = []
    report = lambda kind, name, problem: problems.append((name, problem))  # noqa: E731
    async with dispatching(history.alerts, hook(receiver), report=report) as dispatcher:
        event = opened("a1")
        dispatcher.submit(event)
        dispatcher.submit(resolved(event))
        await until(lambda: dispatcher.statistics.failed_attempts >= 2)
        receiver.status = 200
        await until(lambda: dispatcher.statistics.delivered == 2)
    assert receiver.told == [("a1", "firing"), ("a1", "resolved")]
    deliveries = await history.alerts.deliveries("a1")
    assert [(d.sequence, d.state) for d in deliveries] == [(1, "delivered"), (2, "delivered")]
    assert deliveries[0].attempts >= 3


async def test_a_dead_sink_delays_no_other_and_is_told(history: History, receiver: Receiver) -> None:
    problems: list[tuple[AlertKind, str, str | None]] = []
    sinks = {
        "dead": {"kind": "webhook", "url": "http://127.0.0.1:9/", "timeout": 1.0},
        "live": {"kind": "webhook", "url": receiver.url},
    }
    report = lambda kind, name, problem: problems.append((kind, name, problem))  # noqa: E731
    async with dispatching(history.alerts, sinks, report=report) as dispatcher:
        for i in range(5):
            dispatcher.submit(opened(f"a{i}", stream=f"cam{i}"))
        await until(lambda: len(receiver.told) == 5)
        await until(lambda: any(problem for _, _, problem in problems))
    assert next((kind, name) for kind, name, problem in problems if problem) == (AlertKind.SINK_FAILING, "dead")
    assert "http://" not in str(problems[0][2])


async def test_a_refused_body_becomes_a_dead_letter(history: History, receiver: Receiver) -> None:
    receiver.status = 422
    async with dispatching(history.alerts, hook(receiver)) as dispatcher:
        dispatcher.submit(opened("a1"))
        await until(lambda: dispatcher.statistics.dead == 1)
    (delivery,) = await history.alerts.deliveries("a1")
    assert (delivery.state, delivery.error) == ("dead", "answered 422")


async def test_what_fails_for_too_long_becomes_a_dead_letter(history: History, receiver: Receiver) -> None:
    """And holds up nothing that comes after it."""
    receiver.status = 503
    sink = {"kind": "webhook", "url": receiver.url, "give_up_after": 2.0}
    async with dispatching(history.alerts, {"hook": sink}) as dispatcher:
        event = opened("a1")
        dispatcher.submit(event)
        await until(lambda: dispatcher.statistics.dead == 1)
        assert dispatcher.statistics.failed_attempts >= 2  # it was tried again first
        receiver.status = 200
        dispatcher.submit(resolved(event))
        # The receiver has it before its answer is here.
        await until(lambda: dispatcher.statistics.delivered == 1)
        assert receiver.told == [("a1", "resolved")]
    states = [(d.state, d.error) for d in await history.alerts.deliveries("a1")]
    assert states == [("dead", "answered 503"), ("delivered", "")]


async def test_a_refused_alert_takes_no_other_of_its_notification_with_it(history: History, receiver: Receiver) -> None:
    receiver.refused = '"a2"'  # in quotes: the hashes beside it hold any two letters by chance
    sinks = hook(receiver)
    async with dispatching(history.alerts, sinks, group_wait=0.3) as dispatcher:
        for name in ("a1", "a2", "a3"):
            dispatcher.submit(opened(name))
        await until(lambda: dispatcher.statistics.delivered == 2 and dispatcher.statistics.dead == 1)
    assert receiver.told == [("a1", "firing"), ("a3", "firing")]
    (dead,) = await history.alerts.deliveries("a2")
    assert (dead.state, dead.error) == ("dead", "answered 422")


async def test_what_was_not_delivered_is_delivered_by_the_next_run(history: History, receiver: Receiver) -> None:
    receiver.status = 500
    sinks = hook(receiver)
    async with dispatching(history.alerts, sinks) as dispatcher:
        dispatcher.submit(opened("a1"))
        await until(lambda: dispatcher.statistics.failed_attempts)
    receiver.status = 200
    async with dispatching(history.alerts, sinks):
        await until(lambda: receiver.told == [("a1", "firing")])


async def test_silences_and_severity_choose_the_sinks(history: History, receiver: Receiver) -> None:
    sinks = {
        "all": {"kind": "webhook", "url": receiver.url},
        "critical": {"kind": "webhook", "url": receiver.url + "/critical", "min_severity": "critical"},
    }
    async with dispatching(history.alerts, sinks) as dispatcher:
        quiet = opened("quiet")
        dispatcher.submit(replace(quiet, after=replace(quiet.after, silenced=True)))
        dispatcher.submit(opened("small", severity=Severity.INFO))
        dispatcher.submit(opened("big"))
        await until(lambda: len(receiver.told) == 3)
    paths = sorted((r.told[0][0], r.path) for r in receiver.requests)
    assert paths == [("big", "/hook"), ("big", "/hook/critical"), ("small", "/hook")]
    assert (await history.alerts.alert("quiet")).silenced
    assert await history.alerts.deliveries("quiet") == []


async def test_alerts_of_one_stream_gather(history: History, receiver: Receiver) -> None:
    sinks = hook(receiver)
    async with dispatching(history.alerts, sinks, group_wait=0.3) as dispatcher:
        for name, stream in (("a1", "lobby"), ("a2", "lobby"), ("a3", "hall")):
            dispatcher.submit(opened(name, stream))
        await until(lambda: len(receiver.told) == 3)
    assert sorted(sorted(r.told) for r in receiver.requests) == [
        [("a1", "firing"), ("a2", "firing")],
        [("a3", "firing")],
    ]


async def test_alerts_leave_while_the_database_is_down(
    history: History, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """They go out from memory, and are in the history once it is back."""
    database = history.scores._database
    problems: list[tuple[str, str | None]] = []
    report = lambda kind, name, problem: problems.append((name, problem))  # noqa: E731
    async with dispatching(history.alerts, hook(receiver), report=report) as dispatcher:
        async with database.writing() as connection:
            await connection.execute(text("ALTER TABLE alerts RENAME TO away"))
        event = opened("a1")
        dispatcher.submit(event)
        dispatcher.submit(resolved(event))
        await until(lambda: len(receiver.told) == 2)
        assert receiver.told == [("a1", "firing"), ("a1", "resolved")]
        assert dispatcher.statistics.unrecorded == 2
        async with database.writing() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO alerts"))
        await until(lambda: dispatcher.statistics.unrecorded == 0)
        await until(lambda: problems and problems[-1] == ("outbox", None))
    assert not (await history.alerts.alert("a1")).active
    assert len(receiver.told) == 2


async def test_what_was_in_memory_survives_a_restart_once_the_database_is_back(
    history: History, receiver: Receiver
) -> None:
    """Database and receiver are down together; the database comes back first, and then the service is restarted."""
    database = history.scores._database
    receiver.status = 503
    sinks = hook(receiver)
    async with dispatching(history.alerts, sinks) as dispatcher:
        async with database.writing() as connection:
            await connection.execute(text("ALTER TABLE alerts RENAME TO away"))
        event = opened("a1")
        dispatcher.submit(event)
        dispatcher.submit(resolved(event))
        await until(lambda: dispatcher.statistics.failed_attempts >= 1)
        async with database.writing() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO alerts"))
        await until(lambda: dispatcher.statistics.unrecorded == 0)
        assert dispatcher.statistics.in_memory == 0
    seen = len(receiver.told)
    receiver.status = 200
    async with dispatching(history.alerts, sinks):
        await until(lambda: len(receiver.told) == seen + 2)
    assert receiver.told[seen:] == [("a1", "firing"), ("a1", "resolved")]


async def test_a_command_gets_the_alert_and_is_killed_when_late(history: History, tmp_path: Path) -> None:
    written = tmp_path / "alert.json"
    save = f"import sys; open({str(written)!r}, 'w').write(sys.stdin.read())"
    sinks = {
        "save": {"kind": "command", "command": [sys.executable, "-c", save]},
        "late": {"kind": "command", "command": ["sleep", "60"], "timeout": 0.2},
        "absent": {"kind": "command", "command": ["/no/such/program"]},
    }
    async with dispatching(history.alerts, sinks) as dispatcher:
        dispatcher.submit(opened("a1"))
        await until(lambda: dispatcher.statistics.delivered == 1 and dispatcher.statistics.failed_attempts >= 2)
    assert json.loads(written.read_text())["alerts"][0]["labels"]["alert_id"] == "a1"
    errors = {d.sink: d.error for d in await history.alerts.deliveries("a1")}
    assert errors["late"] == "sleep: not done within 0.2 s"
    assert errors["absent"].startswith("/no/such/program: No such file")


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise's own import
async def test_apprise_and_alertmanager_reach_their_receivers(history: History, receiver: Receiver) -> None:
    pytest.importorskip("apprise", reason="needs the extra `notify`")
    host = receiver.url.removeprefix("http://")
    sinks = {
        "chat": {"kind": "apprise", "url": f"json://{host}"},
        "am": {"kind": "alertmanager", "url": receiver.url},
    }
    async with dispatching(history.alerts, sinks) as dispatcher:
        dispatcher.submit(opened("a1"))
        await until(lambda: len(receiver.requests) == 2)
    bodies = {r.path: r.json for r in receiver.requests}
    assert bodies["/hook/api/v2/alerts"][0]["labels"]["alert_id"] == "a1"
    assert "Face 1 on lobby" in bodies["/hook"]["message"]


async def test_score_to_webhook_latency(history: History, receiver: Receiver) -> None:
    """p95 under a second from the score that caused an alert to the receiver: page, history, rules, outbox and sink are
    the service's own, and every score is written."""
    rule = {"kind": "window", "severity": "critical", "resolve_after": 0, "cooldown": 0}
    ids = itertools.count()
    rules = RuleEngine(
        AlertSettings.model_validate({"rules": {"deepfake": rule}}), hysteresis=0.05, new_id=lambda: f"a{next(ids)}"
    )
    caused: dict[str, float] = {}
    writing = asyncio.create_task(history.run())
    async with dispatching(history.alerts, hook(receiver)) as dispatcher:
        results = Results(rules, Hub(), history, Desk(dispatcher), NullObserver())
        for turn in range(40):
            for camera in range(4):
                score = replace(stream_score(0, 0.9 if turn % 4 == camera else 0.1, stream=f"cam{camera}"), at=now())
                results.score(score, None)
                if score.verdict is Verdict.FAKE:
                    caused[next(a.id for a in rules.active if a.stream == score.stream)] = score.at.wall
            await asyncio.sleep(0.05)
        await until(lambda: len(receiver.told) >= 79)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    fired = [(request.at, alert) for request in receiver.requests for alert, state in request.told if state == "firing"]
    delays = sorted(at - caused[alert] for at, alert in fired)
    assert len(delays) == len(caused) == 40
    p50, p95 = (delays[int(q * len(delays))] for q in (0.5, 0.95))
    print(f"score to webhook: p50 {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms")
    assert p95 < 1.0


async def test_a_record_that_the_database_refuses_holds_up_no_other(history: History, receiver: Receiver) -> None:
    """It leaves all the same, and is missed in the history, counted."""
    async with dispatching(history.alerts, hook(receiver)) as dispatcher:
        dispatcher.submit(replace(opened("a1"), after=replace(opened("a1").after, summary="no text: \udcff")))
        dispatcher.submit(opened("a2"))
        await until(lambda: len(receiver.told) == 2)
        assert dispatcher.statistics.unrecorded == 0
        assert dispatcher.statistics.lost == 1
    assert (await history.alerts.alert("a2")).active


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: video/x-motion-jpeg\r\n\r\n", "delivered"),
        (b"HTTP/1.1 200 OK\r\nX-Never: ", "fails"),
    ],
    ids=["pictures without end", "headers without end"],
)
async def test_an_answer_that_never_ends_holds_no_sink(history: History, first: bytes, outcome: str) -> None:
    """The URL of a camera's pictures, say: each read is quick, and there is always more to read."""
    gone, ended = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        with contextlib.suppress(ConnectionError):
            while not gone.is_set():
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = SinkSettings.model_validate({"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "timeout": 1.0})
    sink = make_sinks({"hook": settings})["hook"]
    began = time.monotonic()
    try:
        if outcome == "delivered":
            await sink.send([Delivery(1, "hook", opened("a1"), 1, 0, 0.0, 0.0)])
        else:
            with pytest.raises(DeliveryFailed):
                await sink.send([Delivery(1, "hook", opened("a1"), 1, 0, 0.0, 0.0)])
    finally:
        await sink.close()
        gone.set()
        await ended.wait()
        server.close()
    assert time.monotonic() - began < 3.0


async def test_no_secret_of_a_sink_is_logged(
    history: History, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="streamwatch")
    caplog.set_level(logging.INFO)
    sinks = {
        "hook": {"kind": "webhook", "url": receiver.url + "/T0PSECRET", "secret": "k3y"},
        "dead": {"kind": "webhook", "url": "http://user:T0PSECRET@127.0.0.1:9/T0PSECRET", "timeout": 1.0},
        "log": {"kind": "log"},
    }
    async with dispatching(history.alerts, sinks) as dispatcher:
        dispatcher.submit(opened("a1"))
        await until(lambda: dispatcher.statistics.delivered == 2 and dispatcher.statistics.failed_attempts >= 3)
    assert "opened deepfake_suspected [lobby]" in caplog.text
    assert "T0PSECRET" not in caplog.text


def test_unusable_sinks_name_their_place() -> None:
    sinks = {
        "a": SinkSettings(kind="webhook"),
        "b": SinkSettings(kind="alertmanager", url=SecretStr("ftp://host")),
        "c": SinkSettings(kind="command"),
    }
    with pytest.raises(ConfigError) as caught:
        make_sinks(sinks)
    assert caught.value.faults == (
        "alerts.sinks.a.url: is required",
        "alerts.sinks.b.url: must be an http:// or https:// address",
        "alerts.sinks.c.command: is required",
    )
