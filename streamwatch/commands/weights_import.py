"""Take in checkpoints that were got by hand: a .pth file, a folder, a zip or tar archive."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamwatch.commands.weights_progress import WeightsProgress
from streamwatch.inference.weights_import import import_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="like dfdc_vit.pth, blazeface.pth, or an archive"
    )


def run(args: argparse.Namespace) -> int:
    for path in args.paths:
        with WeightsProgress() as progress:
            taken = import_weights(path, progress)
        print("\n".join(taken))
    return 0
