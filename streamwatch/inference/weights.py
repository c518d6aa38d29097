"""Weights by manifest: which networks there are, where their files lie, and proof that they are the right ones.

A directory of weights holds `manifest.json` and safetensors files. The bundled one lies beside the package in a
checkout and inside it in an installed wheel; what a user pulls or imports lies in the local store, in the same form.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from streamwatch.errors import ConfigError, WeightsCorrupt, WeightsMissing

MANIFEST = "manifest.json"
FORMAT = 1
DIRECTORY_VARIABLE = "STREAMWATCH_WEIGHTS_DIR"
SEED_SETS = ("dfspot-celeb", "dfspot-dfdc", "dfspot-ffpp")
SEED_FAMILY = "dfspot"
SEED_MEMBERS = ("TimmV2", "TimmV2ST", "ViT", "ViTST")
Fusion = Literal["logit_mean", "sigmoid_mean"]


class _Record(BaseModel):
    # Figures, cards and training records travel with the manifest; serving does not need to know them all.
    model_config = ConfigDict(frozen=True, extra="ignore")


class DetectorRecord(_Record):
    """A face detector's file. Boxes under `score_threshold` do not count."""

    file: str
    sha256: str
    score_threshold: float
    figures: Mapping[str, Any] = {}


class MemberRecord(_Record):
    """One network. Its calibrated logit is (logit + bias) / temperature; `architecture` says how to build it."""

    name: str
    file: str
    sha256: str
    architecture: Mapping[str, Any]
    crop: str
    temperature: float = 1.0
    bias: float = 0.0
    figures: Mapping[str, Any] = {}
    origin: str = ""
    """the file that it was imported from"""


class SetRecord(_Record):
    """Networks that decide together. `disagreement_p99` is None where disagreement is not judged."""

    version: str
    fusion: Fusion
    threshold: float
    members: tuple[MemberRecord, ...]
    threshold_basis: str = ""
    disagreement_p99: float | None = None
    figures: Mapping[str, Any] = {}


class Manifest(_Record):
    format: Literal[1]
    detectors: Mapping[str, DetectorRecord] = {}
    sets: Mapping[str, SetRecord] = {}


class WeightSet:
    """A set of a manifest and the directory that its files lie in."""

    def __init__(self, name: str, record: SetRecord, directory: Path) -> None:
        self.name = name
        self.record = record
        self.directory = directory

    @property
    def hash(self) -> str:
        """Identifies the set: sha256 over the hashes and calibrations of its members."""
        lines = [f"{m.name} {m.sha256} {m.temperature} {m.bias}" for m in self.record.members]
        return hashlib.sha256("\n".join([self.record.fusion, *lines]).encode()).hexdigest()

    @property
    def is_seed(self) -> bool:
        """DF-Spot's networks, with its crop, its detection and its formula."""
        return self.record.members[0].architecture.get("family") == SEED_FAMILY

    def choose(self, names: Iterable[str] | None) -> WeightSet:
        """The set with only the named members, in the set's order; ConfigError names one that it has not."""
        known = [member.name for member in self.record.members]
        wanted = list(names) if names is not None else list(SEED_MEMBERS if self.is_seed else known)
        absent = [name for name in wanted if name not in known]
        if absent and self.is_seed and set(absent) <= set(SEED_MEMBERS):
            # The mean over fewer members than asked for would be another score under the same name.
            raise WeightsMissing(f"{self.name}: {', '.join(absent)} not in {self.directory}; it has {', '.join(known)}")
        if absent or not wanted:
            what = f"has no member {absent[0]!r}" if absent else "needs at least one member"
            raise ConfigError(f"ensemble.members: the set {self.name!r} {what}; it has {', '.join(known)}")
        chosen = tuple(member for member in self.record.members if member.name in wanted)
        return WeightSet(self.name, self.record.model_copy(update={"members": chosen}), self.directory)


