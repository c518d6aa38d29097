"""What is done already: a line a file, written as it is finished, so that an interrupted scan goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from streamwatch.errors import StorageError
from streamwatch.scan.records import FileResult

JOURNAL = "results.jsonl"


def file_key(fingerprint: str, path: Path) -> str:
    """Changes with the settings, and with the file's place, size or time."""
    try:
        state = path.stat()
    except OSError:
        return f"{fingerprint}:{path.resolve()}"
    return f"{fingerprint}:{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"


def output_name(output: Path, folder: str, media: Path, suffix: str) -> Path:
    """A name for what belongs to a file: its stem, and enough of its path's hash that no two files collide."""
    digest = hashlib.sha256(str(media.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    stem = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in media.stem)[:100]
    return output / folder / f"{stem}-{digest}{suffix}"


class Journal:
    """`results.jsonl` of an output folder. Raises StorageError."""

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._path = output / JOURNAL
        self._output = output
        self._done = self._read()

    def find(self, path: Path) -> FileResult | None:
        """The row of an earlier scan, if it is still true; failures are tried again."""
        done = self._done.get(file_key(self.fingerprint, path))
        if done is None or done.error is not None:
            return None
        made = [name for name in (done.details, done.report, done.annotated) if name is not None]
        return done if all((self._output / name).is_file() for name in made) else None

    def add(self, result: FileResult) -> None:
        self._write("a", [result])

    def rewrite(self, results: Iterable[FileResult]) -> None:
        """Leaves exactly these rows, in this order."""
        self._write("w", results)

    def _read(self) -> dict[str, FileResult]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{self._path}: cannot be read: {error}") from error
        done = {}
        for line in lines:
            try:
                result = FileResult.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # the line that was being written when an earlier scan was killed, or another version's
            done[result.key] = result
        return done

    def _write(self, mode: str, results: Iterable[FileResult]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(result.to_json()) + "\n" for result in results)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror or error}") from error
