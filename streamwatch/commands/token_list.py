"""List access tokens: their names, scopes and dates."""

from __future__ import annotations

import argparse
import time

from streamwatch.commands.token_create import add_store_argument, store_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    records = store_of(args).records()
    width = max([4, *(len(record.name) for record in records)])
    print(f"{'name':<{width}}  {'scopes':<20}  {'created':<10}  ends")
    for record in records:
        ends = _day(record.expires_at) if record.expires_at else "never"
        note = "" if record.valid(time.time()) else " (over)"
        scopes = ",".join(record.scopes)
        print(f"{record.name:<{width}}  {scopes:<20}  {_day(record.created_at):<10}  {ends}{note}")
    return 0


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))
