"""What holds for the dashboard's files without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streamwatch.server.static import DASHBOARD, load

FILES = sorted(path.relative_to(DASHBOARD).as_posix() for path in DASHBOARD.rglob("*") if path.is_file())
MODULES = [name for name in FILES if name.endswith(".js") and name != "js/theme.js"]


def text(name: str) -> str:
    return (DASHBOARD / name).read_text(encoding="utf-8")


def test_every_file_is_served() -> None:
    assert sorted(load()) == FILES


def test_modules_are_fetched_side_by_side() -> None:
    """Without the hints the browser finds each module only after it has read the one that imports it."""
    named = re.findall(r'(?:modulepreload" href|type="module" src)="([^"]+)"', text("index.html"))
    assert sorted(named) == MODULES


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".css", ".html"))])
def test_nothing_comes_from_elsewhere_and_nothing_is_inline(name: str) -> None:
    source = text(name)
    assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", re.sub(r"(?m)(?<!:)//.*$|rtsp://\S+", "", source))
    if name.endswith(".html"):
        assert not re.search(r"<style|style=|<script(?![^>]*\bsrc=)| on[a-z]+=", source)
    if name.endswith(".js"):
        assert "innerHTML" not in source  # names of streams and details of errors are text, never markup


@pytest.mark.parametrize("name", MODULES)
def test_imports_lead_to_files(name: str) -> None:
    folder = Path(name).parent
    for target in re.findall(r'from "\./([^"]+)"', text(name)):
        assert (folder / target).as_posix() in FILES


def test_files_stay_small() -> None:
    assert {name: lines for name in FILES if (lines := text(name).count("\n")) > 300} == {}
