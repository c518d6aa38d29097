"""Print the JSON Schema of the configuration file."""

from __future__ import annotations

import argparse
import json

from streamwatch.config import json_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace) -> int:
    del args
    print(json.dumps(json_schema(), indent=2))
    return 0
