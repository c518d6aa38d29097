"""From checkpoints to a set of weights: float16 files, and a manifest that is merged, never overwritten."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from streamwatch.errors import WeightsCorrupt
from streamwatch.inference.members import MaskMember, MemberSpec, build_member
from streamwatch.inference.weights import FORMAT, MANIFEST, load_tensors, read_manifest

LARGEST_FILE = 12_000_000
LARGEST_SET = 24_000_000


def load_checkpoint(path: Path) -> MaskMember:
    """The averaged weights of a training's checkpoint; WeightsCorrupt where it is none."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        member = new_member(MemberSpec.from_dict(saved["spec"]))
        member.load_state_dict(saved["ema"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsCorrupt(f"{path}: is not a checkpoint of a member: {error}") from error
    return member.eval()


def load_bundled(directory: Path, name: str, set_name: str = "bundled") -> MaskMember:
    """One member of a set of weights, ready to go on training from."""
    record = next((m for m in read_manifest(directory).sets[set_name].members if m.name == name), None)
    if record is None:
        raise WeightsCorrupt(f"{directory / MANIFEST}: the set {set_name} has no member {name}")
    member = new_member(MemberSpec.from_dict(dict(record.architecture)))
    tensors = load_tensors(directory / record.file, record.sha256)
    member.load_state_dict({key: value.float() for key, value in tensors.items()})
    return member.eval()


def new_member(spec: MemberSpec) -> MaskMember:
    """An untrained compact member."""
    member = build_member(spec)
    if not isinstance(member, MaskMember):
        raise TypeError(f"{spec.backbone} is not a member that can be trained here")
    return member


def save_member(member: MaskMember, path: Path) -> str:
    """Write the weights and return their sha256. Kernels are float16; scales and statistics, which can leave its

    range and weigh nothing, float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.ndim > 1 else value for key, value in member.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{path}: {size} bytes, more than the {LARGEST_FILE} that one member may have")
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
