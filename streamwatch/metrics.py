"""The Prometheus implementation of Observer: its own registry, one prefix, base units, labels from bounded sets only.

A stream's series begin with its first status and end with its removal; a count that a thread delivers late brings
nothing back. A score is absent while it is unknown, and when none came for `stale_after` seconds whatever the reason;
for longer where frames come more seldom.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from streamwatch.alerts.readings import ScoredTime
from streamwatch.domain import (
    AlertEvent,
    AlertPhase,
    DropReason,
    FailureReason,
    Review,
    Severity,
    StreamScore,
    StreamState,
    StreamStatus,
)
from streamwatch.observer import ReviewCounts

_STREAM = ("stream",)
_LATENCIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_STAGES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REMEMBERED = 10_000


class Metrics:
    """Implements observer.Observer. Thread-safe, as the client library's metrics are."""

    def __init__(
        self,
        build: Mapping[str, str],
        *,
        stale_after: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`build`: labels version, torch and weights."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # *_created are no series of ours
        self.registry = CollectorRegistry()
        self._stale_after = stale_after
        self._clock = clock
        self._spent: dict[str, ScoredTime] = {}
        self._active: dict[str, str] = {}
        """alert id -> stream"""
        self._review_counts: ReviewCounts | None = None
        self._known: set[str] = set()
        self._decoded_of: dict[str, Counter] = {}
        """Of the streams known: what is counted for each picture is not looked up for each picture."""
        self._removed: OrderedDict[str, None] = OrderedDict()
        self._of_stream: list[Gauge | Counter] = []
        self._streams_metrics()
        self._service_metrics()
        labels = ("version", "torch", "weights")
        self._gauge("build_info", "What runs here, always 1.", labels).labels(
            *(build.get(name, "") for name in labels)
        ).set(1)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, OpenMetrics (with exemplars) where the Accept header asks for it."""
        self._drop_stale_scores()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    # --- Observer ----------------------------------------------------------------------------------------------------

    def frames_decoded(self, stream: str, count: int) -> None:
        counter = self._decoded_of.get(stream)
        if counter is not None:
            counter.inc(count)
        elif self._wanted(stream):
            self._decoded.labels(stream).inc(count)

    def frame_sampled(self, stream: str) -> None:
        if self._wanted(stream):
            self._sampled.labels(stream).inc()

    def frames_dropped(self, stream: str, reason: DropReason, count: int) -> None:
        if self._wanted(stream):
            self._dropped.labels(stream, reason.value).inc(count)

    def frame_received(self, stream: str, wall: float, quantiser: float | None) -> None:
        if not self._wanted(stream):
            return
        self._last_frame.labels(stream).set(wall)
        if quantiser is not None:
            self._quantiser.labels(stream).set(quantiser)
        else:
            self._quantiser.remove_by_labels({"stream": stream})

    def stream_status(self, status: StreamStatus) -> None:
        stream = status.stream
        if status.state is not StreamState.STOPPED:
            self._removed.pop(stream, None)
        if not self._wanted(stream):
            return
        if stream not in self._known:
            self._begin(stream)
        self._up.labels(stream).set(1 if status.state is StreamState.LIVE else 0)
        self._degraded.labels(stream).set(1 if status.degraded else 0)
        if status.state not in {StreamState.LIVE, StreamState.STALLED}:
            self._forget_score(stream)
            self._quantiser.remove_by_labels({"stream": stream})

    def reconnecting(self, stream: str, reason: FailureReason) -> None:
        if self._wanted(stream):
            self._reconnects.labels(stream, reason.value).inc()

    def clock_skew(self, stream: str, seconds: float) -> None:
        if self._wanted(stream):
            self._skew.labels(stream).set(seconds)

    def faces_scored(self, stream: str, count: int) -> None:
        if self._wanted(stream):
            self._faces.labels(stream).inc(count)

    def stream_scored(self, score: StreamScore) -> None:
        stream = score.stream
        if not self._wanted(stream):
            return
        self._threshold.labels(stream).set(score.threshold)
        self._coverage.labels(stream).set(score.coverage)
        spent = self._spent.setdefault(stream, ScoredTime(self._stale_after))
        self._scored.labels(stream).inc(spent.add(score, self._clock()))
        if score.score is None:
            self._forget_score(stream)
            return
        self._score.labels(stream).set(score.score)
        worst = next((track for track in score.tracks if track.track == score.worst_track), None)
        for member, value in (worst.members if worst else {}).items():
            self._member.labels(stream, member).set(value)

    def capture_to_score(self, stream: str, seconds: float) -> None:
        self._latency.observe(max(0.0, seconds), {"stream": stream})

    def stage(self, stage: str, seconds: float) -> None:
        self._stage.labels(stage).observe(seconds)

    def batch_scored(self, device: str, size: int) -> None:
        self._batch.labels(device).observe(size)

    def queue_depth(self, queue: str, depth: int) -> None:
        self._queue.labels(queue).set(depth)

    def alert(self, event: AlertEvent) -> None:
        after = event.after
        if event.phase is AlertPhase.OPENED and (not after.stream or self._wanted(after.stream)):
            self._alerts.labels(after.stream, after.severity.value).inc()
        if after.active:
            self._active[after.id] = after.stream
        else:
            self._active.pop(after.id, None)
        if not after.stream or self._wanted(after.stream):
            self._show_active(after.stream)

    def reviews(self, counts: ReviewCounts) -> None:
        self._review_counts = counts
        for stream in list(self._known):
            self._show_reviews(stream)

    def delivery(self, sink: str, outcome: str) -> None:
        self._deliveries.labels(sink, outcome).inc()

    def history_lost(self, what: str, count: int) -> None:
        self._lost.labels(what).inc(count)

    def websocket_clients(self, count: int) -> None:
        self._clients.set(count)

    def stream_removed(self, stream: str) -> None:
        self._removed[stream] = None
        while len(self._removed) > _REMEMBERED:
            self._removed.popitem(last=False)
        self._known.discard(stream)
        self._decoded_of.pop(stream, None)
        self._spent.pop(stream, None)
        self._active = {alert: of for alert, of in self._active.items() if of != stream}
        for metric in self._of_stream:
            metric.remove_by_labels({"stream": stream})

    # --- inside ------------------------------------------------------------------------------------------------------

    def _wanted(self, stream: str) -> bool:
        return stream not in self._removed

    def _begin(self, stream: str) -> None:
        """Counters begin at 0 rather than at their first event, which `increase()` would miss."""
        self._known.add(stream)
        self._decoded_of[stream] = self._decoded.labels(stream)
        for counter in (self._sampled, self._faces, self._scored):
            counter.labels(stream)
        for severity in Severity:
            self._alerts.labels(stream, severity.value)
        self._show_active(stream)  # a restored alert is told before its stream's first status
        self._show_reviews(stream)

    def _show_active(self, stream: str) -> None:
        self._alerts_active.labels(stream).set(sum(of == stream for of in self._active.values()))

    def _show_reviews(self, stream: str) -> None:
        if self._review_counts is not None:
            counts = self._review_counts.get(stream, {})
            for review in Review:
                self._reviews.labels(stream, review.value).set(counts.get(review, 0))

    def _forget_score(self, stream: str) -> None:
        if (spent := self._spent.get(stream)) is not None:
            spent.end()
        self._score.remove_by_labels({"stream": stream})
        self._member.remove_by_labels({"stream": stream})

    def _drop_stale_scores(self) -> None:
        now = self._clock()
        for stream, spent in list(self._spent.items()):
            if (until := spent.until) is not None and until < now:
                self._forget_score(stream)

    def _streams_metrics(self) -> None:
        self._up = self._gauge("stream_up", "Whether frames arrive from the stream.", _STREAM)
        self._degraded = self._gauge(
            "stream_degraded", "Whether the stream is looked at less often than asked, for want of time.", _STREAM
        )
        self._last_frame = self._gauge(
            "stream_last_frame_timestamp_seconds", "When the newest sampled frame was captured, Unix time.", _STREAM
        )
        self._quantiser = self._gauge(
            "stream_quantiser",
            "How hard H.264 compressed the newest sampled frame: its mean quantiser, 0 to 51; absent when unknown.",
            _STREAM,
        )
        self._skew = self._gauge(
            "stream_clock_skew_seconds", "How far the stream's own clock has drifted from ours.", _STREAM
        )
        self._score = self._gauge(
            "score_ratio", "Probability that the worst face is fake; absent when unknown.", _STREAM
        )
        self._threshold = self._gauge("score_threshold_ratio", "The score from which a stream counts as fake.", _STREAM)
        self._coverage = self._gauge("score_coverage_ratio", "Share of the expected frames in the score.", _STREAM)
        self._member = self._gauge(
            "member_score_ratio", "What one member of the ensemble says of the worst face.", ("stream", "member")
        )
        self._alerts_active = self._gauge("alerts_active", "Alerts that are open.", _STREAM)
        self._reconnects = self._counter("stream_reconnects_total", "Attempts to connect again.", ("stream", "reason"))
        self._decoded = self._counter("frames_decoded_total", "Frames decoded.", _STREAM)
        self._sampled = self._counter("frames_sampled_total", "Frames chosen for analysis.", _STREAM)
        self._dropped = self._counter("frames_dropped_total", "Chosen frames lost, by reason.", ("stream", "reason"))
        self._faces = self._counter("faces_scored_total", "Faces scored.", _STREAM)
        self._alerts = self._counter("alerts_total", "Alerts opened.", ("stream", "severity"))
        self._reviews = self._gauge(
            "alerts_by_review",
            "Alerts on faces opened in the last 30 days, by what operators say of them now.",
            ("stream", "review"),
        )
        self._scored = self._counter("scored_seconds_total", "Time in which the stream had a score.", _STREAM)

    def _service_metrics(self) -> None:
        self._latency = Histogram(
            "streamwatch_capture_to_score_seconds",
            "From a frame's capture to its score.",
            buckets=_LATENCIES,
            registry=self.registry,
        )
        self._stage = Histogram(
            "streamwatch_stage_duration_seconds",
            "Time spent in one stage of the pipeline.",
            ["stage"],
            buckets=_STAGES,
            registry=self.registry,
        )
        self._batch = Histogram(
            "streamwatch_batch_size",
            "Faces scored in one batch.",
            ["device"],
            buckets=_BATCHES,
            registry=self.registry,
        )
        self._queue = self._gauge("queue_depth", "Items waiting in a queue.", ("queue",))
        self._clients = self._gauge("websocket_clients", "Websocket clients connected.", ())
        self._deliveries = self._counter(
            "sink_deliveries_total", "Attempts to deliver alerts, by outcome.", ("sink", "outcome")
        )
        self._lost = self._counter("history_lost_total", "Records that did not reach the database.", ("what",))

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        gauge = Gauge(f"streamwatch_{name}", text, labels, registry=self.registry)
        if "stream" in labels:
            self._of_stream.append(gauge)
        return gauge

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        counter = Counter(f"streamwatch_{name}", text, labels, registry=self.registry)
        if "stream" in labels:
            self._of_stream.append(counter)
        return counter
