"""The Ed25519 key that evidence is signed with, and what is hashed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from streamwatch.alerts.disk import translated, write_whole
from streamwatch.errors import ConfigError, EvidenceInvalid, StorageError


class Signer:
    """A private key. `fingerprint` is the SHA-256 of the raw public key, in hex."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.fingerprint = fingerprint(key.public_key())

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Raises ConfigError for what is no key, StorageError where it cannot be read (a disk that is not mounted)."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise StorageError(f"alerts.evidence.signing_key: {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"alerts.evidence.signing_key: {path}: is no unencrypted private key (PEM)") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"alerts.evidence.signing_key: {path}: is no Ed25519 key")
        return cls(key)

    @classmethod
    def load_or_make(cls, path: Path) -> Signer:
        """Makes the key where there is none, readable by its owner alone. Raises StorageError, EvidenceInvalid."""
        with translated(path):
            # An earlier version could leave an empty one on a full disk.
            if not path.exists() or path.stat().st_size == 0:
                pem = Ed25519PrivateKey.generate().private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
                write_whole(path, pem, 0o600)
        try:
            return cls.load(path)
        except ConfigError as error:  # nobody configured this one
            raise EvidenceInvalid(f"{path}: is damaged") from error

    def sign(self, content: bytes) -> str:
        """Base64."""
        return base64.b64encode(self._key.sign(content)).decode()


def load_public(pem: bytes, where: Path) -> Ed25519PublicKey:
    """Raises EvidenceInvalid."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceInvalid(f"{where}: is no public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceInvalid(f"{where}: is no Ed25519 key")
    return key


def check_signature(key: Ed25519PublicKey, signature: str, content: bytes, where: Path) -> None:
    """Raises EvidenceInvalid."""
    try:
        key.verify(base64.b64decode(signature, validate=True), content)
    except (InvalidSignature, ValueError) as error:
        raise EvidenceInvalid(f"{where}: the signature does not hold") from error


def fingerprint(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def canonical(record: Mapping[str, Any]) -> bytes:
    """The bytes that are hashed and signed: JSON with sorted keys and no white space."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
