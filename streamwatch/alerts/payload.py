"""What leaves for the sinks: Alertmanager's webhook shape (version 4), its v2 API's, and the webhook's signature.
Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from streamwatch.domain import Alert, AlertEvent
from streamwatch.protocols import Delivery

SIGNATURE_HEADER = "X-StreamWatch-Signature"
ZERO_TIME = "0001-01-01T00:00:00Z"
"""Alertmanager's `endsAt` of an alert that still fires (webhook)."""
FIRING_FOR = 7 * 86_400.0
"""Alertmanager forgets an alert whose end has come. It is told an end far ahead, so that neither this service nor its
database need be up all the time, and the true one with the resolution."""
_NO_NAME = re.compile(r"[^a-zA-Z0-9_]|^(?=[0-9]|$)")


def webhook(receiver: str, deliveries: Sequence[Delivery]) -> dict[str, Any]:
    """One notification for alerts of one stream, in the shape of Alertmanager's webhook, version 4."""
    events = [d.event for d in deliveries]
    alerts = [_webhook_alert(event) for event in events]
    stream = events[0].after.stream
    return {
        "version": "4",
        "groupKey": f'{{}}:{{stream="{stream}"}}',
        "truncatedAlerts": 0,
        "status": "firing" if any(e.after.active for e in events) else "resolved",
        "receiver": receiver,
        "groupLabels": {"stream": stream},
        "commonLabels": _common([a["labels"] for a in alerts]),
        "commonAnnotations": _common([a["annotations"] for a in alerts]),
        "externalURL": "",
        "alerts": alerts,
    }


def alertmanager(alerts: Sequence[Alert], now: float) -> list[dict[str, Any]]:
    """The body of POST /api/v2/alerts, sent at wall time `now`."""
    return [
        {
            "labels": labels(alert),
            "annotations": _named(notes(alert)),
            "startsAt": iso(alert.opened_at.wall),
            "endsAt": iso(alert.resolved_at.wall if alert.resolved_at else now + FIRING_FOR),
        }
        for alert in alerts
    ]


def labels(alert: Alert) -> dict[str, str]:
    """What identifies the alert: the same from its opening to its resolution, as Alertmanager needs it."""
    name = "".join(part.capitalize() for part in alert.kind.value.split("_"))
    known = {
        "alertname": name,
        "alert_id": alert.id,
        "rule": alert.rule,
        "severity": alert.severity.value,
        "stream": alert.stream,
    }
    return {k: v for k, v in known.items() if v}


def notes(alert: Alert) -> dict[str, str]:
    """What changes in the course of an alert, and what people read. Labels of the configuration are among them."""
    said = {
        "summary": alert.summary,
        "value": f"{alert.value:.4g}",
        "peak": f"{alert.peak:.4g}",
        "threshold": f"{alert.threshold:.4g}",
    }
    return {**alert.labels, **said}


def event_key(event: AlertEvent) -> str:
    """The same for every attempt to deliver this event, and for no other event."""
    text = f"{event.after.id}\n{event.phase.value}\n{event.after.updated_at.wall!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def batch_key(deliveries: Sequence[Delivery]) -> str:
    """The idempotency key of one notification: for a single event that event's own key, which each alert of a
    notification also carries as its annotation `event`. An attempt that gathers further alerts has another key."""
    keys = sorted(event_key(d.event) for d in deliveries)
    return keys[0] if len(keys) == 1 else hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


def sign(secret: str, body: bytes, at: int) -> str:
    """The signature header: `t=<Unix seconds>,v1=<hex HMAC-SHA256 of "<t>." and the body>`. A receiver that also looks
    at t refuses what someone recorded and plays again."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def iso(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _webhook_alert(event: AlertEvent) -> dict[str, Any]:
    alert = event.after
    identity = labels(alert)
    fingerprint = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:16]
    return {
        "status": "firing" if alert.active else "resolved",
        "labels": identity,
        "annotations": {**notes(alert), "phase": event.phase.value, "event": event_key(event)},
        "startsAt": iso(alert.opened_at.wall),
        "endsAt": iso(alert.resolved_at.wall) if alert.resolved_at else ZERO_TIME,
        "generatorURL": "",
        "fingerprint": fingerprint,
    }


def _named(values: Mapping[str, str]) -> dict[str, str]:
    """With names that Alertmanager takes ([a-zA-Z_][a-zA-Z0-9_]*). A name that was one already is not overwritten."""
    mapped = {_NO_NAME.sub("_", name): value for name, value in values.items()}
    return {**mapped, **{name: value for name, value in values.items() if name in mapped}}


def _common(maps: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *rest = maps
    return {k: v for k, v in first.items() if all(m.get(k) == v for m in rest)}
