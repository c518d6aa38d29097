"""The service's alert side as a process of its own, to be killed: real rules, history, outbox and evidence, no torch.

`python -m tests.fakes.alert_process DIRECTORY WEBHOOK [drain]` feeds four streams whose scores cross the threshold
every
few hundred ms, and prints `ready` once it does. `drain` resolves what is open, waits for the outbox to empty, and ends.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from streamwatch.alerts.dispatcher import Dispatcher
from streamwatch.alerts.evidence import Evidence, EvidenceOptions
from streamwatch.alerts.rules import RuleEngine
from streamwatch.alerts.sinks import make_sinks
from streamwatch.config import AlertSettings, EvidenceSettings, HistorySettings, SinkSettings
from streamwatch.domain import AlertEvent, Instant
from streamwatch.history.store import History
from tests.fakes.records import stream_score

RESTORE_REACH = 86_400.0
"""As in app.py, which would load torch."""
STREAMS = ("cam0", "cam1", "cam2", "cam3")
RULE = {"kind": "window", "for": 0, "resolve_after": 0, "cooldown": 0}


def history_settings(directory: Path) -> HistorySettings:
    return HistorySettings(url=SecretStr(f"sqlite+aiosqlite:///{directory}/history.db"))


class Process:
    def __init__(self, directory: Path, webhook: str) -> None:
        sink = SinkSettings(kind="webhook", url=SecretStr(webhook))
        self.history = History(history_settings(directory))
        self.dispatcher = Dispatcher(self.history.alerts, {"hook": (make_sinks({"hook": sink})["hook"], sink)})
        self.evidence = Evidence(
            EvidenceSettings(directory=directory / "evidence", post_roll=0.1), EvidenceOptions(lambda stream: {})
        )
        self.rules = RuleEngine(
            AlertSettings.model_validate({"rules": {"deepfake": RULE}}),
            hysteresis=0.05,
            new_id=lambda: secrets.token_hex(8),
        )

    async def run(self, drain: bool) -> None:
        await self.history.open()
        work = [asyncio.create_task(w) for w in (self.history.run(), self.dispatcher.run(), self.evidence.run())]
        earlier = await self.history.alerts.active(time.time() - RESTORE_REACH)
        for alert in earlier:
            self.evidence.interrupted(alert)
        self._raise(self.rules.restore(earlier, now()))
        print("ready", flush=True)
        if drain:
            for stream in STREAMS:
                self._raise(self.rules.remove(stream, now()))
            while await self._waiting():
                await asyncio.sleep(0.1)
        else:
            await self._feed()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self.dispatcher.stop()
        await self.history.close()

    async def _feed(self) -> None:
        step = 0
        while True:
            step += 1
            for number, stream in enumerate(STREAMS):
                high = (step // (5 + number)) % 2 == 1
                score = replace(stream_score(0, 0.9 if high else 0.1, stream=stream), at=now())
                self.history.score(score)
                self.evidence.observe(score, None)
                self._raise(self.rules.on_score(score))
            await asyncio.sleep(0.03)

    async def _waiting(self) -> bool:
        sealing = bool(self.evidence._earlier)
        return sealing or self.dispatcher.statistics.unrecorded > 0 or await self.history.alerts.pending() > 0

    def _raise(self, events: list[AlertEvent]) -> None:
        for event in events:
            self.dispatcher.submit(event)
            self.evidence.submit(event)


def now() -> Instant:
    return Instant(time.monotonic(), time.time())


if __name__ == "__main__":
    asyncio.run(Process(Path(sys.argv[1]), sys.argv[2]).run(drain="drain" in sys.argv[3:]))
