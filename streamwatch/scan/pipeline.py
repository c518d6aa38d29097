"""One file after another, several at once: decoding, detection and scoring overlap, and batches form across files."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from streamwatch.domain import FaceScore, Frame, Instant, Quality
from streamwatch.errors import MediaError, StorageError, StreamWatchError
from streamwatch.inference.engine import LocalEngine
from streamwatch.observer import NullObserver
from streamwatch.protocols import FindOptions
from streamwatch.scan.aggregate import Judgement, Rules, Tally
from streamwatch.scan.annotate import annotate
from streamwatch.scan.highlights import Highlights
from streamwatch.scan.images import read_image
from streamwatch.scan.journal import Journal, file_key, output_name
from streamwatch.scan.media import MediaFile, MediaKind, sample_indices
from streamwatch.scan.options import FRAMES_IN_FLIGHT, ScanOptions
from streamwatch.scan.records import FaceRecord, FileResult, FrameRecord, Json
from streamwatch.scan.report import write_report
from streamwatch.scan.video import Picture, VideoReader
from streamwatch.scoring.quality import measure

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_FACES = 64


class ScanProgress(Protocol):
    """Told of what a scan does, from the event loop."""

    def started(self, media: MediaFile, frames: int) -> None: ...
    def advanced(self, media: MediaFile) -> None: ...
    def finished(self, result: FileResult) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Analysed:
    picture: Picture
    scores: tuple[FaceScore, ...]
    qualities: tuple[Quality, ...]


async def scan(options: ScanOptions, media: list[MediaFile], progress: ScanProgress) -> list[FileResult]:
    """A row for each file, in order; a bad file is a row with its error. What an earlier scan into the same folder
    has done with the same settings is taken over. Raises WeightsError, DeviceError, StorageError."""
    results: dict[Path, FileResult] = {}
    async with LocalEngine(options.engine_settings(), NullObserver()) as engine:
        journal = Journal(options.output, options.fingerprint(engine))
        waiting = iter(media)
        with ThreadPoolExecutor(max_workers=options.jobs, thread_name_prefix="decode") as decoders:
            scanner = _Scanner(options, engine, journal.fingerprint, decoders, progress)

            async def work() -> None:
                for item in waiting:  # shared: each file goes to the first that is free
                    done = journal.find(item.path)
                    if done is None:
                        done = await scanner.scan(item)
                        journal.add(done)
                    results[item.path] = done
                    progress.finished(done)

            await _all(work() for _ in range(options.jobs))
        ordered = [results[item.path] for item in media]
        journal.rewrite(ordered)
    return ordered


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """A TaskGroup whose first error comes out as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class _Scanner:
    def __init__(
        self, options: ScanOptions, engine: LocalEngine, fingerprint: str, decoders: Executor, progress: ScanProgress
    ) -> None:
        self._options = options
        self._engine = engine
        self._fingerprint = fingerprint
        self._decoders = decoders
        self._progress = progress
        record = engine.weights.record
        self._rules = Rules(engine.threshold, engine.weights.is_seed, disagreement=record.disagreement_p99)
        self._weights: Json = {"set": engine.weights.name, "version": record.version, "hash": engine.weights.hash}

    async def scan(self, media: MediaFile) -> FileResult:
        begun = time.perf_counter()
        empty = FileResult(str(media.path), media.kind, file_key(self._fingerprint, media.path), "error")
        try:
            one = self._scan_image if media.kind is MediaKind.IMAGE else self._scan_video
            result = await one(media, replace(empty, threshold=self._rules.threshold, weights=self._weights))
        except StorageError:
            raise
        except StreamWatchError as error:
            result = replace(empty, error=str(error).removeprefix(f"{media.path}: "))
        except Exception as error:
            log.exception("%s: an unexpected error", media.path)
            result = replace(empty, error=f"unexpected {type(error).__name__}: {error}")
        return replace(result, seconds=round(time.perf_counter() - begun, 3))

    async def _scan_image(self, media: MediaFile, row: FileResult) -> FileResult:
        self._progress.started(media, 1)
        image = await self._in_thread(lambda: read_image(media.path))
        notes = _Notes(self._options.output, media.path, Tally(self._rules))
        with notes:
            notes.add(await self._analyse(str(media.path), Picture(0, 0.0, image)))
        self._progress.advanced(media)
        size = {"width": image.shape[1], "height": image.shape[0]}
        return self._conclude(replace(row, media=size), notes, notes.tally.judge_image())

    async def _scan_video(self, media: MediaFile, row: FileResult) -> FileResult:
        reader = await self._in_thread(lambda: VideoReader(media.path))
        with reader:
            wanted = self._options.frames_per_video
            indices = sample_indices(reader.info.frames, wanted) if wanted is not None else None
            self._progress.started(media, reader.info.frames if indices is None else len(indices))
            notes = _Notes(self._options.output, media.path, Tally(self._rules))
            with notes:
                async with aclosing(self._in_order(str(media.path), reader.pictures(indices))) as frames:
                    async for analysed in frames:
                        notes.add(analysed)
                        self._progress.advanced(media)
            row = replace(row, media=asdict(reader.info), warning=reader.warning)
        result = self._conclude(row, notes, notes.tally.judge_video())
        if self._options.annotate:
            target = output_name(self._options.output, "annotated", media.path, f".{self._options.annotate_format}")
            await self._in_thread(lambda: annotate(reader, notes.path, target, self._rules.threshold))
            result = replace(result, annotated=str(target.relative_to(self._options.output)))
        return result

    def _conclude(self, row: FileResult, notes: _Notes, judged: Judgement) -> FileResult:
        tally = notes.tally
        result = replace(
            row,
            verdict=judged.verdict.value,
            reason=judged.reason.value if judged.reason is not None else None,
            score=judged.score,
            members=dict(judged.members),
            people=tuple(tally.people()),
            frames_analysed=tally.frames,
            frames_with_face=tally.frames_with_face,
            faces=tally.faces,
            details=str(notes.path.relative_to(self._options.output)),
        )
        if self._options.report:
            target = output_name(self._options.output, "reports", Path(row.path), ".html")
            write_report(target, result, notes.path, notes.highlights)
            result = replace(result, report=str(target.relative_to(self._options.output)))
        return result

    async def _in_order(self, name: str, pictures: Iterator[Picture]) -> AsyncGenerator[_Analysed]:
        """Analysed pictures in the order of the file, with at most FRAMES_IN_FLIGHT of them under way."""
        under_way: deque[asyncio.Task[_Analysed]] = deque()
        try:
            while (picture := await self._in_thread(lambda: next(pictures, None))) is not None:
                under_way.append(asyncio.create_task(self._analyse(name, picture)))
                if len(under_way) >= FRAMES_IN_FLIGHT:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _analyse(self, name: str, picture: Picture) -> _Analysed:
        frame = Frame(name, picture.index, Instant(picture.time, picture.time), picture.time, picture.image)
        faces_wanted = FindOptions(max_faces=1 if self._options.best_face_only else MAX_FACES)
        faces = await self._engine.find(frame, faces_wanted, math.inf)
        scores = await self._engine.score(frame, faces, math.inf)
        qualities = [measure(picture.image, f.box, f.keypoints, quantiser=picture.quantiser) for f in faces]
        if self._rules.seed:  # DF-Spot knows no quality: every face counts in full
            qualities = [Quality(1.0, None, quality.measures) for quality in qualities]
        return _Analysed(picture, scores, tuple(qualities))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """On a decoder's thread. A cancelled caller still waits for it: nobody may close a container in use."""
        step = asyncio.get_running_loop().run_in_executor(self._decoders, call)
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            with suppress(Exception):
                await asyncio.wait([step])
            raise


class _Notes:
    """A file's findings as they come: each frame is a line on disk, the tally and a few faces stay in memory."""

    def __init__(self, output: Path, media: Path, tally: Tally) -> None:
        self.path = output_name(output, "details", media, ".jsonl")
        self.tally = tally
        self.highlights = Highlights()
        self._partial = self.path.with_suffix(".partial")

    def __enter__(self) -> _Notes:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("w", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, analysed: _Analysed) -> None:
        people = self.tally.add(analysed.scores, analysed.qualities)
        picture = analysed.picture
        faces = tuple(map(FaceRecord.of, analysed.scores, analysed.qualities, people))
        record = FrameRecord(picture.index, picture.time, faces)
        try:
            self._file.write(json.dumps(record.to_json()) + "\n")
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        for scored, quality in zip(analysed.scores, analysed.qualities, strict=True):
            if quality.gate is None:
                self.highlights.add(scored, picture.index, picture.time)


def unreadable(results: list[FileResult]) -> MediaError | None:
    """The error that ends a scan of which some files could not be read: exit code 3."""
    failed = [result for result in results if result.error is not None]
    if not failed:
        return None
    return MediaError(f"{len(failed)} of {len(results)} files could not be scanned; see results.jsonl")
