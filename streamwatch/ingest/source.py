"""From a stream's settings to its Source: the one place that knows which kind of URL is opened by what."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from streamwatch.config import IngestSettings, StreamSettings
from streamwatch.domain import FailureReason
from streamwatch.errors import ConfigError, HostUnknown, SourceUnavailable
from streamwatch.ingest.allow import AllowList, check_url
from streamwatch.ingest.av import AvSource
from streamwatch.ingest.decode import Limits
from streamwatch.ingest.plans import authorities, plan, without_redirects
from streamwatch.ingest.reaper import Reaper
from streamwatch.ingest.webrtc import WebRtcGateway, WhipSource
from streamwatch.ingest.whep import WhepSource
from streamwatch.protocols import Sink


class RatedSource(Protocol):
    """A protocols.Source whose sampling rate can be changed while it runs, from any thread."""

    @property
    def waits(self) -> bool:
        """It waits for its peer, for as long as that takes: no limit holds before its first picture."""

    @property
    def skew(self) -> float | None:
        """The camera's wall clock minus ours, in seconds; None where it does not tell the time."""

    async def run(self, sink: Sink) -> None: ...
    def set_rate(self, fps: float) -> None: ...


_NETWORK = frozenset({"rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "whep+http", "whep+https"})


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What all sources of one service share. Without a gateway there are no `whip:` streams."""

    reaper: Reaper = field(default_factory=Reaper)
    gateway: WebRtcGateway | None = None


class _Guarded:
    """Checks the host's addresses before each connection: a name may point elsewhere than when it was added."""

    def __init__(self, inner: RatedSource, url: str, allowed: AllowList, reaper: Reaper) -> None:
        self._inner, self._url, self._allowed, self._reaper = inner, url, allowed, reaper
        self.waits = inner.waits
        self.set_rate = inner.set_rate

    @property
    def skew(self) -> float | None:
        return self._inner.skew

    async def run(self, sink: Sink) -> None:
        try:
            addresses = await check_url(self._url, self._allowed, self._reaper)
        except HostUnknown as error:  # a name server that is away for a while refuses nothing
            raise SourceUnavailable(str(error), FailureReason.CONNECTION_FAILED) from error
        if addresses and isinstance(self._inner, AvSource):
            # Any of them, since all were checked: where one is dead, a later attempt takes another.
            self._inner.pin(str(random.choice(addresses)))
        elif isinstance(self._inner, WhepSource):
            self._inner.pin(addresses)
        await self._inner.run(sink)


def check_source(settings: StreamSettings, ingest: IngestSettings) -> None:
    """Raises ConfigError for a URL of which no attempt could ever make a source: an unknown scheme, no host."""
    url = settings.url.get_secret_value()
    scheme = url.partition(":")[0].lower()
    if scheme in _NETWORK:
        try:
            parts = urlsplit(url.removeprefix("whep+"))
            host, _ = parts.hostname, parts.port  # a password that was not quoted often shows as a port that is none
        except ValueError as error:
            what = "is not a valid address (a user or password holding / ? # or @ must be percent-encoded)"
            raise ConfigError(f"url: {what}") from error
        if not host:
            raise ConfigError(f"url: {scheme}:// needs a host")
    if scheme not in ("whip", "canary") and not scheme.startswith("whep+http"):
        plan(settings, ingest)


def check_sources(streams: Mapping[str, StreamSettings], ingest: IngestSettings) -> None:
    """`check_source` of each; raises ConfigError with all faults, each with its place."""
    faults = []
    for name, settings in streams.items():
        try:
            check_source(settings, ingest)
        except ConfigError as error:
            faults += [f"streams.{name}.{fault}" for fault in error.faults]
    if faults:
        raise ConfigError(*faults)


def make_source(
    stream: str,
    settings: StreamSettings,
    ingest: IngestSettings,
    context: SourceContext,
    allowed: AllowList | None = None,
) -> RatedSource:
    """A fresh source for one attempt. Raises ConfigError for a URL of no known kind.

    To be handed to a Supervisor as `lambda: make_source(stream, settings, ingest, context)`. `allowed` is for streams
    that were added by the API: its `run` raises UrlNotAllowed where the host is not on the list.
    """
    fps = settings.sample_fps or ingest.sample_fps
    limits = Limits(ingest.open_timeout, ingest.read_timeout, ingest.max_frame_age, ingest.max_side)
    url = settings.url.get_secret_value()
    scheme = url.partition(":")[0].lower()
    source: RatedSource
    if scheme == "whip":
        if context.gateway is None:
            raise ConfigError("url: WebRTC ingest is not available")
        source = WhipSource(stream, context.gateway, fps, limits)
    elif scheme in ("whep+http", "whep+https"):
        source = WhepSource(url, context.reaper, fps, limits, authorities(settings, scheme))
    else:
        chosen = plan(settings, ingest)
        if allowed is not None:
            chosen = without_redirects(chosen)
        source = AvSource(chosen, context.reaper, fps, limits, settings.decoder or ingest.decoder)
    return source if allowed is None else _Guarded(source, url, allowed, context.reaper)


SourceMaker = Callable[[], RatedSource]
