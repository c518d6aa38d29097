"""Receivers know an event by its key: no two events of one alert share one, whatever the machine's clock does."""

from __future__ import annotations

import itertools

from streamwatch.alerts.lifecycle import Identity, Slot
from streamwatch.alerts.payload import event_key
from streamwatch.alerts.readings import Mood, Reading
from streamwatch.config import RuleSettings
from streamwatch.domain import AlertEvent, AlertKind, Instant
from tests.fakes.records import WALL


def slot() -> Slot:
    ids = map(str, itertools.count(1))
    return Slot(Identity(AlertKind.DEEPFAKE, "face", "lobby"), RuleSettings(kind="window"), lambda: next(ids))


def firing(*tracks: int) -> Reading:
    return Reading(Mood.FIRING, 0.9, 0.7, "", tracks)


def distinct(events: list[AlertEvent | None]) -> bool:
    """All of them are events; their keys differ, and so do the milliseconds that receivers order them by."""
    said = [event for event in events if event is not None]
    walls = [round(event.after.updated_at.wall * 1000) for event in said]
    return len({event_key(event) for event in said}) == len(events) and walls == sorted(set(walls))


def test_updates_after_the_wall_clock_was_set_back_have_keys_of_their_own() -> None:
    alert, events = slot(), []
    for mono in range(8):
        wall = WALL + mono - (3600.0 if mono >= 2 else 0.0)
        events.append(alert.step(Instant(float(mono), wall), firing(*range(1, mono + 2)), False, {}))
    events.append(alert.close(Instant(9.0, WALL + 9.0 - 3600.0), "cleared"))
    assert distinct(events)


def test_a_drift_mark_and_a_face_that_joins_in_the_same_record_have_keys_of_their_own() -> None:
    alert, now = slot(), Instant(1.0, WALL + 1.0)
    events = [
        alert.step(Instant(0.0, WALL), firing(1), False, {}),
        alert.mark(now, {"detector_drift": "true"}),
        alert.step(now, firing(1, 2), False, {}),
    ]
    assert distinct(events)
