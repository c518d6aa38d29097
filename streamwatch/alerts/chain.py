"""The chain of evidence: one signed line for each bundle that was sealed or removed, each naming the hash of the line
before.

So a changed bundle, a bundle that vanished without a line that says why, and a line taken out of the middle are all
found. What cannot be found from the directory alone is that the newest lines were cut off: keep the head
(`streamwatch evidence verify` prints it) somewhere else."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from streamwatch.alerts.signing import Signer, canonical, check_signature
from streamwatch.errors import EvidenceInvalid, StorageError

CHAIN = "chain.jsonl"
GENESIS = "0" * 64

Kind = Literal["sealed", "removed"]


@dataclass(frozen=True, slots=True)
class Link:
    """One line. `manifest` is the SHA-256 of the bundle's manifest, `hash` that of this line."""

    index: int
    kind: Kind
    alert: str
    manifest: str
    previous: str
    at: float
    hash: str


class Chain:
    """Appends to the chain of one directory. For one writer at a time."""

    def __init__(self, directory: Path, signer: Signer) -> None:
        """Raises StorageError, EvidenceInvalid where the chain that is there does not hold."""
        self._path = directory / CHAIN
        self._signer = signer
        self._end = _mend(self._path)
        self._head = GENESIS
        self.links: list[Link] = []
        self.alerts: set[str] = set()
        """all that it names"""
        self.removed: set[str] = set()
        for link in read(self._path):
            self._take(link)

    @property
    def head(self) -> str:
        return self._head

    def append(self, kind: Kind, alert: str, manifest: str, at: float) -> Link:
        """On the disk when this returns. Raises StorageError, EvidenceInvalid where others have written to it since."""
        record = {
            "index": len(self.links),
            "kind": kind,
            "alert": alert,
            "manifest": manifest,
            "previous": self._head,
            "at": at,
        }
        line = canonical({**record, "signature": self._signer.sign(canonical(record))})
        try:
            with self._path.open("ab", buffering=0) as file:
                if file.tell() != self._end:
                    raise EvidenceInvalid(f"{self._path}: was changed by others while it was in use")
                _append(file, line + b"\n")
                self._end = file.tell()
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}") from error
        link = _link(json.loads(line), line)
        self._take(link)
        return link

    def _take(self, link: Link) -> None:
        self._head = link.hash
        self.links.append(link)
        self.alerts.add(link.alert)
        if link.kind == "removed":
            self.removed.add(link.alert)


def read(path: Path, key: Ed25519PublicKey | None = None) -> Iterator[Link]:
    """The links in order, each checked against the one before, and against the key where one is given. Raises
    EvidenceInvalid, StorageError."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    previous = GENESIS
    for number, line in enumerate(lines):
        where = path.with_name(f"{path.name}, line {number + 1}")
        try:
            record = json.loads(line)
            link = _link(record, line)
            signature = str(record.pop("signature", ""))
            signed = canonical(record)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise EvidenceInvalid(f"{where}: is damaged") from error
        if link.index != number or link.previous != previous:
            raise EvidenceInvalid(f"{where}: does not follow from the line before: something was taken out or put in")
        if key is not None:
            check_signature(key, signature, signed, where)
        previous = link.hash
        yield link


def signed_by(line: bytes, key: Ed25519PublicKey) -> bool:
    """Whether a line of the chain bears the key's signature; a damaged one is none's."""
    try:
        record = json.loads(line)
        signature = record.pop("signature", "")
        check_signature(key, str(signature), canonical(record), Path(CHAIN))
    except (EvidenceInvalid, ValueError, TypeError, AttributeError, RecursionError):
        return False
    return True


def _link(record: Mapping[str, Any], line: bytes) -> Link:
    """Raises ValueError, KeyError, TypeError, OverflowError."""
    fields = {name: record[name] for name in ("index", "kind", "alert", "manifest", "previous", "at")}
    link = Link(**fields, hash=hashlib.sha256(line).hexdigest())
    if not math.isfinite(link.at) or Path(link.alert).name != link.alert or not link.alert.strip("."):
        raise ValueError("no time, or no name of a directory")
    return link


def _append(file: BinaryIO, line: bytes) -> None:
    """All of the line or nothing of it: half a line on a full disk would spoil the next one."""
    end = file.tell()
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def _mend(path: Path) -> int:
    """Takes off a last line that a crash left half written: it had not been promised to anyone. The file's length."""
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
        return whole
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
