"""Watch the streams of a configuration file until SIGTERM or Ctrl-C; SIGHUP reads the file again."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from streamwatch.app import Service
from streamwatch.commands.config_check import load_checked
from streamwatch.runner import run_until_stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("STREAMWATCH_CONFIG")
    parser.add_argument(
        "-c", "--config", type=Path, default=Path(default) if default else None, metavar="FILE",
        help="configuration file (default: $STREAMWATCH_CONFIG, else the environment alone)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_serve(args.config))


async def _serve(path: Path | None) -> int:
    service = Service(load_checked(path), path)
    await run_until_stopped(service, lambda: print(f"dashboard  {service.url}", flush=True))
    return 0
