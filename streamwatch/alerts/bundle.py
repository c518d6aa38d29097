"""One alert's evidence on the disk: written aside, hashed, signed, moved into place, entered into the chain. Blocking.

A bundle is moved into place before its line enters the chain. A crash between the two leaves a bundle without its line;
the next start finds that it follows from the chain's end, and enters it.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamwatch.alerts.chain import CHAIN, GENESIS, Chain, signed_by
from streamwatch.alerts.payload import iso
from streamwatch.alerts.recent import SeenFace
from streamwatch.alerts.signing import Signer, file_sha256, load_public
from streamwatch.alerts.verify import MANIFEST, PUBLIC_KEY, SIGNATURE, verify_bundle
from streamwatch.config import EvidenceSettings
from streamwatch.domain import Alert, Image
from streamwatch.errors import ConfigError, EvidenceInvalid, StorageError
from streamwatch.protocols import ClipInfo

VERSION = 1
KEY = "signing_key.pem"
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """What goes into one alert's evidence."""

    alert: Alert
    scores: list[dict[str, Any]]
    faces: Mapping[str, SeenFace]
    identity: Mapping[str, Any]
    pictures: bool


class Sealer:
    """Writes bundles into one directory. For one caller at a time; every method raises StorageError."""

    def __init__(self, settings: EvidenceSettings) -> None:
        self._settings = settings
        self._root = settings.directory
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            key = settings.signing_key
            self._signer = Signer.load(key) if key else Signer.load_or_make(self._root / KEY)
            self._check_key()
            (self._root / PUBLIC_KEY).write_bytes(self._signer.public_pem)
            for left in self._root.glob(_PARTIAL + "*"):
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"{self._root}: {error.strerror or error}") from error
        self._chain = Chain(self._root, self._signer)
        self._adopt()

    @property
    def head(self) -> str:
        """The hash of the chain's newest line."""
        return self._chain.head

    def directories(self, alert: str) -> list[Path]:
        """The alert's bundle, then those of faces that joined it, by track and run. Empty: it is not sealed yet."""
        own = self._root / Path(alert).name
        joined = sorted(self._root.glob(f"{glob.escape(own.name)}+*"), key=_track_and_run)
        return [path for path in (own, *joined) if (path / MANIFEST).is_file()] if (own / MANIFEST).is_file() else []

    def free(self, name: str) -> str:
        """The name, or the first of NAME-2, NAME-3, ... that no bundle bears or has borne."""
        names = itertools.chain([name], (f"{name}-{run}" for run in itertools.count(2)))
        return next(n for n in names if not self.known(n) and not (self._root / n).exists())

    def begin(self, alert: str) -> Path:
        """An empty directory to write into."""
        path = self._root / f"{_PARTIAL}{Path(alert).name}"
        try:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error
        return path

    def seal(self, bundle: Bundle, clip: ClipInfo | None, directory: Path) -> Path:
        """Writes everything beside the clip, signs, and moves the whole into place. Returns where it lies."""
        final = self._root / Path(bundle.alert.id).name
        try:
            _write_json(directory / "scores.json", bundle.scores)
            for name, face in bundle.faces.items():
                _write_face(directory, name, face)
            manifest = self._manifest(bundle, clip, directory)
            content = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()
            _write(directory / MANIFEST, content)
            _write(directory / SIGNATURE, self._signer.sign(content).encode())
            _write(directory / PUBLIC_KEY, self._signer.public_pem)
            for file in directory.iterdir():
                _sync(file)  # the clip was written by others
            _sync(directory)
            directory.rename(final)
            _sync(self._root)
        except OSError as error:
            raise StorageError(f"{error.filename or directory}: {error.strerror or error}") from error
        try:
            self._chain.append("sealed", bundle.alert.id, file_sha256(final / MANIFEST), bundle.alert.opened_at.wall)
        except StorageError:
            shutil.rmtree(final, ignore_errors=True)  # without its line it would break the chain of those that follow
            raise
        return final

    def retain(self, now: float) -> list[str]:
        """Removes the oldest bundles beyond the age and size that are kept. Returns their alerts."""
        gone = {link.alert for link in self._chain.links if link.kind == "removed"}
        kept = [k for k in self._chain.links if k.kind == "sealed" and k.alert not in gone]
        sizes = {link.alert: _size(self._root / link.alert) for link in kept}
        total, limit = sum(sizes.values()), self._settings.keep_gigabytes * 1e9
        removed = []
        for link in kept:
            if now - link.at <= self._settings.keep_days * 86_400.0 and total <= limit:
                break
            # The line first: a crash in between leaves files that nobody claims to be evidence, not a hole in the
            # chain.
            self._chain.append("removed", link.alert, link.manifest, now)
            shutil.rmtree(self._root / link.alert, ignore_errors=True)
            total -= sizes[link.alert]
            removed.append(link.alert)
        return removed

    def _manifest(self, bundle: Bundle, clip: ClipInfo | None, directory: Path) -> dict[str, Any]:
        alert = bundle.alert
        sealed = [link for link in self._chain.links if link.kind == "sealed"]
        said: dict[str, Any] = {
            "version": VERSION,
            "alert": {
                "id": alert.id,
                "kind": alert.kind.value,
                "rule": alert.rule,
                "stream": alert.stream,
                "severity": alert.severity.value,
                "opened_at": iso(alert.opened_at.wall),
                "value": alert.value,
                "threshold": alert.threshold,
                "summary": alert.summary,
                "labels": dict(alert.labels),
            },
            "clock": {"wall": alert.opened_at.wall, "monotonic": alert.opened_at.mono},
            "identity": dict(bundle.identity),
            "pictures": "stored" if bundle.pictures else "never",
            "clip": None if clip is None else _clip_record(clip),
            "faces": {name: _face_record(face) for name, face in bundle.faces.items()},
            "previous": sealed[-1].manifest if sealed else GENESIS,
            "key": self._signer.fingerprint,
        }
        files = sorted(p for p in directory.iterdir() if p.is_file())
        said["files"] = {p.name: {"sha256": file_sha256(p), "bytes": p.stat().st_size} for p in files}
        return said

    def _check_key(self) -> None:
        """A chain has one key from its first line to its last. Raises ConfigError, EvidenceInvalid."""
        path = self._root / CHAIN
        if not path.exists() or not (lines := path.read_bytes().splitlines(keepends=True)):
            return
        complete = [line for line in lines if line.endswith(b"\n")]
        if complete and not signed_by(complete[-1], load_public(self._signer.public_pem, self._root / PUBLIC_KEY)):
            raise ConfigError(
                f"alerts.evidence.signing_key: did not sign the chain in {self._root}: use the key that did, or move "
                "that directory away and begin a new one"
            )

    def known(self, alert: str) -> bool:
        """Whether the chain names the alert, be its bundle still here or removed."""
        return any(link.alert == alert for link in self._chain.links)

    def _adopt(self) -> None:
        """Enters the one bundle that a crash may have left without its line."""
        known = {link.alert for link in self._chain.links}
        sealed = [link for link in self._chain.links if link.kind == "sealed"]
        key = load_public(self._signer.public_pem, self._root / PUBLIC_KEY)
        for path in self._root.iterdir():
            if path.name in known or not (path / MANIFEST).is_file():
                continue
            try:
                manifest = verify_bundle(path, key)
            except EvidenceInvalid:
                continue  # `evidence verify` will name it
            if manifest.get("previous") == (sealed[-1].manifest if sealed else GENESIS):
                at = float(manifest["clock"]["wall"])
                self._chain.append("sealed", path.name, file_sha256(path / MANIFEST), at)
                return


