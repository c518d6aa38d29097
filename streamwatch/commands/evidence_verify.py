"""Prove that evidence is what was sealed; exit code 5 where it is not."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamwatch.alerts.verify import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="one alert's bundle, or the directory of all")
    parser.add_argument(
        "--public-key", type=Path, metavar="PEM", help="the key that you trust (default: the one beside the evidence)"
    )
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="HASH",
        help="a head of the chain that you kept elsewhere (printed here and logged with each alert); may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    proof = verify(args.directory, args.public_key, args.head)
    print(f"{args.directory}: holds. {proof.bundles} bundles verified, {proof.removed} removed by retention")
    print(f"key  {proof.key}" + ("" if args.public_key else "  (found beside the evidence, not given by you)"))
    if proof.left:
        print(f"left {', '.join(proof.left)}: no evidence any more, the service removes what is left of it")
    if proof.head:
        print(f"head {proof.head}")
    return 0
