"""Where alerts go. A sink makes one attempt and raises DeliveryFailed; trying again is the dispatcher's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import httpx
from pydantic import SecretStr

from streamwatch.alerts import payload
from streamwatch.config import SinkSettings
from streamwatch.domain import Alert, Severity
from streamwatch.errors import ConfigError, DeliveryFailed
from streamwatch.protocols import Delivery

log = logging.getLogger("streamwatch.alerts")

REFUSED = frozenset({400, 413, 422})
"""Answers after which the same body would be refused again. A wrong password or path is worth another attempt:
someone will mend it."""
LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.CRITICAL: logging.ERROR}


class AlertSink(Protocol):
    """One place that alerts are delivered to."""

    async def send(self, deliveries: Sequence[Delivery]) -> None:
        """One notification about alerts of one stream. Raises DeliveryFailed; may be called again with the same
        deliveries."""

    async def close(self) -> None: ...


@runtime_checkable
class RenewingSink(AlertSink, Protocol):
    """A receiver that forgets alerts which it is not told again and again."""

    async def renew(self, alerts: Sequence[Alert]) -> None:
        """Says that these are still open. Raises DeliveryFailed."""


class LogSink:
    """One line an event."""

    async def send(self, deliveries: Sequence[Delivery]) -> None:
        for event in (d.event for d in deliveries):
            alert = event.after
            level = LEVELS[alert.severity] if alert.active else logging.INFO
            log.log(level, "%s %s [%s] %s", event.phase.value, alert.kind.value, alert.stream or "-", alert.summary)

    async def close(self) -> None: ...


class _HttpSink:
    """Common to the sinks that post JSON."""

    def __init__(self, url: str, timeout: float) -> None:
        self._timeout = timeout
        # httpx writes each request's URL to the log, and a webhook's path is often its password.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._url = url
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False)

    async def _post(self, body: Any, headers: Mapping[str, str]) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            # The status is all that counts: an answer that never ends, such as a camera's pictures, must not be read.
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    "POST", self._url, content=content, headers={"Content-Type": "application/json", **headers}
                ) as response,
            ):
                status = response.status_code
        except TimeoutError as error:
            raise DeliveryFailed(f"no answer within {self._timeout:g} s") from error
        except httpx.HTTPError as error:
            raise DeliveryFailed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        except (httpx.InvalidURL, ValueError) as error:
            raise DeliveryFailed("the URL cannot be used", retryable=False) from error
        if not httpx.codes.is_success(status):
            raise DeliveryFailed(f"answered {status}", retryable=status not in REFUSED)

    async def close(self) -> None:
        await self._client.aclose()


class WebhookSink(_HttpSink):
    """Alertmanager's webhook shape, signed where a secret is set, with an `Idempotency-Key` that attempts share.
    A further attempt may gather further alerts; then each alert's annotation `event` is still the same."""

    def __init__(self, name: str, url: str, secret: str | None, timeout: float) -> None:
        super().__init__(url, timeout)
        self._name = name
        self._secret = secret

    async def send(self, deliveries: Sequence[Delivery]) -> None:
        body = json.dumps(payload.webhook(self._name, deliveries)).encode()
        headers = {"Idempotency-Key": payload.batch_key(deliveries)}
        if self._secret is not None:
            headers[payload.SIGNATURE_HEADER] = payload.sign(self._secret, body, int(time.time()))
        await self._post(body, headers)


class AlertmanagerSink(_HttpSink):
    """Alertmanager's own API, version 2. `url` is its base address. It has to be told again what is open: a restart of
    it forgets some, and an end that was given far ahead comes at last."""

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(url.rstrip("/") + "/api/v2/alerts", timeout)

    async def send(self, deliveries: Sequence[Delivery]) -> None:
        await self.renew([d.event.after for d in deliveries])

    async def renew(self, alerts: Sequence[Alert]) -> None:
        await self._post(payload.alertmanager(alerts, time.time()), {})


class CommandSink:
    """A local command: the webhook's JSON on its standard input, exit code 0 means delivered. It has a process group
    of its own, which is killed when its time is up."""

    def __init__(self, name: str, command: Sequence[str], timeout: float) -> None:
        self._name = name
        self._command = tuple(command)
        self._timeout = timeout

    async def send(self, deliveries: Sequence[Delivery]) -> None:
        body = json.dumps(payload.webhook(self._name, deliveries)).encode()
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=pipe, stdout=null, stderr=null, start_new_session=True
            )
        except OSError as error:
            raise DeliveryFailed(f"{self._command[0]}: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(self._timeout):
                await process.communicate(body)
        except TimeoutError as error:
            raise DeliveryFailed(f"{self._command[0]}: not done within {self._timeout:g} s") from error
        finally:
            if process.returncode is None:
                _kill_group(process.pid)
                await process.wait()
        if process.returncode != 0:
            raise DeliveryFailed(f"{self._command[0]}: exit code {process.returncode}")

    async def close(self) -> None: ...


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class AppriseSink:
    """Mail and chat by way of Apprise (the extra `notify`)."""

    def __init__(self, name: str, url: str, timeout: float) -> None:
        try:
            import apprise  # noqa: PLC0415 - an extra, needed by this sink alone
        except ImportError:
            raise ConfigError(
                f"alerts.sinks.{name}: apprise is not installed: pip install 'streamwatch[notify]'"
            ) from None
        self._apprise = apprise.Apprise()
        self._timeout = timeout
        if not self._apprise.add(url):
            raise ConfigError(f"alerts.sinks.{name}.url: Apprise does not understand it")

    async def send(self, deliveries: Sequence[Delivery]) -> None:
        alerts = [d.event.after for d in deliveries]
        lines = [f"{'FIRING' if a.active else 'resolved'}: {a.summary} (alert {a.id})" for a in alerts]
        title = f"StreamWatch: {alerts[0].kind.value} {alerts[0].stream}".strip()
        try:
            async with asyncio.timeout(self._timeout):
                sent = await self._apprise.async_notify(body="\n".join(lines), title=title)
        except TimeoutError as error:
            raise DeliveryFailed(f"not done within {self._timeout:g} s") from error
        if not sent:
            raise DeliveryFailed("Apprise could not deliver it")

    async def close(self) -> None: ...


def make_sinks(settings: Mapping[str, SinkSettings]) -> dict[str, AlertSink]:
    """Raises ConfigError, one fault a line, where a sink lacks what its kind needs."""
    sinks: dict[str, AlertSink] = {}
    faults: list[str] = []
    for name, sink in settings.items():
        try:
            sinks[name] = _make(name, sink)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    return sinks


def _make(name: str, settings: SinkSettings) -> AlertSink:
    match settings.kind:
        case "log":
            return LogSink()
        case "command":
            if not settings.command:
                raise ConfigError(f"alerts.sinks.{name}.command: is required")
            return CommandSink(name, settings.command, settings.timeout)
        case "webhook":
            return WebhookSink(name, _http_url(name, settings.url), _text(settings.secret), settings.timeout)
        case "alertmanager":
            return AlertmanagerSink(_http_url(name, settings.url), settings.timeout)
        case "apprise":
            return AppriseSink(name, _url(name, settings.url), settings.timeout)


def _url(name: str, url: SecretStr | None) -> str:
    text = _text(url)
    if not text:
        raise ConfigError(f"alerts.sinks.{name}.url: is required")
    return text


def _http_url(name: str, url: SecretStr | None) -> str:
    text = _url(name, url)
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError(f"alerts.sinks.{name}.url: must be an http:// or https:// address")
    return text


def _text(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
