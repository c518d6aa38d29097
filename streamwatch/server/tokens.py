"""Scoped access tokens, kept as SHA-256 hashes in one file. A token holds 256 random bits, so that a plain hash is
enough: there is nothing to guess."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from streamwatch.errors import ConfigError, Conflict, NotFound, StorageError

PREFIX = "sw_"


class Scope(StrEnum):
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    METRICS = "metrics"


IMPLIED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.READ, Scope.OPERATE}),
    Scope.ADMIN: frozenset(Scope),
    Scope.METRICS: frozenset({Scope.METRICS}),
}


def granted(scopes: tuple[Scope, ...]) -> frozenset[Scope]:
    """The scopes and all that they imply."""
    return frozenset().union(*(IMPLIED[scope] for scope in scopes))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `name` is the token's; "" for anonymous access on loopback."""

    name: str
    scopes: frozenset[Scope]

    @property
    def anonymous(self) -> bool:
        return not self.name


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """`sha256` of the token, hexadecimal. Times are Unix seconds; `expires_at` None: never."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None = None

    def valid(self, at: float) -> bool:
        return self.expires_at is None or at < self.expires_at


class TokenStore:
    """The file is read again when it changed, so that a revocation holds at once. It is written whole and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._records: tuple[TokenRecord, ...] = ()

    def records(self) -> tuple[TokenRecord, ...]:
        """Raises ConfigError where the file is not what this class wrote."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._records = None, ()
            return ()
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from error
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if stamp != self._stamp:
            self._records, self._stamp = _read(self.path), stamp
        return self._records

    def find(self, token: str, at: float | None = None) -> TokenRecord | None:
        """The valid record of a token. Every record is compared, in constant time each."""
        digest = _digest(token)
        moment = time.time() if at is None else at
        found = None
        for record in self.records():
            if hmac.compare_digest(record.sha256, digest) and record.valid(moment):
                found = record
        return found

    def create(self, name: str, scopes: tuple[Scope, ...], lifetime: float | None = None) -> str:
        """The new token, which is shown this once. Raises Conflict where the name is taken."""
        if any(record.name == name for record in self.records()):
            raise Conflict(f"there is already a token named {name!r}")
        token = PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        record = TokenRecord(name, _digest(token), scopes, now, now + lifetime if lifetime else None)
        self._write((*self.records(), record))
        return token

    def revoke(self, name: str) -> None:
        """Raises NotFound."""
        kept = tuple(record for record in self.records() if record.name != name)
        if len(kept) == len(self.records()):
            raise NotFound(f"there is no token named {name!r}")
        self._write(kept)

    def _write(self, records: tuple[TokenRecord, ...]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".tokens-")  # mode 0600
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"version": 1, "tokens": [asdict(record) for record in records]}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error.strerror}") from error


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(path: Path) -> tuple[TokenRecord, ...]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            TokenRecord(
                name=str(item["name"]),
                sha256=str(item["sha256"]),
                scopes=tuple(Scope(scope) for scope in item["scopes"]),
                created_at=float(item["created_at"]),
                expires_at=None if item.get("expires_at") is None else float(item["expires_at"]),
            )
            for item in data["tokens"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is not a file of tokens ({type(error).__name__})") from error
