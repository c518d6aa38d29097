"""Revoke an access token. It holds at once, in a running service too; sessions that it opened end with it."""

from __future__ import annotations

import argparse

from streamwatch.commands.token_create import add_store_argument, store_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    store_of(args).revoke(args.name)
    print(f"revoked {args.name}")
    return 0