def _track_and_run(bundle: Path) -> tuple[int, ...]:
    """`ALERT+7` is (7,), `ALERT+7-2` is (7, 2)."""
    return tuple(map(int, bundle.name.rpartition("+")[2].split("-")))


def _clip_record(clip: ClipInfo) -> dict[str, Any]:
    """`kind` says whether the packets are the source's own (remuxed) or the pictures were encoded again."""
    return {
        "file": clip.path.name,
        "kind": clip.kind.value,
        "start": iso(clip.start),
        "end": iso(clip.end),
        "packets": clip.packets,
        "codec": clip.codec,
    }


def _face_record(seen: SeenFace) -> dict[str, Any]:
    scored = seen.scored
    return {
        "at": iso(seen.wall),
        "track": scored.face.track,
        "box": [round(v, 1) for v in scored.face.box],
        "score": scored.score,
        "members": dict(scored.members),
    }


def _write_face(directory: Path, name: str, seen: SeenFace) -> None:
    """The crop as the members saw it (PNG, exact), and under the heat map where they gave one."""
    crop = seen.scored.crop
    if crop is None:
        return
    _write_png(directory / f"{name}.png", crop)
    if seen.scored.heat is not None:
        _write_png(directory / f"{name}_heat.png", overlay(crop, seen.scored.heat))


def overlay(crop: Image, heat: np.ndarray[Any, Any]) -> Image:
    """RGB crop under the manipulation map (0 to 1), blue to red, half transparent."""
    height, width = crop.shape[:2]
    levels = (np.clip(cv2.resize(heat.astype(np.float32), (width, height)), 0.0, 1.0) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(np.ascontiguousarray(crop), 0.6, colours, 0.4, 0.0), dtype=np.uint8)


def _write_png(path: Path, image: Image) -> None:
    done, encoded = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    if not done:
        raise StorageError(f"{path}: the picture cannot be encoded")
    _write(path, encoded.tobytes())


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, indent=1).encode())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size(directory: Path) -> int:
    try:
        return sum(p.stat().st_size for p in directory.iterdir())
    except OSError:
        return 0
