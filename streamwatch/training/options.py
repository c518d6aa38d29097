"""What the commands that train have in common: options that no training can be made with, and errors in one line."""

from __future__ import annotations

import argparse
import textwrap

from streamwatch.errors import ConfigError

LONGEST_REASON = 200


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """ConfigError where one of these is given and not above 0, or the seed is negative."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name}: must be above 0, got {value:g}")
    if args.seed is not None and args.seed < 0:
        raise ConfigError(f"seed: must be at least 0, got {args.seed}")


def in_a_line(error: Exception) -> str:
    """The error without torch's line for each key."""
    return textwrap.shorten(str(error), LONGEST_REASON, placeholder=" ...")
