"""`watch` beside a service that runs in the same directory."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from streamwatch.commands.watch import add_arguments, watch_config


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_it_writes_where_no_service_does(tmp_path: Path) -> None:
    config = watch_config(arguments("rtsp://127.0.0.1:9/x"), tmp_path)
    assert config.alerts.evidence.directory == tmp_path / "evidence"
    assert config.history.url.get_secret_value() == f"sqlite+aiosqlite:///{tmp_path / 'history.db'}"


def test_it_keeps_things_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMWATCH_ALERTS__EVIDENCE__DIRECTORY", "/kept/evidence")
    monkeypatch.setenv("STREAMWATCH_HISTORY__URL", "sqlite+aiosqlite:////kept/history.db")
    config = watch_config(arguments("rtsp://127.0.0.1:9/x", "--port", "0"), tmp_path)
    assert config.alerts.evidence.directory == Path("/kept/evidence")
    assert config.history.url.get_secret_value() == "sqlite+aiosqlite:////kept/history.db"
