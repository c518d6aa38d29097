"""The local store of weights: what is here, what can be had, and whether it is intact."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from streamwatch.errors import WeightsError, WeightsMissing
from streamwatch.inference.ensemble import load_ensemble
from streamwatch.inference.weights import (
    FORMAT,
    MANIFEST,
    SEED_MEMBERS,
    SEED_SETS,
    SetRecord,
    WeightSet,
    bundled_directory,
    file_hash,
    read_manifest,
    store_directory,
)

ARCHIVE_BYTES = 14 * 10**9
SEED_TERMS = "DF-Spot's own; for research, as the data they were trained on"


@dataclass(frozen=True, slots=True)
class SetStatus:
    """One row of `weights list`. `size` is bytes on disk, `download` what a pull would fetch, or None."""

    name: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    size: int
    download: int | None
    terms: str
    place: str


@dataclass(frozen=True, slots=True)
class Checked:
    """One row of `weights verify`: `fault` is None where file, hash, keys and shapes are right."""

    name: str
    file: str
    fault: str | None


def list_sets() -> list[SetStatus]:
    """The bundled set, DF-Spot's three, and what else the local store holds."""
    rows = []
    for manifest_directory, bundled in _directories():
        manifest = read_manifest(manifest_directory)
        for name, record in manifest.sets.items():
            if name not in SEED_SETS:
                present = tuple(member.name for member in record.members)
                size = sum(_size(manifest_directory / member.file) for member in record.members)
                terms = "MIT, with attribution (NOTICE)" if bundled else "your own"
                rows.append(SetStatus(name, present, (), size, None, terms, str(manifest_directory)))
        for name, detector in manifest.detectors.items():
            size = _size(manifest_directory / detector.file)
            terms = "MIT, with attribution (NOTICE)" if bundled else "Apache-2.0 (Google)"
            rows.append(SetStatus(name, ("detector",), (), size, None, terms, str(manifest_directory)))
    return rows + [_seed_status(name) for name in SEED_SETS]


def verify(names: Collection[str] = ()) -> list[Checked]:
    """Hashes every file, and checks keys and shapes against the networks; a fault is told in its row, not raised.

    Raises WeightsMissing for a name that is not here.
    """
    rows = []
    for directory, _ in _directories():
        manifest = read_manifest(directory)
        for set_name, record in manifest.sets.items():
            if not names or set_name in names:
                rows += [_check_member(set_name, record, index, directory) for index in range(len(record.members))]
        for name, detector in manifest.detectors.items():
            if not names or name in names:
                rows.append(_check(name, directory / detector.file, detector.sha256))
    unknown = [name for name in names if name not in {row.name.partition("/")[0] for row in rows}]
    if unknown:
        raise WeightsMissing(f"{unknown[0]}: there are no such weights here; see `streamwatch weights list`")
    return rows


def write_tensors(file: str, state: Mapping[str, Tensor]) -> str:
    """Stores the tensors under that name, whole or not at all, and returns the file's sha256."""
    target = store_directory() / file
    partial = target.with_suffix(".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.detach().clone().contiguous() for key, value in state.items()}, str(partial))
        digest = file_hash(partial)
        partial.replace(target)
    except OSError as error:
        raise WeightsError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return digest


@contextmanager
def edited_manifest() -> Iterator[dict[str, Any]]:
    path = store_directory() / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    manifest = {"format": FORMAT, "detectors": {}, "sets": {}} | manifest
    yield manifest
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    partial.replace(path)


def _directories() -> list[tuple[Path, bool]]:
    store = store_directory()
    return [(bundled_directory(), True)] + ([(store, False)] if (store / MANIFEST).is_file() else [])


def _seed_status(name: str) -> SetStatus:
    store = store_directory()
    record = read_manifest(store).sets.get(name) if (store / MANIFEST).is_file() else None
    members = record.members if record is not None else ()
    present = tuple(member.name for member in members)
    absent = tuple(member for member in SEED_MEMBERS if member not in present)
    size = sum(_size(store / member.file) for member in members)
    return SetStatus(name, present, absent, size, ARCHIVE_BYTES if absent else None, SEED_TERMS, str(store))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_member(set_name: str, record: SetRecord, index: int, directory: Path) -> Checked:
    member = record.members[index]
    one = WeightSet(set_name, record.model_copy(update={"members": (member,)}), directory)
    name, file = f"{set_name}/{member.name}", str(directory / member.file)
    try:
        load_ensemble(one)
    except WeightsError as error:
        return Checked(name, file, str(error).removeprefix(f"{file}: "))
    return Checked(name, file, None)


def _check(name: str, path: Path, sha256: str) -> Checked:
    try:
        fault = None if file_hash(path) == sha256 else "sha256 is not what the manifest says"
    except WeightsError as error:
        fault = str(error).removeprefix(f"{path}: ")
    return Checked(name, str(path), fault)
