"""The hub: takes results from the monitors (protocols.ScorePublisher) and gives them to websocket clients.

Everything happens on the event loop, and nothing waits: what a client has not taken waits in its own bounded outbox.
Each message of a stream gets the stream's next number; the last `ring` texts of each stream are kept for clients that
come back. A text is made once and shared by all clients.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from streamwatch import __version__
from streamwatch.domain import (
    Alert,
    AlertEvent,
    FrameScores,
    Instant,
    StreamInfo,
    StreamScore,
    StreamState,
    StreamStatus,
)
from streamwatch.errors import Overloaded
from streamwatch.observer import NullObserver, Observer
from streamwatch.server import messages, wire
from streamwatch.server.outbox import Payload
from streamwatch.server.sessions import GOING_AWAY, TOO_SLOW, ClientSession, Subscription

RETIRED = 10_000
"""How many removed streams' numbers are remembered."""
SHOWING = frozenset({StreamState.LIVE, StreamState.STALLED})
"""In these states earlier scores and pictures still hold."""


def now() -> Instant:
    return Instant(time.monotonic(), time.time())


def dumps(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class HubOptions:
    ring: int = 512
    """messages kept for each stream"""
    max_clients: int = 1000
    max_connects: int = 1500
    """of one address in ten seconds"""
    max_alerts: int = 256
    """that wait for one client"""
    heartbeat: float = 15.0
    send_timeout: float = 10.0
    clock: Callable[[], Instant] = now


@dataclass(slots=True)
class _Stream:
    """What the hub holds of one stream. `seq` is the last number given out."""

    name: str
    seq: int = 0
    configured: bool = False
    status: StreamStatus | None = None
    info: StreamInfo | None = None
    score: StreamScore | None = None
    picture: FrameScores | None = None
    ring: deque[tuple[int, str]] = field(default_factory=deque)

    @property
    def shown(self) -> bool:
        """Not where only alerts speak of it: its stream is no more, and must not come back as an empty tile."""
        return self.configured or self.status is not None or self.score is not None


@dataclass(frozen=True, slots=True)
class HubStatistics:
    clients: int
    published: int
    ended_slow: int


class Hub:
    """Implements protocols.ScorePublisher."""

    def __init__(self, options: HubOptions | None = None, observer: Observer | None = None) -> None:
        self.epoch = secrets.token_hex(4)
        self.options = options or HubOptions()
        self.on_picture: Callable[[str], None] = lambda stream: None
        """Told of each new picture that some client wants to see."""
        self._observer = observer or NullObserver()
        self._streams: dict[str, _Stream] = {}
        self._retired: OrderedDict[str, int] = OrderedDict()
        """removed stream -> its last number, so that numbers do not repeat when it is added again"""
        self._alerts: dict[str, Alert] = {}
        self._clients: set[ClientSession] = set()
        self._published = 0
        self._ended_slow = 0
        self._closing = False

    # --- from the monitors -------------------------------------------------------------------------------------------

    def score(self, score: StreamScore, scores: FrameScores | None) -> None:
        entry = self._entry(score.stream)
        if scores is None and entry.picture is not None:
            # A verdict without a frame of its own is still about the newest frame: its age must not begin anew.
            score = replace(score, at=entry.picture.frame.captured_at)
        entry.score = score
        if scores is not None:
            entry.picture = scores
            if any(self._wants_pictures(client, score.stream) for client in self._clients):
                self.on_picture(score.stream)
        state = entry.status.state if entry.status else StreamState.CONNECTING
        self._publish(
            score.stream, "score", messages.score_message(self.epoch, entry.seq + 1, score, state, self.options.clock())
        )

    def status(self, status: StreamStatus, info: StreamInfo | None) -> None:
        entry = self._entry(status.stream)
        entry.status, entry.info = status, info
        if status.state not in SHOWING:
            entry.score = entry.picture = None
        self._publish_status(status.stream, entry)

    def alert(self, event: AlertEvent) -> None:
        after = event.after
        if after.active:
            self._alerts[after.id] = after
        else:
            self._alerts.pop(after.id, None)
        entry = self._entry(after.stream)
        self._publish(after.stream, None, messages.alert_message(self.epoch, entry.seq + 1, event))

    # --- from the configuration --------------------------------------------------------------------------------------

    def configured(self, stream: str, name: str) -> None:
        """A stream was added, or got another name."""
        entry = self._entry(stream)
        entry.name, entry.configured = name or stream, True
        if entry.status is not None:
            self._publish_status(stream, entry)

    def restored(self, alert: Alert) -> None:
        """An alert that was active before the service started again."""
        self._alerts[alert.id] = alert

    def removed(self, stream: str) -> None:
        entry = self._streams.get(stream)
        if entry is None:
            return
        self._publish(
            stream, "removed", messages.removed_message(self.epoch, entry.seq + 1, stream, self.options.clock())
        )
        del self._streams[stream]
        self._retired[stream] = entry.seq
        while len(self._retired) > RETIRED:
            self._retired.popitem(last=False)

    # --- what holds now ----------------------------------------------------------------------------------------------

    def picture(self, stream: str) -> FrameScores | None:
        """The newest analysed frame while the stream shows one."""
        entry = self._streams.get(stream)
        return entry.picture if entry else None

    def latest_score(self, stream: str) -> wire.ScoreMessage | None:
        """The newest score as a message, its age as of now."""
        entry = self._streams.get(stream)
        return self._score_of(entry) if entry else None

    def snapshot(self, streams: frozenset[str] | None, resumed: tuple[str, ...] = ()) -> wire.SnapshotMessage:
        chosen = {
            name: entry
            for name, entry in sorted(self._streams.items())
            if name and entry.shown and (streams is None or name in streams)
        }
        return {
            "v": wire.VERSION,
            "epoch": self.epoch,
            "type": "snapshot",
            "at": messages.iso(self.options.clock().wall),
            "version": __version__,
            "heartbeat_s": self.options.heartbeat,
            "resumed": list(resumed),
            "streams": [
                {"stream": name, "seq": entry.seq, "status": self._status_of(entry), "score": self._score_of(entry)}
                for name, entry in chosen.items()
                if name not in resumed
            ],
            "alerts": [
                messages.alert_record(alert)
                for alert in self._alerts.values()
                if streams is None or not alert.stream or alert.stream in streams
            ],
        }

    def statistics(self) -> HubStatistics:
        return HubStatistics(len(self._clients), self._published, self._ended_slow)

    # --- clients -----------------------------------------------------------------------------------------------------

    def connect(self, subscription: Subscription) -> ClientSession:
        """Raises Overloaded. From here on the session collects changes; `opening` gives what to send before them."""
        if self._closing or len(self._clients) >= self.options.max_clients:
            raise Overloaded("the service takes no more websocket clients")
        client = ClientSession(subscription, self.options.max_alerts)
        self._clients.add(client)
        self._observer.websocket_clients(len(self._clients))
        return client

    def disconnect(self, client: ClientSession) -> None:
        self._clients.discard(client)
        self._observer.websocket_clients(len(self._clients))

    def opening(
        self, client: ClientSession, epoch: str | None = None, seen: Mapping[str, int] | None = None
    ) -> list[str]:
        """The snapshot, and what a client that comes back has missed since it saw number `seen[stream]` of `epoch`.
        To be called in one step with the session's first use, or a change could fall between."""
        missed: dict[str, list[str]] = {}
        for stream, seq in (seen or {}).items() if epoch == self.epoch else ():
            texts = self._missed(stream, seq) if client.subscription.wants(stream) else None
            if texts is not None:
                missed[stream] = texts
        client.forget(set(self._streams) | {""})  # what gathered before this step is in the snapshot or in `missed`
        snapshot = self.snapshot(client.subscription.streams, tuple(sorted(missed)))
        return [dumps(snapshot), *(text for texts in missed.values() for text in texts)]

    def subscribe(self, client: ClientSession, subscription: Subscription) -> None:
        before, client.subscription = client.subscription, subscription
        unwanted = {name for name in self._streams if name and not subscription.wants(name)}
        client.forget(unwanted)
        new = frozenset(name for name in self._streams if subscription.wants(name) and not before.wants(name))
        if new:
            client.put("", None, dumps(self.snapshot(new)))
        if subscription.thumbnails or subscription.heat:
            for name, entry in self._streams.items():
                if entry.picture is not None and subscription.wants(name):
                    self.on_picture(name)

    def deliver_picture(self, stream: str, kind: str, payload: bytes) -> None:
        """`kind`: "heat", or the size of a thumbnail."""
        for client in self._clients:
            subscription = client.subscription
            wanted = subscription.heat if kind == "heat" else subscription.thumbnails == kind
            if wanted and subscription.wants(stream):
                client.put(stream, "heat" if kind == "heat" else "thumbnail", payload)

    def picture_kinds(self, stream: str) -> set[str]:
        """What the clients that watch the stream want to see."""
        kinds: set[str] = set()
        for client in self._clients:
            if client.subscription.wants(stream):
                kinds |= {client.subscription.thumbnails or ""} | ({"heat"} if client.subscription.heat else set())
        return kinds - {""}

    async def run(self) -> None:
        """Sends heartbeats and cuts off clients that do not read, until cancelled."""
        loop = asyncio.get_running_loop()
        next_beat = loop.time() + self.options.heartbeat
        while True:
            await asyncio.sleep(min(1.0, self.options.heartbeat, self.options.send_timeout))
            self.cut_off_stuck(loop.time())
            if loop.time() >= next_beat:
                next_beat = loop.time() + self.options.heartbeat
                self.broadcast("heartbeat", dumps(messages.heartbeat_message(self.epoch, self.options.clock())))

    def cut_off_stuck(self, at: float) -> None:
        """Ends every client whose send has been waiting for longer than `send_timeout` at loop time `at`."""
        limit = self.options.send_timeout
        for client in self._clients:
            if client.busy_since is not None and at - client.busy_since > limit:
                client.end(TOO_SLOW, f"too slow: a message could not be sent for {limit:g} s")
                client.busy_since = None
                self._ended_slow += 1

    def broadcast(self, key: str, payload: Payload) -> None:
        for client in self._clients:
            client.put("", key, payload)

    def close(self) -> None:
        """Ends every client; no new one is taken."""
        self._closing = True
        for client in self._clients:
            client.end(GOING_AWAY, "the service stops")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _entry(self, stream: str) -> _Stream:
        entry = self._streams.get(stream)
        if entry is None:
            entry = self._streams[stream] = _Stream(stream, seq=self._retired.pop(stream, 0))
        return entry

    def _publish_status(self, stream: str, entry: _Stream) -> None:
        if entry.status is not None:
            message = messages.stream_message(self.epoch, entry.seq + 1, entry.name, entry.status, entry.info)
            self._publish(stream, "stream", message)

    def _publish(self, stream: str, key: str | None, message: Mapping[str, Any]) -> None:
        entry = self._streams[stream]
        entry.seq = int(message["seq"])
        text = dumps(message)
        self._published += 1
        if self.options.ring:
            if len(entry.ring) >= self.options.ring:
                entry.ring.popleft()
            entry.ring.append((entry.seq, text))
        for client in self._clients:
            if client.subscription.wants(stream):
                client.put(stream, key, text)

    def _missed(self, stream: str, seq: int) -> list[str] | None:
        """The texts after number `seq`; None where the ring no longer reaches back so far."""
        entry = self._streams.get(stream)
        if entry is None or not 0 <= seq <= entry.seq:
            return None
        if seq < entry.seq and (not entry.ring or entry.ring[0][0] > seq + 1):
            return None
        return [text for number, text in entry.ring if number > seq]

    def _status_of(self, entry: _Stream) -> wire.StreamMessage | None:
        if entry.status is None:
            return None
        return messages.stream_message(self.epoch, entry.seq, entry.name, entry.status, entry.info)

    def _score_of(self, entry: _Stream) -> wire.ScoreMessage | None:
        if entry.score is None:
            return None
        state = entry.status.state if entry.status else StreamState.CONNECTING
        return messages.score_message(self.epoch, entry.seq, entry.score, state, self.options.clock())

    @staticmethod
    def _wants_pictures(client: ClientSession, stream: str) -> bool:
        wish = client.subscription
        return bool(wish.thumbnails or wish.heat) and wish.wants(stream)
