"""Create an access token. It is printed once, and kept only as a hash."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from streamwatch.config import load
from streamwatch.errors import ConfigError
from streamwatch.server.tokens import Scope, TokenStore

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Which file of tokens: that of the configuration."""
    default = os.environ.get("STREAMWATCH_CONFIG")
    parser.add_argument(
        "-c", "--config", type=Path, default=Path(default) if default else None, metavar="FILE",
        help="configuration file, for server.auth.tokens (default: $STREAMWATCH_CONFIG)",
    )  # fmt: skip


def store_of(args: argparse.Namespace) -> TokenStore:
    return TokenStore(load(args.config).server.auth.tokens)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="who or what will use it")
    parser.add_argument(
        "--scope", action="append", choices=[scope.value for scope in Scope], metavar="SCOPE",
        help="read (default), operate (also changes streams and alerts), admin (all), metrics; may be given again",
    )  # fmt: skip
    parser.add_argument("--days", type=float, metavar="N", help="ends after so many days (default: never)")
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    if not _NAME.match(args.name):
        raise ConfigError(f"name: {args.name!r}: must be 1 to 64 letters, digits or any of . _ @ -")
    if args.days is not None and not 0 < args.days <= 36_500:
        raise ConfigError("--days: must be more than 0 and at most 36500")
    scopes = tuple(dict.fromkeys(Scope(name) for name in args.scope or ["read"]))
    store = store_of(args)
    token = store.create(args.name, scopes, args.days * 86_400 if args.days else None)
    print(token)
    print(f"kept as a hash in {store.path}; it is not shown again", file=sys.stderr)
    return 0
