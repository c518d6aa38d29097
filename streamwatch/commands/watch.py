"""Watch one stream without a configuration file: the dashboard on loopback, and a line a second here. What it finds is
gone when it ends, unless the environment says where to keep it."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from streamwatch.app import Service
from streamwatch.commands.console import print_scores
from streamwatch.config import Config, load, parse
from streamwatch.ingest.source import check_source
from streamwatch.runner import run_until_stopped

STREAM = "stream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="rtsp://user:password@host/path, http(s)://, file:PATH, webcam:0, lavfi:...")
    parser.add_argument("--id", default=STREAM, help="the stream's slug")
    parser.add_argument("--fps", type=float, help="analysed frames a second (default: 2)")
    parser.add_argument("--threshold", type=float, help="default: the weight set's own")
    parser.add_argument("--transport", choices=("auto", "tcp", "udp"))
    parser.add_argument("--weights", help="weight set (default: bundled)")
    parser.add_argument("--loop", action="store_true", help="file: only, start again at the end")
    parser.add_argument("--host", help="where the dashboard listens (default: the environment's, else loopback)")
    parser.add_argument(
        "--port", type=int, help="of the dashboard (default: the environment's, else 8460; 0: a free one)"
    )
    parser.add_argument("--duration", type=float, metavar="S", help="end by itself after so many seconds")


def watch_config(args: argparse.Namespace, scratch: Path) -> Config:
    """The environment's settings with this one stream. History and evidence go to `scratch` where the environment does
    not place them: those of a service that runs here are not ours. Raises ConfigError."""
    stream = {"url": args.url, "loop": args.loop}
    stream |= {
        key: value
        for key, value in {"sample_fps": args.fps, "threshold": args.threshold, "transport": args.transport}.items()
        if value is not None
    }
    base = load(None).model_dump(exclude_unset=True, by_alias=True)
    base["streams"] = {args.id: stream}
    given = {"host": args.host, "port": args.port}
    base["server"] = {**base.get("server", {}), **{key: value for key, value in given.items() if value is not None}}
    base["history"] = {"url": f"sqlite+aiosqlite:///{scratch / 'history.db'}", **base.get("history", {})}
    alerts = base.setdefault("alerts", {})
    alerts["evidence"] = {"directory": scratch / "evidence", **alerts.get("evidence", {})}
    if args.weights:
        base["ensemble"] = {**base.get("ensemble", {}), "weights": args.weights}
    base.setdefault("log_level", "warning")
    return parse(base, source="watch")


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="streamwatch-watch-") as scratch:
        return asyncio.run(_watch(args, Path(scratch)))


async def _watch(args: argparse.Namespace, scratch: Path) -> int:
    config = watch_config(args, scratch)
    for stream in config.streams.values():
        check_source(stream, config.ingest)
    service = Service(config)

    def announce() -> None:
        if config.alerts.evidence.directory.is_relative_to(scratch):
            print("evidence   until this ends; `streamwatch serve` keeps it")
        print(f"dashboard  {service.url}", flush=True)

    await run_until_stopped(service, announce, print_scores(service), args.duration)
    return 0
