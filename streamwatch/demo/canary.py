"""The canary: the demo's two people as a stream with known answers, `url: "canary:"`. When it is no longer judged real
and fake by turns, the detector itself has failed (rules of kind `canary`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from streamwatch.config import StreamSettings
from streamwatch.demo.clip import demo_clip
from streamwatch.demo.finder import bundled_finder

SCHEME = "canary:"


def is_canary(settings: StreamSettings) -> bool:
    return settings.url.get_secret_value() == SCHEME


def canary_clip() -> Path:
    """Renders the clip where it is not there yet (some 15 s). Raises StorageError, WeightsError."""
    # The detector is loaded only where there is something to render.
    return demo_clip(lambda picture: bundled_finder()(picture))  # noqa: PLW0108


def canary_source(settings: StreamSettings) -> StreamSettings:
    """The settings themselves, or for a canary those of the looping clip."""
    if not is_canary(settings):
        return settings
    return settings.model_copy(update={"url": SecretStr(f"file:{canary_clip()}"), "loop": True, "realtime": True})
