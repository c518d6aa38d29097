"""Labelled videos: which there are, and the face crops of their frames, cut as serving cuts them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from rich.progress import track

from streamwatch.domain import Floats, Image
from streamwatch.inference.crop import CROP_VERSION, crop_face
from streamwatch.inference.faces import FaceFinder
from streamwatch.training.faces import UNREADABLE, DatasetError, read_arrays, write_arrays
from streamwatch.training.h264 import recoded

LABELS = {"real": 0, "fake": 1, "0": 0, "1": 1}
DETECTOR_BATCH = 4


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled video. `region` (x0, y0, x1, y1) is the part that the label speaks of, in pixels; None is all.

    Clips of one `group` share footage or people: intervals and splits go by it. `footage` is the recording that a clip
    is, or that a fake was made of; where nobody says, all of a group may be.
    """

    path: Path
    label: int
    method: str = "unknown"
    group: str = ""
    region: tuple[int, int, int, int] | None = None
    source: str = ""
    footage: str = ""

    @property
    def name(self) -> str:
        return self.path.stem + (f"@{self.region[0]}" if self.region else "")


@dataclass(frozen=True, slots=True, eq=False)
class ClipFaces:
    """The faces of a clip's sampled frames: crops (F, S, S, 3), face heights in pixels (F,), times in seconds (F,)."""

    clip: Clip
    crops: Image
    heights: Floats
    times: Floats
    sampled: int

    @property
    def coverage(self) -> float:
        """The share of the sampled frames that has a face."""
        return len(self.crops) / max(1, self.sampled)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Frames per second, at most how many per clip (0: all), and the crops' side. `crf`: the video is compressed once

    more before, as a live camera would, at this constant rate factor of x264."""

    rate: float = 2.0
    limit: int = 0
    size: int = 224
    crf: int | None = None


def read_clips(table: Path) -> list[Clip]:
    """Clips of a CSV with the columns `clip` or `path` (relative to the CSV) and `label`, and where there are

    `method`, `group`, `source` and `crop_x0y0x1y1`. DatasetError names the line that is wrong."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table}: cannot be read: {error}") from error
    clips = [_clip(row, table, number) for number, row in enumerate(rows, 2)]
    if not clips:
        raise DatasetError(f"{table}: has no rows")
    return clips


def _clip(row: dict[str, str | None], table: Path, number: int) -> Clip:
    where = f"{table}, line {number}"
    name = row.get("clip") or row.get("path")
    label = LABELS.get((row.get("label") or "").strip().lower())
    if not name or label is None:
        raise DatasetError(f"{where}: needs a clip (or path) and a label of real, fake, 0 or 1")
    region = (row.get("crop_x0y0x1y1") or "").split()
    try:
        corners = [int(value) for value in region]
    except ValueError as error:
        raise DatasetError(f"{where}: crop_x0y0x1y1 must be four whole numbers, got {' '.join(region)!r}") from error
    if corners and (len(corners) != 4 or not 0 <= corners[0] < corners[2] or not 0 <= corners[1] < corners[3]):
        wanted = "x0 y0 x1 y1 with 0 <= x0 < x1 and 0 <= y0 < y1"
        raise DatasetError(f"{where}: crop_x0y0x1y1 must be {wanted}, got {corners}")
    path = table.parent / name
    return Clip(
        path=path,
        label=label,
        method=row.get("method") or ("none" if label == 0 else "unknown"),
        group=row.get("group") or path.stem,
        region=(corners[0], corners[1], corners[2], corners[3]) if corners else None,
        source=row.get("source") or "",
    )


