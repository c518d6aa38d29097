"""Send one test alert through every sink, now and without the outbox; exit code 1 where one of them fails."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from dataclasses import replace
from pathlib import Path

from streamwatch.alerts.sinks import AlertSink, make_sinks
from streamwatch.config import load
from streamwatch.domain import Alert, AlertEvent, AlertKind, AlertPhase, Instant, Severity
from streamwatch.errors import ConfigError, DeliveryFailed
from streamwatch.protocols import Delivery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, metavar="FILE")
    parser.add_argument("sinks", nargs="*", metavar="SINK", help="only these (default: all)")


def run(args: argparse.Namespace) -> int:
    settings = load(args.config).alerts.sinks
    unknown = [name for name in args.sinks if name not in settings]
    if unknown:
        raise ConfigError(*(f"alerts.sinks.{name}: there is no such sink" for name in unknown))
    sinks = make_sinks({name: s for name, s in settings.items() if not args.sinks or name in args.sinks})
    return asyncio.run(_send(sinks))


async def _send(sinks: dict[str, AlertSink]) -> int:
    opened = _test_alert()
    now = Instant(time.monotonic(), time.time())
    closed = AlertEvent(AlertPhase.RESOLVED, opened.after, replace(opened.after, updated_at=now, resolved_at=now))
    failed = 0
    for name, sink in sinks.items():
        try:
            for sequence, event in enumerate((opened, closed), start=1):
                await sink.send([Delivery(0, name, event, sequence, 0, now.wall, now.wall)])
            print(f"{name}: delivered")
        except DeliveryFailed as error:
            print(f"{name}: failed: {error}")
            failed += 1
        finally:
            await sink.close()
    return 1 if failed else 0


def _test_alert() -> AlertEvent:
    now = Instant(time.monotonic(), time.time())
    alert = Alert(
        id=f"test-{secrets.token_hex(4)}",
        kind=AlertKind.TEST,
        rule="test",
        stream="",
        severity=Severity.INFO,
        opened_at=now,
        updated_at=now,
        value=1.0,
        peak=1.0,
        threshold=1.0,
        summary="A test of StreamWatch's alerts: nothing has happened",
    )
    return AlertEvent(AlertPhase.OPENED, None, alert)
