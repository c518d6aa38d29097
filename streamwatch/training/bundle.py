"""From checkpoints to a set of weights: float16 files, and a manifest that is merged, never overwritten."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from streamwatch.errors import ConfigError, WeightsCorrupt
from streamwatch.inference.members import MaskMember, MemberSpec, build_member
from streamwatch.inference.weights import FORMAT, MANIFEST, find_set, load_tensors
from streamwatch.training.provenance import source_commit

LARGEST_FILE = 12_000_000
LARGEST_SET = 24_000_000


def open_network(place: str, name: str = "") -> tuple[MaskMember, dict[str, Any]] | None:
    """The network of a checkpoint (.pt), or of a directory's set (DIR:MEMBER, or DIR with `name`), and the manifest's

    words on its training. None of any other file: it says nothing of its network. Raises WeightsError."""
    folder, colon, member = place.rpartition(":")
    source = Path(folder if colon else place)
    if colon or source.is_dir():
        return load_bundled(source, member if colon else name), _bundled_training(source, member if colon else name)
    if source.suffix == ".pt":
        network, saved = _read_checkpoint(source)
        return network, _checkpoint_training(saved)
    return None


def load_checkpoint(path: Path) -> MaskMember:
    """The averaged weights of a training's checkpoint; WeightsCorrupt where it is none."""
    return _read_checkpoint(path)[0]


