"""Alert events and a dispatcher with real sinks, for tests of how they leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from streamwatch.alerts.dispatcher import Dispatcher
from streamwatch.alerts.sinks import make_sinks
from streamwatch.config import SinkSettings
from streamwatch.domain import Alert, AlertEvent, AlertKind, AlertPhase, Instant, Severity
from streamwatch.protocols import AlertStore
from tests.fakes.webhook import Receiver


@asynccontextmanager
async def dispatching(store: AlertStore, sinks: Mapping[str, object], **options: Any) -> AsyncIterator[Dispatcher]:
    settings = {name: SinkSettings.model_validate(sink) for name, sink in sinks.items()}
    made = make_sinks(settings)
    dispatcher = Dispatcher(store, {n: (made[n], settings[n]) for n in settings}, **options)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await dispatcher.stop()


def hook(receiver: Receiver) -> dict[str, object]:
    """The settings of one webhook sink."""
    return {"hook": {"kind": "webhook", "url": receiver.url}}


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def now() -> Instant:
    return Instant(time.monotonic(), time.time())


def opened(name: str, stream: str = "lobby", severity: Severity = Severity.CRITICAL) -> AlertEvent:
    at = now()
    alert = Alert(
        id=name,
        kind=AlertKind.DEEPFAKE,
        rule="deepfake",
        stream=stream,
        severity=severity,
        opened_at=at,
        updated_at=at,
        value=0.9,
        peak=0.9,
        threshold=0.7,
        summary=f"Face 1 on {stream}",
        labels={"site": "hq"},
    )
    return AlertEvent(AlertPhase.OPENED, None, alert)


def resolved(event: AlertEvent) -> AlertEvent:
    at = now()
    return AlertEvent(AlertPhase.RESOLVED, event.after, replace(event.after, updated_at=at, resolved_at=at))
