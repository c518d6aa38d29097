"""One alert's evidence as files: scores, faces and clip, all hashed in a manifest that is signed. Blocking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamwatch.alerts.disk import sync, write
from streamwatch.alerts.payload import iso
from streamwatch.alerts.recent import SeenFace
from streamwatch.alerts.signing import Signer, file_sha256
from streamwatch.alerts.verify import MANIFEST, PUBLIC_KEY, SIGNATURE
from streamwatch.domain import Alert, Image
from streamwatch.errors import StorageError
from streamwatch.protocols import ClipInfo

VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """What goes into one alert's evidence."""

    alert: Alert
    scores: list[dict[str, Any]]
    faces: Mapping[str, SeenFace]
    identity: Mapping[str, Any]
    pictures: bool


def write_bundle(bundle: Bundle, clip: ClipInfo | None, directory: Path, signer: Signer, previous: str) -> None:
    """Adds everything to a directory that holds the clip already, and signs it. `previous` is the hash of the manifest
    before. On the disk when this returns. Raises OSError, StorageError."""
    _write_json(directory / "scores.json", bundle.scores)
    for name, face in bundle.faces.items():
        _write_face(directory, name, face)
    manifest = _manifest(bundle, clip, directory, signer.fingerprint, previous)
    content = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()
    write(directory / MANIFEST, content)
    write(directory / SIGNATURE, signer.sign(content).encode())
    write(directory / PUBLIC_KEY, signer.public_pem)
    if clip is not None:
        sync(clip.path)  # it was written by others
    sync(directory)


def _manifest(bundle: Bundle, clip: ClipInfo | None, directory: Path, key: str, previous: str) -> dict[str, Any]:
    alert = bundle.alert
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
        "previous": previous,
        "key": key,
    }
    files = sorted(p for p in directory.iterdir() if p.is_file())
    said["files"] = {p.name: {"sha256": file_sha256(p), "bytes": p.stat().st_size} for p in files}
    return said


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
    write(path, encoded.tobytes())


def _write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=1).encode())