def read_frames(path: Path, sampling: Sampling) -> Iterator[tuple[float, Image]]:
    """Time and RGB picture of the frames nearest after each tick of the rate. DatasetError names a bad file."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            due, count = 0.0, 0
            frames = ((float(frame.time or 0.0), frame) for frame in container.decode(stream))
            for time, frame in frames if sampling.crf is None else recoded(frames, sampling.crf):
                if time + 1e-6 < due:
                    continue
                due = max(due + 1.0 / sampling.rate, time)
                count += 1
                yield time, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                if sampling.limit and count >= sampling.limit:
                    return
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path}: cannot be read as a video: {error}") from error


def clip_faces(clip: Clip, finder: FaceFinder, sampling: Sampling) -> ClipFaces:
    """The face of each sampled frame that the detector is surest of."""
    crops, heights, times, sampled = [], [], [], 0
    for batch in _batches(read_frames(clip.path, sampling), DETECTOR_BATCH):
        pictures = [_cut(picture, clip) for _, picture in batch]
        sampled += len(batch)
        for (time, _), picture, found in zip(batch, pictures, finder.find(pictures), strict=True):
            if found:
                face = found[0]
                crops.append(crop_face(picture, face.box, sampling.size))
                heights.append(face.box[3] - face.box[1])
                times.append(time)
    stacked = np.stack(crops) if crops else np.zeros((0, sampling.size, sampling.size, 3), np.uint8)
    return ClipFaces(clip, stacked, np.asarray(heights, np.float32), np.asarray(times, np.float32), sampled)


def _cut(picture: Image, clip: Clip) -> Image:
    if clip.region is None:
        return picture
    x0, y0, x1, y1 = clip.region
    if x0 >= picture.shape[1] or y0 >= picture.shape[0]:
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise DatasetError(f"{clip.path}: crop_x0y0x1y1 {clip.region} lies outside of its picture of {size}")
    return np.ascontiguousarray(picture[y0:y1, x0:x1])


def _batches(frames: Iterator[tuple[float, Image]], size: int) -> Iterator[list[tuple[float, Image]]]:
    batch: list[tuple[float, Image]] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def all_clip_faces(
    clips: Sequence[Clip], finder: FaceFinder, sampling: Sampling, cache: Path | None = None, version: str = ""
) -> list[ClipFaces]:
    """The faces of every clip; with `cache`, kept there between runs (`version` names the detector's weights).

    A clip that is missing or damaged is left out, and said on stderr: parts of large data sets lack some of the files
    that they list. DatasetError where no clip is left.
    """
    found, faults = [], []
    for clip in track(clips, "faces"):
        try:
            found.append(_cached(clip, finder, sampling, cache, version))
        except DatasetError as error:
            faults.append(str(error))
    if faults and not found:
        raise DatasetError(f"none of {len(faults)} clips can be read; the first: {faults[0]}")
    if faults:
        print("\n".join([f"{len(faults)} of {len(clips)} clips are left out:", *faults]), file=sys.stderr)
    return found


def _cached(clip: Clip, finder: FaceFinder, sampling: Sampling, cache: Path | None, version: str) -> ClipFaces:
    if cache is None:
        return clip_faces(clip, finder, sampling)
    try:
        state = clip.path.stat()
    except OSError as error:
        raise DatasetError(f"{clip.path}: {error.strerror or error}") from error
    place = f"{clip.path.resolve()} {state.st_size} {state.st_mtime_ns}"  # another video under the same name is another
    key = f"{place} {clip.region} {sampling} {version} {CROP_VERSION}"
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    with contextlib.suppress(*UNREADABLE):
        crops, heights, times, count = read_arrays(path, "crops", "heights", "times", "sampled").values()
        return ClipFaces(clip, crops, heights, times, int(count))
    faces = clip_faces(clip, finder, sampling)
    cache.mkdir(parents=True, exist_ok=True)
    write_arrays(path, crops=faces.crops, heights=faces.heights, times=faces.times, sampled=faces.sampled)
    return faces


def split_groups(clips: Sequence[Clip], seed: int = 0) -> tuple[set[str], set[str]]:
    """The groups' names in two halves, dealt out evenly over kinds of source: the one to choose by, the one to report.

    Deterministic in the names alone.
    """
    kinds: dict[tuple[str, bool], set[str]] = {}
    with_fakes = {clip.group for clip in clips if clip.label == 1}
    for clip in clips:
        kinds.setdefault((clip.source if clip.group in with_fakes else "", clip.group in with_fakes), set()).add(
            clip.group
        )
    choose: set[str] = set()
    report: set[str] = set()
    for kind in sorted(kinds):
        ordered = sorted(kinds[kind], key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())
        first, second = (choose, report) if len(choose) <= len(report) else (report, choose)
        first.update(ordered[0::2])
        second.update(ordered[1::2])
    return choose, report