def _read_checkpoint(path: Path) -> tuple[MaskMember, Mapping[str, Any]]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        spec = MemberSpec.from_dict(saved["spec"])
        # What it ended at. The spec has its role's default, which has been taken for it, and costs or gains unseen.
        _, _, size = (saved.get("options", {}).get("sizes") or "").rpartition(":")
        member = new_member(replace(spec, input_size=int(size or spec.input_size)))
        member.load_state_dict(saved["ema"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsCorrupt(f"{path}: is not a checkpoint of a member: {error}") from error
    return member.eval(), saved


def load_bundled(directory: Path, name: str) -> MaskMember:
    """One member of a directory's set of weights, whatever its name, ready to go on training from."""
    weights = find_set(str(directory))
    record = next((m for m in weights.record.members if m.name == name), None)
    if record is None:
        raise WeightsCorrupt(f"{weights.directory / MANIFEST}: the set {weights.name} has no member {name}")
    path = weights.directory / record.file
    try:
        member = new_member(MemberSpec.from_dict(dict(record.architecture)))
    except (ValueError, TypeError) as error:
        raise WeightsCorrupt(f"{path}: {error}") from error
    tensors = load_tensors(path, record.sha256)
    member.load_state_dict({key: value.float() for key, value in tensors.items()})
    return member.eval()


def _checkpoint_training(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's words on a checkpoint's training; `start` are those on what it began from. A checkpoint that does

    not know its commit is given that of this code, under a name that says so."""
    trained = {"command": saved.get("command", ""), "images": saved.get("progress", {}).get("seen", 0)}
    commit = saved.get("commit")
    known = {"commit": commit} if commit else {"exported_at": source_commit()}
    start = saved.get("start")
    return {**known, **trained, **({"start": start} if start else {})}


def _bundled_training(directory: Path, name: str) -> dict[str, Any]:
    """The manifest's words on the training of a member that `load_bundled` finds; empty where it says nothing."""
    weights = find_set(str(directory))
    records = read_raw_manifest(weights.directory)["sets"][weights.name]["members"]
    return dict(next(record.get("trained", {}) for record in records if record["name"] == name))


def new_member(spec: MemberSpec) -> MaskMember:
    """An untrained compact member."""
    member = build_member(spec)
    if not isinstance(member, MaskMember):
        raise TypeError(f"{spec.backbone} is not a member that can be trained here")
    return member


def member_bytes(member: MaskMember) -> bytes:
    """The weights as a safetensors file. Kernels are float16; scales and statistics, which can leave its range and

    weigh nothing, float32."""
    state = {key: value.half() if value.ndim > 1 else value for key, value in member.state_dict().items()}
    content: bytes = save({key: value.contiguous() for key, value in state.items()})
    return content


def write_members(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a set, by name. ConfigError where they are too large, before anything is written.

    All lie whole beside their places before the first takes its own: they may replace those of a set in use.
    """
    for name, content in files.items():
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"members: {name}: {len(content)} bytes, more than the {LARGEST_FILE} of one member")
    total = sum(map(len, files.values()))
    if total > LARGEST_SET:
        raise ConfigError(f"members: {total} bytes together, more than the {LARGEST_SET} of a set")
    directory.mkdir(parents=True, exist_ok=True)
    parts = {directory / f"{name}.part": directory / name for name in files}
    try:
        for part, content in zip(parts, files.values(), strict=True):
            part.write_bytes(content)
        for part, place in parts.items():
            part.replace(place)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def file_name(manifest: Mapping[str, Any], set_name: str, member: str) -> str:
    """`vit.safetensors`, or `mine-vit.safetensors` where that file or its card is another set's or a detector's.

    ConfigError where the longer name is taken as well."""
    others = [one for name, one in manifest.get("sets", {}).items() if name != set_name]
    records = [record for one in others for record in one.get("members", [])]
    records += manifest.get("detectors", {}).values()
    taken = {Path(record["file"]).stem.lower() for record in records}
    for stem in (member.lower(), f"{set_name}-{member}".lower()):
        if stem not in taken:
            return f"{stem}.safetensors"
    raise ConfigError(f"members: {stem}.safetensors belongs to another set of the directory")


def fingerprint(record: Mapping[str, Any]) -> str:
    """Of what decides a set's verdicts: its files, how they are looked at and fused, calibration and threshold."""
    members = [
        [member[key] for key in ("name", "sha256", "architecture", "crop", "temperature", "bias")]
        for member in record["members"]
    ]
    content = json.dumps([record["fusion"], record["threshold"], members], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_raw_manifest(directory: Path) -> dict[str, Any]:
    """The manifest as it stands, or an empty one."""
    path = directory / MANIFEST
    if not path.exists():
        return {"format": FORMAT, "detectors": {}, "sets": {}}
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def write_set(directory: Path, name: str, record: Mapping[str, Any]) -> None:
    """Put one set into the directory's manifest; detectors and other sets stay as they are."""
    manifest = read_raw_manifest(directory)
    manifest.setdefault("sets", {})[name] = dict(record)
    part = directory / (MANIFEST + ".part")
    part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    part.replace(directory / MANIFEST)


def load_warm_start(path: Path, member: MaskMember) -> None:
    """Start from a file in a shorter key layout: `b.` trunk, `m.` mask head, `h.` linear head.

    A batch-normalised head starts as the identity in front of that linear layer. Keys that do not fit raise
    WeightsCorrupt.
    """
    renamed = {"b.": "trunk.", "m.": "mask_head.", "h.": "head." if member.spec.head == "linear" else "head.1."}
    state = {}
    for key, value in load_file(path).items():
        prefix = renamed.get(key[:2])
        if prefix is None:
            raise WeightsCorrupt(f"{path}: unknown key {key}")
        state[prefix + key[2:]] = value.float()
    missing = member.load_state_dict(state, strict=False)
    if missing.unexpected_keys or any(not key.startswith("head.0.") for key in missing.missing_keys):
        raise WeightsCorrupt(f"{path}: does not fit {member.spec.backbone}: {missing}")


def transplant(source: MaskMember, target: MaskMember) -> None:
    """Give `target` the weights of a sibling that may have the other kind of head.

    A batch-normalised head begins with fresh statistics in front of the sibling's linear layer; the other way round,
    the normalisation is folded into the linear layer. WeightsCorrupt where the trunks differ.
    """
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("head.")}
    state |= {f"head.{key}": value for key, value in _head_for(source, target.spec.head).items()}
    try:
        result = target.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsCorrupt(f"{source.spec.backbone} weights do not fit {target.spec.backbone}: {error}") from error
    strange = [key for key in result.missing_keys if not key.startswith("head.0.")] + list(result.unexpected_keys)
    if strange:
        raise WeightsCorrupt(f"{source.spec.backbone} weights do not fit {target.spec.backbone}: {strange[0]}")


def _head_for(source: MaskMember, kind: str) -> dict[str, torch.Tensor]:
    state = source.head.state_dict()
    if source.spec.head == kind:
        return dict(state)
    if kind == "bn_linear":
        return {f"1.{key}": value for key, value in state.items()}
    scale = state["0.weight"] / (state["0.running_var"] + 1e-5).sqrt()
    weight = state["1.weight"] * scale
    bias = state["1.bias"] + (state["1.weight"] * (state["0.bias"] - state["0.running_mean"] * scale)).sum(1)
    return {"weight": weight, "bias": bias}
