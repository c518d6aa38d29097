"""The command line: finds the command, hands it its arguments, and turns errors into one line and an exit code.

Exit codes: 0 done; 1 another error; 2 wrong arguments or configuration; 3 some recorded files could not be read;
4 weights or device; 5 evidence does not verify; 6 the server could not start; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from streamwatch import __version__, logs

INTERRUPTED = 130
_LONG = ("train", "calibrate", "evaluate")


@dataclass(frozen=True, slots=True)
class Command:
    """A command's module has `add_arguments(parser)` and `run(args) -> int`. It is imported only when it runs, so
    that `--help` does not wait for torch."""

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "serve": Command("streamwatch.commands.serve", "watch the streams of a configuration file"),
    "watch": Command("streamwatch.commands.watch", "watch one stream, without a configuration file"),
    "demo": Command("streamwatch.commands.demo", "a camera, the service and the dashboard, on this machine alone"),
    "scan": Command("streamwatch.scan.command", "score recorded videos and images"),
    "tail": Command("streamwatch.commands.tail", "follow a running service's scores"),
    "weights list": Command("streamwatch.commands.weights_list", "which weight sets are here, and which can be had"),
    "weights pull": Command("streamwatch.commands.weights_pull", "fetch DF-Spot's published checkpoints"),
    "weights import": Command("streamwatch.commands.weights_import", "take in checkpoints got by hand"),
    "weights verify": Command("streamwatch.commands.weights_verify", "check every file against its manifest"),
    "train detector": Command("streamwatch.training.detector", "train the face detector"),
    "train ensemble": Command("streamwatch.training.command", "train a member of the ensemble"),
    "train prepare": Command("streamwatch.training.prepare", "label a folder of portraits for training"),
    "calibrate": Command("streamwatch.training.calibrate", "set temperatures and threshold"),
    "evaluate": Command("streamwatch.training.evaluate", "measure a weight set"),
    "config check": Command("streamwatch.commands.config_check", "check a configuration file"),
    "config schema": Command("streamwatch.commands.config_schema", "print the configuration's JSON Schema"),
    "replay": Command("streamwatch.replay.command", "what rules would have done on recorded scores"),
    "rules tune": Command("streamwatch.replay.tune", "choose thresholds for a false-alarm rate"),
    "alerts test": Command("streamwatch.commands.alerts_test", "send one test alert through every sink"),
    "evidence verify": Command("streamwatch.commands.evidence_verify", "prove that evidence was not changed"),
    "token create": Command("streamwatch.commands.token_create", "create an access token"),
    "token list": Command("streamwatch.commands.token_list", "list access tokens"),
    "token revoke": Command("streamwatch.commands.token_revoke", "revoke an access token"),
}


def usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: streamwatch [--version] [--help] COMMAND ...",
            "",
            "Real-time deepfake monitoring of live video.",
            "",
            "commands:",
            *lines,
            "",
            "`streamwatch COMMAND --help` explains one.",
        ]
    )


def find_command(arguments: Sequence[str]) -> tuple[str, list[str]] | None:
    """(command, its arguments): two words before one."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, list(arguments[words:])
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code. Ctrl-C is one, never a traceback."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ("--version", "-V"):
        print(f"streamwatch {__version__}")
        return 0
    if not given or given[0] in ("--help", "-h", "help"):
        print(usage())
        return 0 if given else 2
    found = find_command(given)
    if found is None:
        return unknown(given)
    name, rest = found
    command = COMMANDS[name]
    module = _import(command.module)
    from streamwatch.errors import StreamWatchError  # here, because it loads numpy, and only `_import` may take long

    parser = argparse.ArgumentParser(prog=f"streamwatch {name}", description=module.__doc__, allow_abbrev=False)
    module.add_arguments(parser)
    if name.startswith(_LONG):
        logs.configure("info", "text")  # they tell their progress as log lines
    try:
        return int(module.run(parser.parse_args(rest)))
    except StreamWatchError as error:
        for line in str(error).splitlines():
            print(f"streamwatch: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _import(name: str) -> ModuleType:
    """The module, torch and all, which takes a second. Until it is there nothing has to be tidied up: Ctrl-C ends the
    process as it ends any program, and not with an exception from the depths of somebody's extension module."""
    before = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or before not in (signal.SIG_DFL, signal.default_int_handler):  # ignored, or somebody else's
        return importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return importlib.import_module(name)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def unknown(given: Sequence[str]) -> int:
    group = [name for name in COMMANDS if name.startswith(f"{given[0]} ")]
    if group:
        print(f"streamwatch {given[0]}: one of", ", ".join(name.split()[1] for name in group), file=sys.stderr)
        if len(given) > 1 and given[1] in ("--help", "-h"):
            return 0
        return 2
    print(f"streamwatch: there is no command {given[0]!r}; `streamwatch --help` lists them", file=sys.stderr)
    return 2
