"""Which weight sets are here, and which can be had."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from streamwatch.inference.weights_store import SetStatus, list_sets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace) -> int:
    del args
    rows = list_sets()
    table = Table("set", "here", "size", "to fetch", "terms", box=None, pad_edge=False)
    for row in rows:
        fetch = f"{row.download / 1e9:.0f} GB" if row.download else ""
        table.add_row(row.name, _here(row), _size(row.size), fetch, row.terms)
    Console().print(table)
    for place in dict.fromkeys(row.place for row in rows):
        print(place)
    return 0


def _here(row: SetStatus) -> str:
    if not row.present:
        return "-"
    return ", ".join(row.present) + (f" (not {', '.join(row.absent)})" if row.absent else "")


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else "-"
