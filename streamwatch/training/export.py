"""Make a weight set of trained members: NAME=CHECKPOINT for each, or NAME=DIRECTORY:MEMBER to keep one of a set.

With *SHARE behind it, its weights are averaged with those of `--anchor`, one of the two having been refined from the
other: the mean keeps more of what the longer training knew (Wortsman et al., "Robust fine-tuning of zero-shot models",
CVPR 2022).
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from streamwatch.errors import ConfigError, StreamWatchError, WeightsCorrupt
from streamwatch.inference.members import MaskMember
from streamwatch.training.bundle import (
    file_name,
    load_warm_start,
    member_bytes,
    new_member,
    open_network,
    read_raw_manifest,
    write_members,
    write_set,
)

OF_A_CALIBRATION = ("disagreement_p99", "calibrated")
"""What a set loses when its members are replaced; its threshold is set anew."""


class Choice(NamedTuple):
    """One member of the set: its name, its checkpoint or DIRECTORY:MEMBER, and its share beside the anchor."""

    name: str
    checkpoint: Path
    share: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("members", nargs="+", help="NAME=CHECKPOINT, NAME=CHECKPOINT*SHARE or NAME=DIRECTORY:MEMBER")
    parser.add_argument("--mirrored", default="", help="members that look at the mirrored face, kept ones too")
    parser.add_argument("--input", default="", help="sides of members' inputs where they change: NAME=PIXELS,...")
    parser.add_argument("--output", type=Path, required=True, help="directory of weights; its other sets stay")
    parser.add_argument("--version", required=True, help="version of the set")
    parser.add_argument("--set", default="bundled", help="name of the set")
    parser.add_argument(
        "--anchor", help="what is averaged with: a checkpoint, DIRECTORY:MEMBER, or a file in the short key layout"
    )


def run(args: argparse.Namespace) -> int:
    choices = [parse_choice(text) for text in args.members]
    _refuse_repeated(choices)
    if not re.fullmatch(r"\w[\w.-]*", args.set):  # it may become part of a file's name
        raise ConfigError(f"set: {args.set!r} must be of letters, digits, '_', '.' and '-'")
    mirrored = set(filter(None, args.mirrored.split(",")))
    if strange := mirrored - {choice.name for choice in choices}:
        raise ConfigError(f"mirrored: {', '.join(sorted(strange))} is none of the members")
    inputs = parse_inputs(args.input, {choice.name for choice in choices})
    manifest = read_raw_manifest(args.output)
    content: dict[str, bytes] = {}
    records = []
    # All are read before any is written: a member that is kept may lie where another will.
    for choice in choices:
        member, trained = _load(choice, args.anchor)
        file = file_name(manifest, args.set, choice.name)
        content[file] = member_bytes(member)
        size = inputs.get(choice.name, member.spec.input_size)
        spec = replace(member.spec, mirrored=choice.name in mirrored, input_size=size)
        records.append(_record(choice.name, file, content[file], spec.to_dict(), trained))
    write_members(args.output, content)
    before = {k: v for k, v in manifest.get("sets", {}).get(args.set, {}).items() if k not in OF_A_CALIBRATION}
    record = {"version": args.version, "fusion": "logit_mean", "threshold": 0.5, "threshold_basis": "not calibrated"}
    write_set(args.output, args.set, {**before, **record, "figures": {}, "members": records})
    print(f"{args.output}: {args.set} {args.version}, {sum(map(len, content.values())) / 1e6:.1f} MB; now calibrate it")
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


def parse_inputs(text: str, names: Collection[str]) -> dict[str, int]:
    """`ViT=160,ViTST=192`; ConfigError where it is malformed, or names no member."""
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, pixels = part.partition("=")
        if name not in names or not pixels.isdigit() or not 32 <= int(pixels) <= 1024:
            raise ConfigError(f"input: {part!r} is not NAME=PIXELS, a member's name and 32 to 1024")
        sizes[name] = int(pixels)
    return sizes


def _refuse_repeated(choices: list[Choice]) -> None:
    names = [choice.name.lower() for choice in choices]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"members: {', '.join(repeated)}: named twice; upper and lower case are the same file")


def average(member: MaskMember, anchor: MaskMember, share: float) -> None:
    """Move the member's floating-point weights towards the anchor's: `share` of its own stays. A head of the other kind

    leaves the member's as it is; ConfigError where the trunks differ."""
    state = member.state_dict()
    for key, other in anchor.state_dict().items():
        if not key.startswith("head.") and (key not in state or state[key].shape != other.shape):
            raise ConfigError(f"anchor: {anchor.spec.backbone} cannot be averaged with {member.spec.backbone}: {key}")
        if key in state and state[key].is_floating_point() and state[key].shape == other.shape:
            state[key].lerp_(other, 1.0 - share)


def _load(choice: Choice, anchor: str | None) -> tuple[MaskMember, dict[str, Any]]:
    """The member, and the manifest's words on its training."""
    member, trained = open_network(str(choice.checkpoint)) or _refused(choice.checkpoint)
    if choice.share < 1:
        if anchor is None:
            raise ConfigError(f"anchor: needed for {choice.name}, whose share is {choice.share}")
        if found := open_network(anchor):
            origin, trained["anchor"] = found
        else:
            origin = new_member(member.spec)
            load_warm_start(Path(anchor), origin)
        average(member, origin, choice.share)
        # Of what was averaged before, its own weights keep a share of their share.
        trained["share_beside_the_anchor"] = choice.share * trained.get("share_beside_the_anchor", 1.0)
    return member, trained


def _refused(path: Path) -> NoReturn:
    raise WeightsCorrupt(f"{path}: is neither a checkpoint (.pt) nor DIRECTORY:MEMBER")


def _record(name: str, file: str, content: bytes, spec: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "architecture": spec,
        "crop": spec["crop"],
        "temperature": 1.0,
        "bias": 0.0,
        "trained": trained,
        "figures": {},
    }


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    try:
        raise SystemExit(run(_parser.parse_args()))
    except StreamWatchError as _error:
        raise SystemExit(f"export: {_error}") from _error
