"""The demo's clip: made once, kept in the user's cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av

from streamwatch import __version__
from streamwatch.demo.scene import FPS, HEIGHT, WIDTH, FindFaces, Scene, load_portraits
from streamwatch.domain import Image
from streamwatch.errors import StorageError

DEFAULT_SEED = 8
"""One of the draws that the bundled weights find; they miss two of ten (docs/training.md)."""


def cache_dir() -> Path:
    """XDG_CACHE_HOME, else ~/.cache; the usual place on every Unix."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamwatch"


def demo_clip(find: FindFaces, seed: int = DEFAULT_SEED, progress: Callable[[float], None] | None = None) -> Path:
    """The clip's path; it is rendered (some 15 s) where it is not there yet. Raises StorageError, MediaError."""
    path = cache_dir() / f"demo-{__version__}-{seed}-officer.mp4"
    if path.is_file():
        return path
    scene = Scene(load_portraits(find), seed)
    frames = round(scene.timeline.length * FPS)

    def pictures() -> Iterator[Image]:
        for index in range(frames):
            if progress is not None:
                progress(index / frames)
            yield scene.frame(index / FPS)

    # Written beside its place and moved there whole, so that an interrupted first start leaves nothing half-made.
    partial = path.with_name(f"{path.stem}.{os.getpid()}.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(pictures(), partial)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: the demo's clip cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def encode(pictures: Iterator[Image], path: Path, bit_rate: int = 2_500_000, gop: int = FPS) -> None:
    """H.264, 720p25, a keyframe each second, without B-frames: what a network camera sends."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = bit_rate
        stream.gop_size = gop
        stream.codec_context.time_base = Fraction(1, FPS)
        # One slice a picture: some RTSP clients lose the rest of a picture that comes in many.
        stream.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "x264-params": "sliced-threads=0:slices=1:scenecut=0",
        }
        for index, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            if index == 0:
                stream.width, stream.height = width, height
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
