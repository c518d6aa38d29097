"""Checked imports of weights that a user got by hand, into the local store.

Nothing is executed: checkpoints are read with `weights_only=True`, checked key by key against the network they claim to
be, and kept as safetensors under a manifest with their sha256.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from streamwatch.errors import ConfigError, WeightsCorrupt, WeightsError, WeightsMissing
from streamwatch.inference.blazeface import BlazeFace, make_anchors
from streamwatch.inference.seed_members import (
    SEED_CROP,
    SEED_THRESHOLD,
    SeedSpec,
    empty_seed_member,
    without_unused_head,
)
from streamwatch.inference.weights import MANIFEST, SEED_MEMBERS, first_mismatch, read_manifest, store_directory
from streamwatch.inference.weights_store import edited_manifest, write_tensors

Progress = Callable[[str, int, int | None], None]
"""What is being done, how much of it is done, and of how much (None: not known)."""

ORIGINAL_BLAZEFACE = "blazeface-original"
_CHECKPOINT = re.compile(r"^(celeb|dfdc|ffpp)_(v2|v2st|vit|vitst)\.(?:pth|pt)$", re.IGNORECASE)
_MEMBERS = dict(zip(("v2", "v2st", "vit", "vitst"), SEED_MEMBERS, strict=True))


def import_weights(path: Path, progress: Progress | None = None) -> list[str]:
    """Takes DF-Spot checkpoints (`{celeb,dfdc,ffpp}_{v2,v2st,vit,vitst}.pth`), `blazeface.pth` and `anchors.npy` from a
    file, a folder, or a zip or tar archive, into the local store. Returns what was taken, as `set/member`.

    Raises WeightsMissing where the path is not there or holds nothing of that kind, WeightsCorrupt naming the first
    key, shape or pickled object that is not as it must be; what was taken before stays.
    """
    tell = progress or (lambda *_: None)
    if not path.exists():
        raise WeightsMissing(f"{path}: there is no such file or folder")
    taken: list[str] = []
    for name, file in _candidates(path):
        tell(f"import {name}", len(taken), None)
        taken.append(_import_one(name, file))
    if not taken:
        wanted = "{celeb,dfdc,ffpp}_{v2,v2st,vit,vitst}.pth, blazeface.pth or anchors.npy"
        raise WeightsMissing(f"{path}: holds none of {wanted}")
    tell("import", len(taken), len(taken))
    return taken


def _import_one(name: str, path: Path) -> str:
    if name.lower() == "anchors.npy":
        return _check_anchors(path)
    state = read_checkpoint(path)
    if name.lower() == "blazeface.pth":
        return _import_blazeface(path, state)
    match = _CHECKPOINT.match(name)
    assert match is not None, "_candidates gives known names only"
    set_name, spec = f"dfspot-{match[1].lower()}", SeedSpec(_MEMBERS[match[2].lower()])
    return import_state(set_name, spec, state, origin=name)


def import_checkpoint(path: Path) -> str:
    """One DF-Spot checkpoint file into the store, unless that very file was taken before; returns `set/member`."""
    match = _CHECKPOINT.match(path.name)
    if match is None:
        raise ConfigError(f"{path}: its name says no network; DF-Spot's are called like dfdc_vit.pth")
    set_name, member = f"dfspot-{match[1].lower()}", _MEMBERS[match[2].lower()]
    try:
        state = path.stat()
    except OSError as error:
        raise WeightsMissing(f"{path}: the checkpoint of {member} is missing") from error
    origin = f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    store = store_directory()
    record = read_manifest(store).sets.get(set_name) if (store / MANIFEST).is_file() else None
    taken = record is not None and any(m.name == member and m.origin == origin for m in record.members)
    return f"{set_name}/{member}" if taken else import_state(set_name, SeedSpec(member), read_checkpoint(path), origin)


def checkpoint_name(dataset: str, member: str) -> str:
    """DF-Spot's file name of a member: `dfdc_vitst.pth`."""
    return f"{dataset}_{next(key for key, name in _MEMBERS.items() if name == member)}.pth"


