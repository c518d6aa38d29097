"""Make a weight set of trained members: NAME=CHECKPOINT for each, or NAME=DIRECTORY:MEMBER to keep one of a set.

NAME=CHECKPOINT*SHARE averages the checkpoint's weights with those of `--anchor`, which it was refined from: the mean
keeps more of what the longer training knew (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from streamwatch.errors import ConfigError, WeightsCorrupt
from streamwatch.inference.members import MaskMember
from streamwatch.training.bundle import (
    LARGEST_SET,
    load_bundled,
    load_checkpoint,
    load_warm_start,
    new_member,
    read_raw_manifest,
    save_member,
    write_set,
)


class Choice(NamedTuple):
    """One member of the set: its name, its checkpoint, and the checkpoint's share beside the anchor."""

    name: str
    checkpoint: Path
    share: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("members", nargs="+", help="NAME=CHECKPOINT, NAME=CHECKPOINT*SHARE or NAME=DIRECTORY:MEMBER")
    parser.add_argument("--mirrored", default="", help="members that look at the mirrored face, kept ones too")
    parser.add_argument("--output", type=Path, required=True, help="directory of weights; its other sets stay")
    parser.add_argument("--version", required=True, help="version of the set")
    parser.add_argument("--set", default="bundled", help="name of the set")
    parser.add_argument("--anchor", type=Path, help="weights that the checkpoints were refined from")


def run(args: argparse.Namespace) -> int:
    choices = [parse_choice(text) for text in args.members]
    before = read_raw_manifest(args.output).get("sets", {}).get(args.set, {})
    mirrored = set(filter(None, args.mirrored.split(",")))
    if strange := mirrored - {choice.name for choice in choices}:
        raise ConfigError(f"mirrored: {', '.join(sorted(strange))} is none of the members")
    # All are read before any is written: a member that is kept may lie where another will.
    loaded = [_load(choice, args.anchor) for choice in choices]
    records = [_export(c, m, t, args.output, c.name in mirrored) for c, (m, t) in zip(choices, loaded, strict=True)]
    total = sum((args.output / record["file"]).stat().st_size for record in records)
    if total > LARGEST_SET:
        raise ConfigError(f"members: {total} bytes together, more than the {LARGEST_SET} of a set")
    record = {"version": args.version, "fusion": "logit_mean", "threshold": 0.5, "threshold_basis": "not calibrated"}
    write_set(args.output, args.set, {**before, **record, "figures": {}, "members": records})
    print(f"{args.output}: {args.set} {args.version}, {total / 1e6:.1f} MB; now calibrate it")
    return 0


def parse_choice(text: str) -> Choice:
    """`ViT=runs/ViT/checkpoint.pt*0.5`; ConfigError where it is malformed."""
    name, separator, rest = text.partition("=")
    path, _, share = rest.partition("*")
    try:
        value = float(share) if share else 1.0
    except ValueError as error:
        raise ConfigError(f"members: {text!r}: the share must be a number") from error
    if not (separator and name.isalnum() and path and 0 <= value <= 1):
        raise ConfigError(f"members: {text!r} is not NAME=CHECKPOINT or NAME=CHECKPOINT*SHARE with a share of 0 to 1")
    return Choice(name, Path(path), value)


def average(member: MaskMember, anchor: MaskMember, share: float) -> None:
    """Move the member's floating-point weights towards the anchor's: `share` of its own stays."""
    state = member.state_dict()
    for key, other in anchor.state_dict().items():
        if key in state and state[key].is_floating_point() and state[key].shape == other.shape:
            state[key].lerp_(other, 1.0 - share)


def _load(choice: Choice, anchor: Path | None) -> tuple[MaskMember, dict[str, Any]]:
    """The member, and the manifest's words on its training."""
    directory, kept, name = str(choice.checkpoint).rpartition(":")
    if kept:
        member = load_bundled(Path(directory), name)
        records = read_raw_manifest(Path(directory))["sets"]["bundled"]["members"]
        return member, next(record.get("trained", {}) for record in records if record["name"] == name)
    member = load_checkpoint(choice.checkpoint)
    saved = torch.load(choice.checkpoint, map_location="cpu", weights_only=True)
    trained = {"commit": _commit(), "command": saved.get("command", ""), "images": saved["progress"]["seen"]}
    if choice.share < 1:
        if anchor is None:
            raise ConfigError(f"anchor: needed for {choice.name}, whose share is {choice.share}")
        origin = new_member(member.spec)
        load_warm_start(anchor, origin)
        average(member, origin, choice.share)
        trained["share_beside_the_anchor"] = choice.share
    return member, trained


def _export(
    choice: Choice, member: MaskMember, trained: dict[str, Any], output: Path, mirrored: bool
) -> dict[str, Any]:
    spec = replace(member.spec, mirrored=mirrored)
    file = f"{choice.name.lower()}.safetensors"
    digest = save_member(member, output / file)
    return {
        "name": choice.name,
        "file": file,
        "sha256": digest,
        "architecture": spec.to_dict(),
        "crop": spec.crop,
        "temperature": 1.0,
        "bias": 0.0,
        "trained": trained,
        "figures": {},
    }


def _commit() -> str:
    """The checkout's commit, or empty outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    try:
        raise SystemExit(run(_parser.parse_args()))
    except WeightsCorrupt as _error:
        raise SystemExit(f"export: {_error}") from _error
