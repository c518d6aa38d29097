"""Files that are on the disk whole or not at all, and a directory that one process alone writes to. Blocking."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamwatch.errors import ServerError, StorageError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

LOCK = ".lock"


class DirectoryLock:
    """Held from its making until `close`, or until the process ends, however that comes about."""

    def __init__(self, directory: Path) -> None:
        """Raises ServerError where another process holds it, OSError."""
        self._file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._file)
        except BlockingIOError as error:
            self.close()
            raise ServerError(
                f"alerts.evidence.directory: {directory} is in use by another process: two would break the chain there"
            ) from error
        except OSError as error:
            # Some network file systems know no locks. There the chain alone finds out, at its next line.
            log.warning("evidence: %s cannot be locked against a second process: %s", directory, error.strerror)

    def close(self) -> None:
        os.close(self._file)


def _lock(file: int) -> None:
    """Raises BlockingIOError where another process holds it, OSError where there are no locks."""
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write(path: Path, content: bytes, mode: int = 0o666) -> None:
    """On the disk when this returns; half of it may be there when it raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """As `write`, but a full disk or a crash leaves what was there before. Raises OSError."""
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.unlink(missing_ok=True)  # one that a crash left keeps its own mode
        write(partial, content, mode)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Brings a file, or a directory's names, to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def translated(where: Path) -> Iterator[None]:
    """OSError leaves as StorageError, naming the file, or `where` if it names none."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or where}: {error.strerror or error}") from error
