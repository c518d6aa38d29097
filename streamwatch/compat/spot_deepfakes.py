"""DF-Spot's own command line, on StreamWatch's scan: the same flags in, the same files out.

    python -m streamwatch.compat.spot_deepfakes --media_type video --data_dir videos --dataset dfdc \\
        --model TimmV2 ViT --model_dir models --n 3 --annotate

Its known faults are not repeated: no frame shifts another's faces, an image without a face or a video that cannot be
read is a row that says so, a missing checkpoint is an error, and names of outputs do not collide.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from streamwatch.errors import ConfigError, StreamWatchError
from streamwatch.inference.weights import SEED_MEMBERS
from streamwatch.inference.weights_import import checkpoint_name, import_checkpoint
from streamwatch.scan.command import ConsoleProgress, print_table
from streamwatch.scan.media import MediaFile, MediaKind
from streamwatch.scan.options import ScanOptions
from streamwatch.scan.outputs import write_image_predictions, write_predictions
from streamwatch.scan.pipeline import scan, unreadable
from streamwatch.scan.records import FileResult

VIDEOS = frozenset({".mp4", ".avi", ".mkv", ".wmv"})
IMAGES = frozenset({".png", ".jpg", ".jpeg"})


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="spot_deepfakes", description="DF-Spot's command line, on StreamWatch.")
    flags.add_argument("--media_type", choices=("video", "image"), help="default: what is there")
    flags.add_argument("--data_dir", type=Path, required=True, help="folder of videos or images")
    flags.add_argument("--dataset", choices=("ffpp", "dfdc", "celeb"), required=True, help="whose checkpoints")
    flags.add_argument("--model", nargs="+", choices=SEED_MEMBERS, required=True)
    flags.add_argument("--model_dir", type=Path, required=True, help="folder of checkpoints like dfdc_vit.pth")
    flags.add_argument("--video_id", nargs="+", type=int, help="indices into the sorted videos")
    flags.add_argument("--annotate", nargs="?", const=True, default=False, type=_boolean, help="also write <stem>.avi")
    flags.add_argument("--device", type=int, default=0, help="number of the GPU; the CPU where there is none")
    flags.add_argument("--output_dir", type=Path, default=Path("output/"))
    flags.add_argument("--face_policy", choices=("scale", "tight"), default="scale")
    flags.add_argument("--face_size", type=int, default=224)
    flags.add_argument("--fpv", type=int, default=32, help="frames per video")
    flags.add_argument("--n", type=int, default=2, help="number of videos")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        return run(args)
    except StreamWatchError as error:
        print(f"spot_deepfakes: {error}", file=sys.stderr)
        return error.exit_code


def run(args: argparse.Namespace) -> int:
    media = chosen_media(args)
    for member in args.model:
        import_checkpoint(args.model_dir / checkpoint_name(args.dataset, member))
    options = ScanOptions(
        paths=(args.data_dir,),
        output=args.output_dir,
        weights=f"dfspot-{args.dataset}",
        members=tuple(args.model),
        device=f"cuda:{args.device}" if torch.cuda.is_available() else "cpu",
        frames_per_video=None if args.annotate else args.fpv,
        face_policy=args.face_policy,
        face_size=args.face_size,
        annotate=args.annotate,
        annotate_format="avi",
        best_face_only=True,
        report=False,
    )
    with ConsoleProgress(Console(stderr=True), len(media)) as progress:
        results = asyncio.run(scan(options, media, progress))
    videos = [row for row in results if row.kind == MediaKind.VIDEO]
    images = [row for row in results if row.kind == MediaKind.IMAGE]
    if videos:
        write_predictions(args.output_dir / "predictions.csv", videos)
        _name_by_stem(args.output_dir, videos)
    if images:
        write_image_predictions(args.output_dir / "img_predictions.json", images)
    print_table(results)
    failure = unreadable(results)
    return failure.exit_code if failure is not None else 0


def chosen_media(args: argparse.Namespace) -> list[MediaFile]:
    """All images; of the sorted videos the first `n`, or the first `n` that `video_id` names. Raises ConfigError."""
    if not args.data_dir.is_dir():
        raise ConfigError(f"--data_dir: {args.data_dir} is not a folder")
    for name in ("n", "fpv"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}: must be at least 1")
    files = sorted(path for path in args.data_dir.iterdir() if path.is_file())
    videos = [MediaFile(path, MediaKind.VIDEO) for path in files if path.suffix.lower() in VIDEOS]
    images = [MediaFile(path, MediaKind.IMAGE) for path in files if path.suffix.lower() in IMAGES]
    if args.video_id is not None:
        wrong = next((index for index in args.video_id if not 0 <= index < len(videos)), None)
        if wrong is not None:
            raise ConfigError(f"--video_id: {wrong} is not one of the {len(videos)} videos in {args.data_dir}")
        videos = [videos[index] for index in args.video_id]
    videos = videos[: args.n]
    media = {"video": videos, "image": images, None: videos + images}[args.media_type]
    if not media:
        raise ConfigError(f"--data_dir: {args.data_dir} holds no {args.media_type or 'video or image'}")
    return list(dict.fromkeys(media))


def _name_by_stem(output: Path, videos: Sequence[FileResult]) -> None:
    """Annotated videos under the seed's names, `<stem>.avi`; a second one of that name gets its suffix into it."""
    taken: set[str] = set()
    for row in videos:
        if row.annotated is None:
            continue
        source = Path(row.path)
        name = source.stem if source.stem not in taken else f"{source.stem}_{source.suffix[1:]}"
        taken.add(name)
        shutil.copyfile(output / row.annotated, output / f"{name}.avi")


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return values[text.lower()]


if __name__ == "__main__":
    raise SystemExit(main())
