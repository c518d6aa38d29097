"""`streamwatch evidence verify`: proves that a bundle, or a whole directory of them, is what was sealed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from streamwatch.alerts.chain import CHAIN, GENESIS, read
from streamwatch.alerts.signing import check_signature, file_sha256, fingerprint, load_public
from streamwatch.errors import EvidenceInvalid, StorageError

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
PUBLIC_KEY = "public_key.pem"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was proved. `head` is the hash of the chain's newest line ("" for a single bundle). `left` are directories
    of bundles that were removed, whose removal a kill cut short: they prove nothing."""

    bundles: int
    removed: int
    head: str
    key: str
    left: tuple[str, ...] = ()


def verify(directory: Path, public_key: Path | None = None, heads: Sequence[str] = ()) -> Verified:
    """Checks a bundle or a directory of bundles. `public_key` is the key that you trust; None takes the one beside the
    evidence, which proves only that nothing was changed by someone without the private key's directory. `heads` are
    hashes of the chain's newest line that were kept elsewhere: the chain must still hold the line of each, so that
    neither the newest alerts were cut off nor the whole chain written anew.

    Raises EvidenceInvalid naming the first file that does not hold or cannot be read, and what is wrong with it.
    """
    with _readable(directory):
        if not (directory / MANIFEST).is_file():
            if not (directory / CHAIN).is_file():
                raise EvidenceInvalid(f"{directory}: holds neither {MANIFEST} nor {CHAIN}")
            return _verify_all(directory, _key(public_key or directory / PUBLIC_KEY), heads)
        if heads:
            raise EvidenceInvalid(f"{directory}: is a single bundle; a head is of the chain, in the directory above")
        key = _key(public_key or _first(directory / PUBLIC_KEY, directory.parent / PUBLIC_KEY))
        verify_bundle(directory, key)
        return Verified(1, 0, "", fingerprint(key))


def verify_bundle(directory: Path, key: Ed25519PublicKey) -> dict[str, Any]:
    """The manifest, once its signature and every file have been checked. Raises EvidenceInvalid."""
    path = directory / MANIFEST
    content = _bytes(path)
    check_signature(key, _bytes(directory / SIGNATURE).decode(errors="replace").strip(), content, path)
    try:
        manifest: dict[str, Any] = json.loads(content)
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceInvalid(f"{path}: is damaged") from error
    with _readable(directory):
        for name, expected in files.items():
            file = directory / name
            if Path(name).name != name or not file.is_file():
                raise EvidenceInvalid(f"{file}: is missing")
            if _sha256(file) != expected:
                raise EvidenceInvalid(f"{file}: was changed, its SHA-256 is not the manifest's")
        beside = directory / PUBLIC_KEY
        if beside.exists() and fingerprint(_key(beside)) != fingerprint(key):
            raise EvidenceInvalid(f"{beside}: is not the key that signed it")
        allowed = {*files, MANIFEST, SIGNATURE, PUBLIC_KEY}
        for file in sorted(directory.iterdir()):
            if file.name not in allowed:
                raise EvidenceInvalid(f"{file}: is not in the manifest")
    return manifest


def _verify_all(directory: Path, key: Ed25519PublicKey, heads: Sequence[str]) -> Verified:
    links = list(read(directory / CHAIN, key))
    known_heads = {GENESIS, *(link.hash for link in links)}
    for head in heads:
        if head.lower() not in known_heads:
            why = "its newest lines were cut off, or it was written anew"
            raise EvidenceInvalid(f"{directory / CHAIN}: has no line of hash {head}: {why}")
    removed = {link.alert for link in links if link.kind == "removed"}
    sealed = [link for link in links if link.kind == "sealed"]
    previous = GENESIS
    present, left = 0, []
    for link in sealed:
        bundle = directory / link.alert
        if link.alert in removed:
            left += [link.alert] if bundle.is_dir() else []
        elif bundle.is_dir():
            manifest = verify_bundle(bundle, key)
            if _sha256(bundle / MANIFEST) != link.manifest:
                raise EvidenceInvalid(f"{bundle / MANIFEST}: is not the one that the chain names")
            if manifest.get("previous") != previous:
                raise EvidenceInvalid(f"{bundle / MANIFEST}: does not follow from the bundle before")
            present += 1
        else:
            raise EvidenceInvalid(f"{bundle}: is missing, and the chain does not say that it was removed")
        previous = link.manifest
    known = {link.alert for link in sealed}
    for bundle in sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if bundle.name not in known:
            raise EvidenceInvalid(f"{bundle}: is not in the chain")
    return Verified(present, len(removed), links[-1].hash if links else GENESIS, fingerprint(key), tuple(left))


def _key(path: Path) -> Ed25519PublicKey:
    return load_public(_bytes(path), path)


def _first(*paths: Path) -> Path:
    return next((p for p in paths if p.is_file()), paths[0])


def _bytes(path: Path) -> bytes:
    with _readable(path):
        return path.read_bytes()


def _sha256(path: Path) -> str:
    with _readable(path):
        return file_sha256(path)


@contextmanager
def _readable(where: Path) -> Iterator[None]:
    """What cannot be read proves nothing."""
    try:
        yield
    except OSError as error:
        raise EvidenceInvalid(f"{error.filename or where}: {error.strerror or error}") from error
    except StorageError as error:
        raise EvidenceInvalid(str(error)) from error
