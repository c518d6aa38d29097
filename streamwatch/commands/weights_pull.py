"""Fetch DF-Spot's published checkpoints and import them."""

from __future__ import annotations

import argparse

from streamwatch.commands.weights_progress import WeightsProgress
from streamwatch.inference.weights_pull import DRIVE_IDS, pull


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="SET", help=f"{', '.join(DRIVE_IDS)}, or all (about 14 GB each)")


def run(args: argparse.Namespace) -> int:
    with WeightsProgress() as progress:
        taken = pull(args.names, progress)
    print("\n".join(taken))
    return 0
