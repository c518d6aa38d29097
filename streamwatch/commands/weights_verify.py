"""Check every file against its manifest: hash, keys and shapes; exit code 4 where something is wrong."""

from __future__ import annotations

import argparse

from streamwatch.errors import WeightsError
from streamwatch.inference.weights_store import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="SET", help="default: all that are here")


def run(args: argparse.Namespace) -> int:
    rows = verify(args.names)
    for row in rows:
        print(f"{'fine' if row.fault is None else 'FAULT':<6}{row.name:<28}{row.fault or ''}")
    return WeightsError.exit_code if any(row.fault for row in rows) else 0
