"""Which files are scanned, and which frames of a video."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from streamwatch.errors import ConfigError

_COMMON = (".mp4", ".avi", ".mkv", ".wmv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
_RARER = (".ts", ".mts", ".m2ts", ".flv", ".3gp", ".ogv", ".vob", ".mxf", ".asf")
VIDEO_SUFFIXES = frozenset(_COMMON + _RARER)
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


class MediaKind(StrEnum):
    VIDEO = "video"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class MediaFile:
    path: Path
    kind: MediaKind


def find_media(paths: Iterable[Path], kinds: Iterable[MediaKind] = tuple(MediaKind)) -> list[MediaFile]:
    """Files as given, and those of folders (all depths, sorted) that look like media. A file that was named is taken
    whatever it is called. Raises ConfigError for a path that is not there, or where nothing is found."""
    found: dict[Path, MediaFile] = {}
    wanted = set(kinds)
    given = list(paths)
    for path in given:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                kind = kind_of(file)
                if kind in wanted and file.is_file():
                    found.setdefault(file.resolve(), MediaFile(file, kind))
        elif path.exists():
            found.setdefault(path.resolve(), MediaFile(path, kind_of(path) or MediaKind.VIDEO))
        else:
            raise ConfigError(f"{path}: there is no such file or folder")
    if not found:
        raise ConfigError(f"{', '.join(map(str, given))}: holds no video and no image")
    return list(found.values())


def kind_of(path: Path) -> MediaKind | None:
    """By the file's name; None for neither."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return MediaKind.IMAGE
    return MediaKind.VIDEO if suffix in VIDEO_SUFFIXES else None


def sample_indices(count: int, wanted: int | None) -> list[int]:
    """DF-Spot's choice of frames: `wanted` evenly spaced, the first and the last among them; None takes all."""
    if count <= 0:
        return []
    if wanted is None:
        return list(range(count))
    return [int(index) for index in np.unique(np.linspace(0, count - 1, wanted, dtype=int))]
