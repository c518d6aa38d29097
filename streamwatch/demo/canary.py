"""The canary: the demo's two people as a stream with known answers, `url: "canary:"`. When it is no longer judged real
and fake by turns, the detector itself has failed (rules of kind `canary`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from streamwatch.config import StreamSettings
from streamwatch.demo.clip import demo_clip
from streamwatch.demo.finder import bundled_finder
from streamwatch.errors import StorageError

SCHEME = "canary:"


def is_canary(settings: StreamSettings) -> bool:
    return settings.url.get_secret_value() == SCHEME


def canary_clip(progress: Callable[[float], None] | None = None) -> Path:
    """Renders the clip where it is not there yet (some 15 s). Raises StorageError, WeightsError."""
    # The detector is loaded only where there is something to render.
    return demo_clip(lambda picture: bundled_finder()(picture), progress=progress)  # noqa: PLW0108


async def render_canary() -> None:
    """`canary_clip` in a thread. A cancellation ends it with the picture in hand: Ctrl-C does not wait for the rest."""
    stop = threading.Event()

    def progress(share: float) -> None:
        if stop.is_set():
            raise StorageError(f"the canary's clip was given up at {share:.0%}")

    work = asyncio.create_task(asyncio.to_thread(canary_clip, progress))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])
        work.exception()
        raise


def canary_source(settings: StreamSettings) -> StreamSettings:
    """The settings themselves, or for a canary those of the looping clip."""
    if not is_canary(settings):
        return settings
    return settings.model_copy(update={"url": SecretStr(f"file:{canary_clip()}"), "loop": True, "realtime": True})
