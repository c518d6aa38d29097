"""The bundled face detector for one-off use, outside the serving engine."""

from __future__ import annotations

from collections.abc import Callable

from streamwatch.config import DetectorSettings
from streamwatch.domain import Image
from streamwatch.inference.faces import Detection, FaceFinder, FinderSettings
from streamwatch.inference.models import detector_source


def bundled_finder() -> Callable[[Image], list[Detection]]:
    """Faces of one picture, best first. Raises WeightsError."""
    source = detector_source(DetectorSettings())
    finder = FaceFinder(source.load(), settings=FinderSettings(score_threshold=source.threshold))
    return lambda image: finder.find([image])[0]
