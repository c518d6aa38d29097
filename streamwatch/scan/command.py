"""`streamwatch scan PATH...`: score recorded videos and images."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamwatch.errors import ConfigError
from streamwatch.scan.media import MediaFile, find_media
from streamwatch.scan.options import FORMATS, Format, ScanOptions
from streamwatch.scan.outputs import write_outputs
from streamwatch.scan.pipeline import scan, unreadable
from streamwatch.scan.records import FileResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="videos, images, or folders of them")
    parser.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="default: output")
    parser.add_argument(
        "--weights", default="bundled", help="bundled, dfspot-celeb, dfspot-dfdc, dfspot-ffpp, or a folder"
    )
    parser.add_argument("--model", nargs="+", metavar="MEMBER", help="only these members of the ensemble")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads on a CPU; 0: all cores but one")
    parser.add_argument(
        "--frames-per-video", type=_frames, metavar="N|all", help="evenly spaced; 32, with --annotate all"
    )
    parser.add_argument("--face-policy", choices=("scale", "tight"), default="scale", help="of DF-Spot's sets")
    parser.add_argument("--face-size", type=int, default=224, help="of DF-Spot's sets")
    parser.add_argument("--threshold", type=float, help="fake from this score on; default: the weight set's own")
    parser.add_argument("--annotate", action="store_true", help="write each video again with boxes and scores in it")
    parser.add_argument("--annotate-format", choices=("mp4", "avi"), default="mp4")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="files worked on at once")
    parser.add_argument("--format", type=_formats, default=("csv", "json", "jsonl"), help=f"of {','.join(FORMATS)}")


def run(args: argparse.Namespace) -> int:
    options = options_of(args)
    media = find_media(options.paths)
    console = Console(stderr=True)
    with ConsoleProgress(console, len(media)) as progress:
        results = asyncio.run(scan(options, media, progress))
    written = write_outputs(options.output, results, options.formats)
    print_table(results)
    print(f"written to {options.output}: {', '.join(path.name for path in written)}")
    failure = unreadable(results)
    if failure is not None:
        print(failure, file=sys.stderr)
        return failure.exit_code
    return 0


def options_of(args: argparse.Namespace) -> ScanOptions:
    """Raises ConfigError naming the argument that is out of range."""
    for name, low in (("jobs", 1), ("face_size", 32), ("threads", 0)):
        if getattr(args, name) < low:
            raise ConfigError(f"--{name.replace('_', '-')}: must be at least {low}")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ConfigError("--threshold: must be between 0 and 1")
    frames = args.frames_per_video if args.frames_per_video is not None else (0 if args.annotate else 32)
    return ScanOptions(
        paths=tuple(args.paths),
        output=args.output,
        weights=args.weights,
        members=tuple(args.model) if args.model else None,
        device=args.device,
        threads=args.threads,
        frames_per_video=frames or None,
        face_policy=args.face_policy,
        face_size=args.face_size,
        threshold=args.threshold,
        annotate=args.annotate,
        annotate_format=args.annotate_format,
        jobs=args.jobs,
        formats=args.format,
    )


def print_table(results: list[FileResult]) -> None:
    """A line for each file on standard output."""
    for row in results:
        score = "     -" if row.score is None else f"{row.score:.4f}"
        faces = f"{row.frames_with_face}/{row.frames_analysed} frames with a face"
        remark = row.error or ", ".join(filter(None, (row.reason, faces, row.warning)))
        print(f"{row.verdict:<8} {score}  {row.shown_path}  ({remark})")


class ConsoleProgress:
    """A bar for all files and one for each that is being worked on; silent where nobody watches."""

    def __init__(self, console: Console, files: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._files = self._bars.add_task("files", total=files)
        self._open: dict[str, TaskID] = {}

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def started(self, media: MediaFile, frames: int) -> None:
        self._open[str(media.path)] = self._bars.add_task(escape(media.path.name[:40]), total=frames)

    def advanced(self, media: MediaFile) -> None:
        self._bars.advance(self._open[str(media.path)])

    def finished(self, result: FileResult) -> None:
        if (bar := self._open.pop(result.path, None)) is not None:
            self._bars.remove_task(bar)
        self._bars.advance(self._files)


def _frames(text: str) -> int:
    """0 stands for all."""
    if text == "all":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, or all, not {text!r}")
    return int(text)


def _formats(text: str) -> tuple[Format, ...]:
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [part for part in chosen if part not in get_args(Format)]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown format {unknown[0]!r}, choose of {', '.join(FORMATS)}")
    return chosen  # type: ignore[return-value]  # checked just above