def import_state(set_name: str, spec: SeedSpec, state: Mapping[str, Tensor], origin: str) -> str:
    """One network's tensors into a DF-Spot set of the store. Raises WeightsCorrupt naming the first mismatch."""
    tensors = without_unused_head(state)
    mismatch = first_mismatch(empty_seed_member(spec).net.state_dict(), tensors)
    if mismatch is not None:
        raise WeightsCorrupt(f"{origin.partition(':')[0]}: is not a {spec.name} checkpoint: {mismatch}")
    file = f"{set_name}/{spec.name}.safetensors"
    record = {
        "name": spec.name,
        "file": file,
        "sha256": write_tensors(file, tensors),
        "architecture": spec.to_dict(),
        "crop": SEED_CROP,
        "origin": origin,
    }
    with edited_manifest() as manifest:
        entry = manifest["sets"].setdefault(set_name, _empty_seed_set())
        others = [member for member in entry["members"] if member["name"] != spec.name]
        entry["members"] = sorted([*others, record], key=lambda member: SEED_MEMBERS.index(member["name"]))
    return f"{set_name}/{spec.name}"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors under `net` of a checkpoint, or of a plain state dict. Pickled code is refused, not run."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        what = str(error).strip().partition("\n")[0]
        raise WeightsCorrupt(f"{path.name}: refused, it is not plain tensors: {what}") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        what = str(error).strip().partition("\n")[0]
        raise WeightsCorrupt(f"{path.name}: is not a readable checkpoint: {what}") from error
    state = loaded.get("net", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsCorrupt(f"{path.name}: holds no state dict under 'net'")
    return {str(key): value for key, value in state.items()}


def _import_blazeface(path: Path, state: Mapping[str, Tensor]) -> str:
    mismatch = first_mismatch(BlazeFace().state_dict(), state)
    if mismatch is not None:
        raise WeightsCorrupt(f"{path.name}: is not a BlazeFace checkpoint: {mismatch}")
    file = f"{ORIGINAL_BLAZEFACE}.safetensors"
    record = {"file": file, "sha256": write_tensors(file, state), "score_threshold": 0.75}
    with edited_manifest() as manifest:
        manifest["detectors"][ORIGINAL_BLAZEFACE] = record
    return ORIGINAL_BLAZEFACE


def _check_anchors(path: Path) -> str:
    """Anchors are computed, not stored: the file only has to agree with them."""
    try:
        anchors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WeightsCorrupt(f"{path.name}: is not a readable array: {error}") from error
    if anchors.shape != (896, 4) or not np.allclose(anchors[:, :2], make_anchors().numpy(), atol=1e-5):
        raise WeightsCorrupt(f"{path.name}: not the 896 anchors of BlazeFace's front-camera model")
    return "anchors"


def _candidates(path: Path) -> Iterator[tuple[str, Path]]:
    """Known files as (their name, where they can be read); an archive's members are unpacked one at a time."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if _known(file.name) and file.is_file():
                yield file.name, file
    elif _known(path.name):
        yield path.name, path
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and _known(Path(member.name).name) else None
                if stream is not None:
                    with _unpacked(stream) as file:
                        yield Path(member.name).name, file
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if _known(Path(info.filename).name):
                    with archive.open(info) as stream, _unpacked(stream) as file:
                        yield Path(info.filename).name, file
    else:
        raise ConfigError(
            f"{path}: its name says no network; checkpoints are called like dfdc_vit.pth (celeb, dfdc, ffpp; "
            "v2, v2st, vit, vitst), the detector blazeface.pth"
        )


def _known(name: str) -> bool:
    return _CHECKPOINT.match(name) is not None or name.lower() in ("blazeface.pth", "anchors.npy")


@contextmanager
def _unpacked(stream: IO[bytes]) -> Iterator[Path]:
    """The stream's bytes in a temporary file of the store's own disk. The archive's paths are never used."""
    store = store_directory()
    store.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".pth", dir=store)
    try:
        with os.fdopen(handle, "wb") as file:
            while block := stream.read(1 << 22):
                file.write(block)
        yield Path(name)
    except OSError as error:
        raise WeightsError(f"{store}: the archive cannot be unpacked: {error.strerror or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _empty_seed_set() -> dict[str, Any]:
    return {
        "version": "dfspot",
        "fusion": "sigmoid_mean",
        "threshold": SEED_THRESHOLD,
        "threshold_basis": "DF-Spot's own",
        "disagreement_p99": None,
        "members": [],
    }
