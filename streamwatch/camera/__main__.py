"""The camera as a process of its own: `python -m streamwatch.camera clip.mp4 --port 8554`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import av

from streamwatch.camera import Camera, Credentials


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m streamwatch.camera", description="Serve video files as an RTSP camera."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="played one after another, for ever")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=8554, help="0 takes a free one")
    parser.add_argument("--path", default="/cam")
    parser.add_argument("--sound", action="store_true", help="with a track of silence, as of a microphone")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    parser.add_argument("--auth", choices=("basic", "digest"), default="digest")
    parser.add_argument("--until-eof", action="store_true", help="end with whoever holds standard input open")
    parser.add_argument("--transport", choices=("both", "tcp", "udp"), default="both")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    who = Credentials(arguments.user, arguments.password, arguments.auth) if arguments.user else None
    where = {"host": arguments.host, "port": arguments.port, "path": arguments.path}
    async with Camera(arguments.files, credentials=who, sound=arguments.sound, **where) as camera:
        if arguments.transport != "both":
            camera.transports = {arguments.transport}
        print(camera.url, flush=True)
        ended = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers in the loop
                asyncio.get_running_loop().add_signal_handler(name, ended.set)
        watching = asyncio.create_task(_end_of_input(ended)) if arguments.until_eof else None
        await ended.wait()
        if watching is not None:
            watching.cancel()


async def _end_of_input(ended: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    ended.set()


def main() -> int:
    try:
        asyncio.run(_serve(_arguments()))
    except (OSError, ValueError, av.error.FFmpegError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
