"""The files that a scan leaves: the seed's two, the full ones, and the page to begin with."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from streamwatch.errors import ConfigError, StorageError
from streamwatch.scan.options import Format
from streamwatch.scan.records import FileResult
from streamwatch.scan.report import write_index

ROW_GROUP = 5000


def write_outputs(
    output: Path, results: Sequence[FileResult], formats: Sequence[Format], *, index: bool = True
) -> list[Path]:
    """Returns what was written. `results.jsonl` is always there: it is the journal. Raises StorageError."""
    written = []
    try:
        if "csv" in formats and (videos := [row for row in results if row.kind == "video"]):
            written.append(write_predictions(output / "predictions.csv", videos))
        if "json" in formats:
            if images := [row for row in results if row.kind == "image"]:
                written.append(write_image_predictions(output / "img_predictions.json", images))
            written.append(_write_full(output / "results.json", output, results))
        if "parquet" in formats:
            written.append(_write_parquet(output / "faces.parquet", output, results))
        if index:
            write_index(output / "index.html", results)
            written.append(output / "index.html")
    except OSError as error:
        raise StorageError(f"{output}: cannot be written: {error.strerror or error}") from error
    return written


def write_predictions(path: Path, videos: Sequence[FileResult]) -> Path:
    """DF-Spot's table: an unnamed index, `video_path`, and `prediction`: real or fake, else unknown or the error."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "video_path", "prediction"])
        table.writerows([index, row.path, row.prediction] for index, row in enumerate(videos))
    return path


def write_image_predictions(path: Path, images: Sequence[FileResult]) -> Path:
    """DF-Spot's mapping of paths to predictions."""
    predictions = {row.path: row.prediction for row in images}
    path.write_text(json.dumps(predictions, indent=4), encoding="utf-8")
    return path


def _write_full(path: Path, output: Path, results: Sequence[FileResult]) -> Path:
    """One JSON array of files, each with its frames and their faces; written frame by frame."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(results):
            head = json.dumps(row.to_json(), indent=1).rstrip("}").rstrip()
            file.write(("," if number else "") + "\n" + head + ',\n "frames": [')
            for index, line in enumerate(_lines(output, row)):
                file.write(("," if index else "") + "\n  " + line.rstrip("\n"))
            file.write("]}")
        file.write("\n]\n")
    return path


def _write_parquet(path: Path, output: Path, results: Sequence[FileResult]) -> Path:
    """A row for each face; one column for each member."""
    try:
        import pyarrow as pa  # noqa: PLC0415  an extra: only this format needs it
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("--format parquet needs pyarrow: pip install 'streamwatch[parquet]'") from error
    names = list(dict.fromkeys(name for row in results for name in row.members))
    numbers = ["time", "x0", "y0", "x1", "y1", "confidence", "score", "weight", *names]
    schema = pa.schema(
        [("path", pa.string()), ("frame", pa.int64()), ("person", pa.int32()), ("gate", pa.string())]
        + [(name, pa.float64()) for name in numbers]
    )
    with pq.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for row in (face for result in results for face in _face_rows(output, result)):
            rows.append(row)
            if len(rows) >= ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return path


def _face_rows(output: Path, result: FileResult) -> Iterator[dict[str, Any]]:
    for line in _lines(output, result):
        record = json.loads(line)
        for face in record["faces"]:
            corners = dict(zip(("x0", "y0", "x1", "y1"), face["box"], strict=True))
            plain = {name: face[name] for name in ("confidence", "score", "weight", "person", "gate")}
            yield {
                "path": result.shown_path,
                "frame": record["frame"],
                "time": record["time"],
                **corners,
                **plain,
                **face["members"],
            }


def _lines(output: Path, result: FileResult) -> Iterator[str]:
    if result.details is None:
        return
    with (output / result.details).open(encoding="utf-8") as file:
        yield from file
