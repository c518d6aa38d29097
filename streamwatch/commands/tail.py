"""Follow a running service: a line for each score, change of state and alert. Reconnects and resumes by itself."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from streamwatch.client import follow
from streamwatch.errors import ConfigError

BAR = 20
_COLOURS = {"real": "32", "suspect": "33", "fake": "31", "unknown": "2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:8460", help="address (default: %(default)s)")
    parser.add_argument("streams", nargs="*", metavar="STREAM", help="only these")
    parser.add_argument("--json", action="store_true", help="the messages as they come, one a line")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token (default: $STREAMWATCH_TOKEN)")
    parser.add_argument("--once", action="store_true", help="end when the connection breaks")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after so long")


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_tail(args))


async def _tail(args: argparse.Namespace) -> int:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    try:
        async with asyncio.timeout(args.seconds):
            async for message in follow(
                args.url,
                token=_token(args.token_file),
                streams=args.streams or None,
                reconnect=not args.once,
                lost=lambda why, delay: print(f"disconnected: {why}; again in {delay:.1f} s", file=sys.stderr),
            ):
                for line in [json.dumps(message)] if args.json else lines(message, colour=colour):
                    print(line, flush=True)
    except TimeoutError:
        pass
    return 0


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("STREAMWATCH_TOKEN")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file: {path}: cannot be read: {error}") from error


def lines(message: dict[str, Any], *, colour: bool = False) -> list[str]:
    """What a message says, for people; heartbeats say nothing."""
    kind = message["type"]
    if kind == "snapshot":
        held = [entry[part] for entry in message["streams"] for part in ("status", "score") if entry[part]]
        return [line for part in held for line in lines(part, colour=colour)]
    if kind == "score":
        return [_score_line(message, colour=colour)]
    if kind == "stream":
        why = f" ({message['reason']}: {message['detail']})" if message["reason"] else ""
        return [f"{_clock(message['at'])}  {message['stream']:<16} {message['state']}{why}"]
    if kind == "removed":
        return [f"{_clock(message['at'])}  {message['stream']:<16} removed"]
    if kind == "alert":
        alert = message["after"]
        text = f"{_clock(alert['updated_at'])}  {message['stream']:<16} ALERT {message['phase']}: {alert['summary']}"
        return [_painted(text, "1;31" if alert["active"] else "1;32", colour=colour)]
    return [f"error: {message['message']}"] if kind == "error" else []


def _score_line(message: dict[str, Any], *, colour: bool) -> str:
    score, verdict = message["score"], message["verdict"]
    shown = f"{score:.2f} {'#' * round(score * BAR):<{BAR}}" if score is not None else f"  -- {'':<{BAR}}"
    why = ": ".join(filter(None, (message["reason"], message.get("gate"))))
    reason = f" ({why})" if why else ""
    skipped = f"  {message['skipped']} skipped" if message.get("skipped") else ""
    text = f"{_clock(message['captured_at'])}  {message['stream']:<16} {shown} {verdict}{reason}"
    return _painted(f"{text}  {message['age_ms']} ms{skipped}", _COLOURS[verdict], colour=colour)


def _painted(text: str, code: str, *, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _clock(iso: str) -> str:
    return time.strftime("%H:%M:%S", datetime.fromisoformat(iso).astimezone().timetuple())
