"""The hub: numbers, snapshots, resuming, subscriptions, limits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from streamwatch.domain import AlertEvent, AlertPhase, Instant, StreamState, StreamStatus
from streamwatch.errors import Overloaded
from streamwatch.server.hub import Hub, HubOptions
from streamwatch.server.sessions import GOING_AWAY, TOO_SLOW, ClientSession, Subscription
from tests.fakes.control import alert, frame_scores, instant, stream_score


def live(hub: Hub, *streams: str) -> None:
    for stream in streams:
        hub.status(StreamStatus(stream, StreamState.LIVE, instant()), None)


def parse(texts: list[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts]


async def waiting(client: ClientSession) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while client.waiting:
        found += [json.loads(item) for item in await client.take() if isinstance(item, str)]
    return found


def opening(hub: Hub, client: ClientSession, epoch: str | None = None, **seen: int) -> list[dict[str, Any]]:
    return parse(hub.opening(client, epoch, seen))


async def test_a_snapshot_comes_first_and_changes_continue_its_numbers() -> None:
    hub = Hub()
    hub.configured("lobby", "The lobby")
    live(hub, "lobby")
    hub.score(stream_score("lobby", 1), None)
    hub.alert(AlertEvent(AlertPhase.OPENED, None, alert("a1")))
    client = hub.connect(Subscription())
    (snapshot,) = opening(hub, client)
    (entry,) = snapshot["streams"]
    assert (entry["stream"], entry["seq"]) == ("lobby", 3)
    assert entry["status"]["name"] == "The lobby"
    assert entry["score"]["score"] == 0.81
    assert [a["id"] for a in snapshot["alerts"]] == ["a1"]
    hub.score(stream_score("lobby", 2), None)
    assert [m["seq"] for m in await waiting(client)] == [4]


async def test_ages_in_a_snapshot_are_reckoned_when_it_is_sent() -> None:
    now = Instant(10.0, 1000.0)
    hub = Hub(HubOptions(clock=lambda: now))
    live(hub, "lobby")
    hub.score(stream_score("lobby", 1, at=Instant(9.66, 999.66)), None)
    client = hub.connect(Subscription())
    assert opening(hub, client)[0]["streams"][0]["score"]["age_ms"] == 340
    now = Instant(70.0, 1060.0)
    assert opening(hub, client)[0]["streams"][0]["score"]["age_ms"] == 60_340


async def test_a_verdict_without_a_frame_is_as_old_as_the_newest_frame() -> None:
    now = Instant(13.0, 1003.0)
    hub = Hub(HubOptions(clock=lambda: now))
    live(hub, "lobby")
    captured = Instant(10.0, 1000.0)
    hub.score(stream_score("lobby", 1, at=captured), frame_scores("lobby", 1, at=captured))
    hub.score(stream_score("lobby", 1, at=now), None)
    latest = hub.latest_score("lobby")
    assert latest is not None
    assert latest["age_ms"] == 3000
    assert latest["captured_at"].endswith("00:16:40.000Z")


@pytest.mark.parametrize("state", [s for s in StreamState if s not in {StreamState.LIVE, StreamState.STALLED}])
async def test_outside_live_and_stalled_no_old_score_or_picture_remains(state: StreamState) -> None:
    hub = Hub()
    live(hub, "lobby")
    hub.score(stream_score("lobby", 1), frame_scores("lobby", 1))
    hub.status(StreamStatus("lobby", StreamState.STALLED, instant()), None)
    assert hub.latest_score("lobby") is not None
    hub.status(StreamStatus("lobby", state, instant()), None)
    assert hub.latest_score("lobby") is None
    assert hub.picture("lobby") is None
    assert hub.snapshot(None)["streams"][0]["score"] is None


async def test_resuming_replays_what_was_missed_and_nothing_else() -> None:
    hub = Hub()
    live(hub, "lobby", "door")
    for seq in range(5):
        hub.score(stream_score("lobby", seq), None)
    client = hub.connect(Subscription())
    snapshot, *missed = opening(hub, client, hub.epoch, lobby=3, door=1)
    assert snapshot["resumed"] == ["door", "lobby"]
    assert snapshot["streams"] == []
    assert [(m["stream"], m["seq"]) for m in missed] == [("lobby", 4), ("lobby", 5), ("lobby", 6)]
    assert client.waiting == 0


@pytest.mark.parametrize(("epoch", "seq"), [("other", 3), (None, 1), (None, 99), (None, -1)])
async def test_another_epoch_too_old_or_impossible_gives_a_fresh_snapshot(epoch: str | None, seq: int) -> None:
    hub = Hub(HubOptions(ring=3))
    live(hub, "lobby")
    for number in range(5):
        hub.score(stream_score("lobby", number), None)
    client = hub.connect(Subscription())
    messages = opening(hub, client, epoch or hub.epoch, lobby=seq)
    assert len(messages) == 1
    assert messages[0]["resumed"] == []
    assert messages[0]["streams"][0]["seq"] == 6


async def test_numbers_never_repeat_when_a_stream_is_removed_and_added_again() -> None:
    hub = Hub()
    live(hub, "lobby")
    client = hub.connect(Subscription())
    hub.opening(client, None, None)
    hub.removed("lobby")
    hub.removed("lobby")
    hub.removed("never-there")
    assert hub.snapshot(None)["streams"] == []
    live(hub, "lobby")
    messages = await waiting(client)
    assert [(m["type"], m["seq"]) for m in messages] == [("removed", 2), ("stream", 3)]


async def test_an_alert_of_a_stream_that_is_no_more_brings_back_no_tile() -> None:
    hub = Hub()
    live(hub, "lobby")
    hub.removed("lobby")
    hub.alert(AlertEvent(AlertPhase.UPDATED, None, alert("a1", "lobby")))
    assert hub.snapshot(None)["streams"] == []
    hub.configured("lobby", "Lobby")
    assert [entry["stream"] for entry in hub.snapshot(None)["streams"]] == ["lobby"]


async def test_a_subscription_selects_streams_and_growing_it_gives_a_snapshot_of_the_new_ones() -> None:
    hub = Hub()
    live(hub, "lobby", "door")
    client = hub.connect(Subscription(frozenset({"lobby"})))
    assert [s["stream"] for s in opening(hub, client)[0]["streams"]] == ["lobby"]
    hub.score(stream_score("door", 1), None)
    hub.alert(AlertEvent(AlertPhase.OPENED, None, replace(alert("a1"), stream="")))
    assert [m["type"] for m in await waiting(client)] == ["alert"], "the service's own alerts go to everyone"
    hub.subscribe(client, Subscription(frozenset({"door"})))
    hub.score(stream_score("lobby", 1), None)
    hub.score(stream_score("door", 2), None)
    snapshot, score = await waiting(client)
    assert [s["stream"] for s in snapshot["streams"]] == ["door"]
    assert (score["stream"], score["seq"]) == ("door", snapshot["streams"][0]["seq"] + 1)


async def test_alerts_that_no_longer_fit_end_the_client_with_a_reason() -> None:
    hub = Hub(HubOptions(max_alerts=3))
    live(hub, "lobby")
    slow, quick = hub.connect(Subscription()), hub.connect(Subscription())
    for number in range(5):
        hub.score(stream_score("lobby", number), None)
        hub.alert(AlertEvent(AlertPhase.OPENED, None, alert(f"a{number}")))
        await waiting(quick)
    code, reason = await slow.ended()
    assert code == TOO_SLOW
    assert "too slow" in reason
    assert slow.waiting <= 5


async def test_a_send_that_hangs_ends_the_client() -> None:
    hub = Hub(HubOptions(send_timeout=10.0))
    stuck, busy = hub.connect(Subscription()), hub.connect(Subscription())
    stuck.busy_since, busy.busy_since = 100.0, 105.0
    hub.cut_off_stuck(111.0)
    assert (await stuck.ended()).code == TOO_SLOW
    assert hub.statistics().ended_slow == 1
    hub.close()
    assert (await busy.ended()).code == GOING_AWAY


async def test_clients_are_limited_and_counted() -> None:
    hub = Hub(HubOptions(max_clients=1))
    client = hub.connect(Subscription())
    with pytest.raises(Overloaded):
        hub.connect(Subscription())
    hub.disconnect(client)
    assert hub.statistics().clients == 0
    hub.disconnect(hub.connect(Subscription()))


async def test_pictures_go_only_to_those_who_asked() -> None:
    hub = Hub()
    due: list[str] = []
    hub.on_picture = due.append
    live(hub, "lobby")
    plain = hub.connect(Subscription())
    hub.score(stream_score("lobby", 1), frame_scores("lobby", 1))
    assert due == []
    assert hub.picture_kinds("lobby") == set()
    watching = hub.connect(Subscription(thumbnails="small", heat=True))
    hub.score(stream_score("lobby", 2), frame_scores("lobby", 2))
    assert due == ["lobby"]
    assert hub.picture_kinds("lobby") == {"small", "heat"}
    await watching.take()
    await plain.take()
    hub.deliver_picture("lobby", "small", b"picture")
    hub.deliver_picture("lobby", "large", b"too large")
    assert await watching.take() == [b"picture"]
    assert plain.waiting == 0
