"""The whole service on a machine that has no time for all that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamwatch.app import Service
from streamwatch.camera import Camera
from streamwatch.domain import DropReason
from tests.fakes.people import people, quick_config, until


@pytest.mark.slow
async def test_what_one_stream_loses_makes_room_on_all_and_shows(tmp_path: Path) -> None:
    async with Camera([people()]) as camera:
        stream = {"url": camera.url, "sample_fps": 4.0}
        async with Service(quick_config(tmp_path, {"a": stream, "b": stream})) as service:
            monitors = service.fleet.monitors
            await until(lambda: all(monitor.counters.analysed_at for monitor in monitors.values()))

            def shed() -> bool:
                monitors["a"].dropped(DropReason.BUDGET)  # twenty a second, more than are analysed
                return all(monitor.status.degraded and monitor.fps < 4.0 for monitor in monitors.values())

            await until(shed)
            assert monitors["a"].fps == pytest.approx(monitors["b"].fps, rel=0.2)
            await until(lambda: not any(monitor.status.degraded for monitor in monitors.values()))
            assert {monitor.fps for monitor in monitors.values()} == {4.0}
