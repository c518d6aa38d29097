"""From a stream's settings to its Source: the one place that knows which kind of URL is opened by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from streamwatch.config import IngestSettings, StreamSettings
from streamwatch.domain import Sink
from streamwatch.ingest.av import AvSource
from streamwatch.ingest.decode import Limits
from streamwatch.ingest.plans import plan
from streamwatch.ingest.reaper import Reaper


class RatedSource(Protocol):
    """A domain.Source whose sampling rate can be changed while it runs, from any thread."""

    async def run(self, sink: Sink) -> None: ...
    def set_rate(self, fps: float) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What all sources of one service share."""

    reaper: Reaper = field(default_factory=Reaper)


def make_source(stream: str, settings: StreamSettings, ingest: IngestSettings, context: SourceContext) -> RatedSource:
    """A fresh source for one attempt. Raises ConfigError for a URL of no known kind.

    To be handed to a Supervisor as `lambda: make_source(stream, settings, ingest, context)`.
    """
    fps = settings.sample_fps or ingest.sample_fps
    limits = Limits(ingest.open_timeout, ingest.read_timeout, ingest.max_frame_age)
    return AvSource(plan(settings, ingest), context.reaper, fps, limits, settings.decoder or ingest.decoder)


SourceMaker = Callable[[], RatedSource]
