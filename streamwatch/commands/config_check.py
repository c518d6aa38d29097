"""Check a configuration file: one line for each fault, exit code 2 where there is one."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamwatch.alerts.rules import check_rules
from streamwatch.alerts.silences import parse_silences
from streamwatch.alerts.sinks import make_sinks
from streamwatch.config import Config, load
from streamwatch.errors import ConfigError
from streamwatch.ingest.source import check_sources
from streamwatch.server.oidc import verifier_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)


def run(args: argparse.Namespace) -> int:
    config = load_checked(args.file)
    print(f"{args.file}: fine, {len(config.streams)} streams")
    return 0


def load_checked(path: Path | None) -> Config:
    """The settings, with all that can be found wrong in them before anything is started. Raises ConfigError."""
    config = load(path)
    faults = [f"{path or 'environment'}: {fault}" for fault in _faults(config)]
    if faults:
        raise ConfigError(*faults)
    return config


def _faults(config: Config) -> list[str]:
    """What only the rooms know: rules that contradict themselves, silences that end before they begin, sinks that
    lack a part, URLs that nothing can open, half an identity provider."""
    faults: list[str] = []
    for check in (
        lambda: check_rules(config.alerts),
        lambda: parse_silences(config.alerts.silences),
        lambda: make_sinks(config.alerts.sinks),
        lambda: check_sources(config.streams, config.ingest),
        lambda: verifier_of(config.server.auth),
    ):
        try:
            check()
        except ConfigError as error:
            faults += error.faults
    return faults
