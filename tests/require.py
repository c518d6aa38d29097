"""What a test needs beyond the package: it skips where that is absent, and fails where STREAMWATCH_REQUIRE names it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def _absent(what: str, reason: str) -> None:
    if what in os.environ.get("STREAMWATCH_REQUIRE", "").split(","):
        pytest.fail(f"STREAMWATCH_REQUIRE names {what!r}, but {reason}")
    pytest.skip(f"needs {what}: {reason}")


def data_dir() -> Path:
    """The development data, found by STREAMWATCH_DATA_DIR."""
    given = os.environ.get("STREAMWATCH_DATA_DIR")
    if not given or not (Path(given) / "clips" / "clips.csv").is_file():
        _absent("data", "STREAMWATCH_DATA_DIR is not set, or holds no clips/clips.csv")
    assert given is not None
    return Path(given)


def browser() -> str:
    """The path of a Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        _absent("browser", "no chromium on the PATH")
    assert path is not None
    return path


def prometheus(*programs: str) -> list[str]:
    """Paths of the asked-for programs (default: promtool)."""
    names = programs or ("promtool",)
    for name in names:
        if shutil.which(name) is None:
            _absent("prometheus", f"{name} is not on the PATH")
    return [shutil.which(name) or name for name in names]


def postgres() -> Path:
    """The directory of initdb, postgres and pg_ctl (Debian keeps them off the PATH)."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for directory in candidates:
        if (directory / "initdb").exists():
            return directory
    _absent("postgres", "no initdb found")
    raise AssertionError("unreachable")