def bundled_directory() -> Path:
    """STREAMWATCH_WEIGHTS_DIR, else the checkout's `weights/`, else the wheel's copy. Raises WeightsMissing."""
    override = os.environ.get(DIRECTORY_VARIABLE)
    if override:
        candidates = [Path(override)]
    else:
        package = Path(str(files("streamwatch")))
        candidates = [package.parent / "weights", package / "_data" / "weights"]
    for directory in candidates:
        if (directory / MANIFEST).is_file():
            return directory
    places = " or ".join(str(directory) for directory in candidates)
    raise WeightsMissing(f"no {MANIFEST} in {places}: the bundled weights are missing")


def store_directory() -> Path:
    """Where weights that the user pulled or imported lie: `streamwatch/weights` in the user's data directory (XDG)."""
    data_home = os.environ.get("XDG_DATA_HOME")
    return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "streamwatch" / "weights"


def read_manifest(directory: Path) -> Manifest:
    """Raises WeightsMissing where there is none, WeightsCorrupt naming the first field that is wrong."""
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise WeightsMissing(f"{path}: there is no manifest of weights") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsCorrupt(f"{path}: cannot be read: {error}") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise WeightsCorrupt(f"{path}: {field}: {first['msg']}") from error


def find_set(name: str) -> WeightSet:
    """The set `bundled`, one of the local store by its name, or that of a directory with a manifest.

    Raises WeightsMissing saying how the set can be had, WeightsCorrupt, or ConfigError for an unknown name.
    """
    if name == "bundled":
        directory = bundled_directory()
        return _set_of(directory, read_manifest(directory), name)
    store = store_directory()
    if (store / MANIFEST).is_file() and name in (manifest := read_manifest(store)).sets:
        return WeightSet(name, manifest.sets[name], store)
    if name in SEED_SETS:
        raise WeightsMissing(
            f"{name}: is not in {store}: fetch it with `streamwatch weights pull {name}`, "
            "or take in what you have with `streamwatch weights import PATH`"
        )
    directory = Path(name)
    if not directory.is_dir():
        raise ConfigError(f"ensemble.weights: {name!r} is neither a known set nor a directory with a {MANIFEST}")
    manifest = read_manifest(directory)
    if not manifest.sets:
        raise WeightsCorrupt(f"{directory / MANIFEST}: sets: is empty")
    return _set_of(directory, manifest, "bundled" if "bundled" in manifest.sets else next(iter(manifest.sets)))


def _set_of(directory: Path, manifest: Manifest, name: str) -> WeightSet:
    if name not in manifest.sets:
        raise WeightsCorrupt(f"{directory / MANIFEST}: sets.{name}: is missing")
    if not manifest.sets[name].members:
        raise WeightsCorrupt(f"{directory / MANIFEST}: sets.{name}.members: is empty")
    return WeightSet(name, manifest.sets[name], directory)


def load_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as stored. Raises WeightsMissing, or WeightsCorrupt where the hash differs."""
    actual = file_hash(path)
    if actual != sha256.lower():
        raise WeightsCorrupt(f"{path}: sha256 is {actual[:16]}..., the manifest says {sha256[:16]}...")
    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsCorrupt(f"{path}: is not a readable safetensors file: {error}") from error
    return tensors


def file_hash(path: Path) -> str:
    """sha256, hexadecimal. Raises WeightsMissing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise WeightsMissing(f"{path}: the file is missing") from error
    except OSError as error:
        raise WeightsCorrupt(f"{path}: cannot be read: {error}") from error


def first_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """The first key that is missing, unknown or of another shape, in words; None where a strict load would work."""
    for key, tensor in expected.items():
        if key not in given:
            return f"{key} is missing"
        if given[key].shape != tensor.shape:
            return f"{key} has shape {tuple(given[key].shape)}, expected {tuple(tensor.shape)}"
    unknown = next((key for key in given if key not in expected), None)
    return f"{unknown} is not expected" if unknown is not None else None
