"""The metrics: names, absence of what is not known, no series that outlive their stream, promtool's judgement."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from streamwatch.alerts.rules import RuleEngine
from streamwatch.config import AlertSettings
from streamwatch.domain import (
    AlertEvent,
    AlertPhase,
    DropReason,
    FailureReason,
    Instant,
    Review,
    StreamState,
    StreamStatus,
    UnknownReason,
    Verdict,
)
from streamwatch.metrics import Metrics
from streamwatch.results import Desk, Results
from tests.fakes.control import alert, stream_score
from tests.require import prometheus

NAMES = {  # those of the interface, as they stand in the exposition
    "build_info",
    "stream_up",
    "stream_last_frame_timestamp_seconds",
    "stream_quantiser",
    "stream_reconnects_total",
    "frames_decoded_total",
    "frames_sampled_total",
    "frames_dropped_total",
    "faces_scored_total",
    "capture_to_score_seconds",
    "stage_duration_seconds",
    "batch_size",
    "queue_depth",
    "score_ratio",
    "score_threshold_ratio",
    "member_score_ratio",
    "score_coverage_ratio",
    "alerts_total",
    "alerts_active",
    "sink_deliveries_total",
    "websocket_clients",
}


class Nobody:
    """The other ends of `Results`."""

    def submit(self, event: AlertEvent) -> None: ...
    def alert(self, event: AlertEvent) -> None: ...
    def score(self, *_: object) -> None: ...
    def status(self, *_: object) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics({"version": "1.0", "torch": "2.9", "weights": "bundled"}, stale_after=30.0, clock=clock)


def status(stream: str, state: StreamState) -> StreamStatus:
    return StreamStatus(stream, state, Instant(0.0, 0.0))


def tell_everything(metrics: Metrics, stream: str = "lobby") -> None:
    metrics.stream_status(status(stream, StreamState.LIVE))
    metrics.frames_decoded(stream, 50)
    metrics.frame_sampled(stream)
    metrics.frame_received(stream, 1e9, 23.5)
    for reason in DropReason:
        metrics.frames_dropped(stream, reason, 2)
    metrics.reconnecting(stream, FailureReason.TIMEOUT)
    metrics.clock_skew(stream, 0.01)
    metrics.faces_scored(stream, 3)
    metrics.stream_scored(stream_score(stream, 1, 0.81))
    metrics.capture_to_score(stream, 0.34)
    metrics.stage("detect", 0.02)
    metrics.batch_scored("cpu", 4)
    metrics.queue_depth("ensemble", 3)
    opened = alert("a1", stream)
    metrics.alert(AlertEvent(AlertPhase.OPENED, None, opened))
    metrics.reviews({stream: {Review.FALSE_ALARM: 1}})
    metrics.delivery("log", "delivered")
    metrics.history_lost("rows", 1)
    metrics.websocket_clients(2)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name.removeprefix("streamwatch_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def test_every_metric_of_the_interface_has_its_name_and_value(metrics: Metrics) -> None:
    tell_everything(metrics)
    text = metrics.exposition()[0].decode()
    families = {line.split()[2].removeprefix("streamwatch_") for line in text.splitlines() if line.startswith("# TYPE")}
    assert families >= NAMES
    assert all(line.startswith(("#", "streamwatch_")) for line in text.splitlines())
    found = samples(metrics)
    lobby = (("stream", "lobby"),)
    assert found["stream_up", lobby] == 1
    assert found["stream_quantiser", lobby] == 23.5
    assert found["score_ratio", lobby] == 0.81
    assert found["score_threshold_ratio", lobby] == 0.7
    assert found["member_score_ratio", (("member", "ViT"), *lobby)] == 0.81
    assert found["frames_dropped_total", (("reason", "budget"), *lobby)] == 2
    assert found["alerts_total", (("severity", "critical"), *lobby)] == 1
    assert found["alerts_active", lobby] == 1
    assert found["capture_to_score_seconds_count", ()] == 1
    assert found["build_info", (("torch", "2.9"), ("version", "1.0"), ("weights", "bundled"))] == 1


def test_the_score_is_absent_when_unknown_stale_or_not_live(metrics: Metrics, clock: Clock) -> None:
    def score() -> bool:
        metrics.exposition()
        return any(name in {"score_ratio", "member_score_ratio"} for name, _ in samples(metrics))

    known = stream_score("lobby", 1)
    metrics.stream_status(status("lobby", StreamState.LIVE))
    assert not score()
    metrics.stream_scored(known)
    assert score()
    metrics.stream_scored(replace(known, score=None, verdict=Verdict.UNKNOWN, reason=UnknownReason.NO_FACE))
    assert not score()
    metrics.stream_scored(known)
    clock.now += 31
    assert not score(), "nothing was said for longer than stale_after"
    metrics.stream_scored(known)
    metrics.stream_status(status("lobby", StreamState.RECONNECTING))
    assert not score()
    assert samples(metrics)["stream_up", (("stream", "lobby"),)] == 0


def test_a_removed_stream_leaves_no_series_and_late_counts_bring_none_back(metrics: Metrics) -> None:
    tell_everything(metrics, "lobby")
    tell_everything(metrics, "door")
    metrics.stream_removed("lobby")
    metrics.stream_status(status("lobby", StreamState.STOPPED))
    metrics.frames_decoded("lobby", 1)
    metrics.frames_dropped("lobby", DropReason.STALE, 1)
    metrics.stream_scored(stream_score("lobby", 2))
    assert not [labels for _, labels in samples(metrics) if ("stream", "lobby") in labels]
    assert [labels for _, labels in samples(metrics) if ("stream", "door") in labels]
    metrics.stream_status(status("lobby", StreamState.CONNECTING))  # it is added again
    assert samples(metrics)["frames_decoded_total", (("stream", "lobby"),)] == 0
    metrics.frames_decoded("lobby", 3)
    assert samples(metrics)["frames_decoded_total", (("stream", "lobby"),)] == 3


def test_an_alert_is_active_from_its_opening_to_its_resolution(metrics: Metrics) -> None:
    first, second = alert("a1"), alert("a2")
    key = "alerts_active", (("stream", "lobby"),)
    metrics.alert(AlertEvent(AlertPhase.OPENED, None, first))
    metrics.alert(AlertEvent(AlertPhase.OPENED, None, second))
    metrics.alert(AlertEvent(AlertPhase.UPDATED, first, first))
    assert samples(metrics)[key] == 2
    metrics.alert(AlertEvent(AlertPhase.RESOLVED, first, replace(first, resolved_at=Instant(1, 1))))
    assert samples(metrics)[key] == 1
    assert samples(metrics)["alerts_total", (("severity", "critical"), ("stream", "lobby"))] == 2


def test_a_restored_alert_is_active_before_and_after_its_streams_first_status(metrics: Metrics) -> None:
    rules = RuleEngine(AlertSettings(), hysteresis=0.05, new_id=lambda: "new")
    results = Results(rules, Nobody(), Nobody(), Desk(Nobody()), metrics)
    results.restore([alert("a1"), replace(alert("a2", "door"), resolved_at=Instant(1, 1))])
    key = "alerts_active", (("stream", "lobby"),)
    assert samples(metrics)[key] == 1
    metrics.stream_status(status("lobby", StreamState.CONNECTING))
    metrics.stream_status(status("door", StreamState.CONNECTING))
    assert samples(metrics)[key] == 1
    assert samples(metrics)["alerts_active", (("stream", "door"),)] == 0
    results.removed("lobby")
    assert samples(metrics)[key] == 0


def test_scored_time_leaves_gaps_out(metrics: Metrics, clock: Clock) -> None:
    metrics.stream_status(status("lobby", StreamState.LIVE))
    for _ in range(11):
        metrics.stream_scored(stream_score("lobby", 1, 0.1))
        clock.now += 2.0
    clock.now += 3600.0
    metrics.stream_scored(stream_score("lobby", 2, 0.1))
    assert samples(metrics)["scored_seconds_total", (("stream", "lobby"),)] == 20.0


def test_a_stream_of_a_frame_in_ten_seconds_is_scored_all_the_time(clock: Clock) -> None:
    metrics = Metrics({}, stale_after=5.0, clock=clock)
    metrics.stream_status(status("lobby", StreamState.LIVE))
    for seq in range(31):
        at = Instant(clock.now, clock.now)
        metrics.stream_scored(replace(stream_score("lobby", seq, 0.1, at), window=100.0))
        clock.now += 10.0
        metrics.exposition()  # a scrape drops what is stale
        assert samples(metrics)["score_ratio", (("stream", "lobby"),)] == 0.1
    assert samples(metrics)["scored_seconds_total", (("stream", "lobby"),)] == 300.0
    clock.now += 30.0
    metrics.exposition()
    assert ("score_ratio", (("stream", "lobby"),)) not in samples(metrics)


def test_what_is_not_known_of_the_compression_is_not_told(metrics: Metrics) -> None:
    """A camera that goes over to another codec, and a stream that is gone."""
    key = "stream_quantiser", (("stream", "lobby"),)
    metrics.stream_status(status("lobby", StreamState.LIVE))
    metrics.frame_received("lobby", 1e9, 30.0)
    assert samples(metrics)[key] == 30.0
    metrics.frame_received("lobby", 1e9, None)
    assert key not in samples(metrics)
    metrics.frame_received("lobby", 1e9, 31.0)
    metrics.stream_status(status("lobby", StreamState.STALLED))
    assert samples(metrics)[key] == 31.0
    metrics.stream_status(status("lobby", StreamState.RECONNECTING))
    assert key not in samples(metrics)


def test_reviews_are_what_holds_now(metrics: Metrics) -> None:
    def said(stream: str) -> dict[str, float]:
        found = samples(metrics).items()
        return {
            dict(labels)["review"]: value
            for (name, labels), value in found
            if name == "alerts_by_review" and ("stream", stream) in labels
        }

    metrics.stream_status(status("lobby", StreamState.LIVE))
    assert said("lobby") == {}, "nothing is known until the database has answered"
    metrics.reviews({"lobby": {Review.FALSE_ALARM: 2, Review.NONE: 1}, "gone": {Review.CONFIRMED: 1}})
    assert said("lobby") == {"none": 1, "acknowledged": 0, "confirmed": 0, "false_alarm": 2}
    assert said("gone") == {}, "no series of a stream that is not there"
    metrics.reviews({"lobby": {Review.CONFIRMED: 2}, "door": {Review.FALSE_ALARM: 1}})
    assert (said("lobby")["false_alarm"], said("lobby")["confirmed"]) == (0, 2)
    metrics.stream_status(status("door", StreamState.LIVE))
    assert said("door")["false_alarm"] == 1
    metrics.stream_removed("lobby")
    assert said("lobby") == {}


def test_openmetrics_on_request_carries_an_exemplar(metrics: Metrics) -> None:
    tell_everything(metrics)
    body, media_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    assert b'# {stream="lobby"} 0.34' in body
    assert b"# {" not in metrics.exposition()[0]


@pytest.mark.prometheus
def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    (promtool,) = prometheus("promtool")
    tell_everything(metrics)
    body, _ = metrics.exposition()
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
