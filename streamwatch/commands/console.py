"""A line a second in the terminal for each stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from streamwatch.app import Service
from streamwatch.domain import StreamScore, StreamStatus


def print_scores(service: Service) -> Callable[[], Awaitable[None]]:
    """A task that prints until it is cancelled."""

    async def lines() -> None:
        while True:
            for monitor in service.fleet.monitors.values():
                print(describe(monitor.status, monitor.last_score), flush=True)
            await asyncio.sleep(1.0)

    return lines


def describe(status: StreamStatus, score: StreamScore | None) -> str:
    """`12:00:01  lobby  live  FAKE 0.91 (threshold 0.70)  coverage 95%  age 0.3 s`"""
    head = f"{time.strftime('%H:%M:%S')}  {status.stream}  {status.state.value}"
    if score is None or status.state.value not in ("live", "stalled"):
        why = f": {status.reason.value}" if status.reason else ""
        return f"{head}{why}  {status.detail}".rstrip()
    said = "unknown" if score.score is None else f"{score.score:.2f}"
    why = ": ".join(filter(None, (score.reason, score.gate)))
    reason = f" ({why})" if why else f" (threshold {score.threshold:.2f})"
    age = max(0.0, time.monotonic() - score.at.mono)
    return f"{head}  {score.verdict.value.upper()} {said}{reason}  coverage {score.coverage:.0%}  age {age:.1f} s"
