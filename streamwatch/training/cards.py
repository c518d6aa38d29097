"""Put an evaluation's figures into the manifest, and write each member's model card from the manifest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from streamwatch.errors import ConfigError, StreamWatchError, WeightsMissing
from streamwatch.training.bundle import fingerprint, read_raw_manifest, write_set
from streamwatch.training.report import as_text

ATTRIBUTION = """\
Trained on FairFace (K. Karkkainen, J. Joo, WACV 2021, github.com/joojs/fairface, CC BY 4.0; cropped, re-labelled,
pseudo-fakes derived) and on US-government portraits (public domain; the Civil Services collection, MIT, 2017).
Labels by Google BlazeFace and FaceMesh (Apache-2.0). No deepfake and no face of the evaluation clips was trained on."""

NOT_FIGURES = ("weights", "fingerprint", "scored")
"""What an evaluation says besides."""

RECODED = ("half", "clips", "pooled", "by_method", "members", "fakes_over_threshold", "false_alarms", "coverage")
"""What is told of the clips that were compressed once more."""

LIMITS = """\
- It finds traces of blending and of face generators in *altered* faces. Pictures or videos that were generated as a
  whole, and altered voices, are out of its scope.
- It learnt from fakes that this project made itself. What it is worth on deepfakes that others made is in the second
  block of figures, from few clips: read the intervals, not the middle. Open detectors commonly lose half of their
  lead over chance on material from the wild.
- Under 64 px of face height nothing is promised. Compression hides what it looks for, an ordinary live camera's too:
  `streamwatch evaluate --recode` says how much is left.
- Scores are not evidence about a person. They say that something deserves a second look."""


def card_name(file: str) -> str:
    """Where the card of a file of weights lies, beside it."""
    return Path(file).with_suffix(".md").name


def card(member: dict[str, Any], record: dict[str, Any]) -> str:
    """A member's model card in Markdown."""
    figures = record.get("figures", {})
    architecture = member["architecture"]
    own = {
        "image AUC on held-out pseudo-fakes": figures.get("held_out_pseudo_fakes", {})
        .get("members", {})
        .get(member["name"]),
        "video AUC on the clips": figures.get("clips", {}).get("members", {}).get(member["name"]),
        "the ensemble's without it": figures.get("clips", {}).get("without", {}).get(member["name"]),
    }
    own = {what: value for what, value in own.items() if value is not None}
    trained = member.get("trained", {})
    return f"""\
# {member["name"]} ({record["version"]})

One of the {len(record["members"])} members of an ensemble, which gives the mean of their calibrated logits. A score
is the probability that the face is fake, 0 to 1.

## Network
`{architecture["backbone"]}` (timm's layout), features at strides 16 and 32; a mask head that says
where a face was altered; head `{architecture["head"]}`; input {architecture["input_size"]} px RGB\
{f", high-pass of sigma {architecture['highpass']:g} px" if architecture["highpass"] else ""}. Crop `{member["crop"]}`.
Calibrated logit = (logit + {member["bias"]}) / {member["temperature"]}.

## Training
{trained.get("images", "?")} images after its start; {_commit(trained)}:

```
{trained.get("command") or "see docs/training.md"}
```
{_averaged(trained)}{_ancestry(trained)}
{trained.get("note", "")}

## Data and terms
{ATTRIBUTION}
{_pretrained(member)}
## Figures of this member
{as_text(own)}

## Figures of the ensemble
Threshold {record["threshold"]}: {record.get("threshold_basis", "")}.
{_commands(record)}
```
{as_text({k: v for k, v in figures.items() if isinstance(v, dict)} | {"measured": figures.get("measured", "")})}
```

## Limits
{LIMITS}
"""


def _pretrained(member: dict[str, Any]) -> str:
    """What a trunk owes to others, where its training began with their weights."""
    # In its own command, in those of its starts, or of what it was averaged with.
    if "--pretrained" not in json.dumps(member.get("trained", {})):
        return ""
    backbone = member["architecture"]["backbone"]
    return f"\nThe trunk began with the weights of `{backbone}` that its authors trained on ImageNet-1k (see NOTICE).\n"


def _ancestry(trained: dict[str, Any]) -> str:
    """What a network began from, what that began from, and so on."""
    told = ""
    while trained := trained.get("start", {}):
        told += (
            f"\nBefore that, {trained.get('images', '?')} images; {_commit(trained)}:\n\n"
            f"```\n{trained.get('command') or 'see docs/training.md'}\n```\n{_averaged(trained)}"
        )
    return told


def _commit(trained: dict[str, Any]) -> str:
    if trained.get("exported_at"):
        return f"exported at commit `{trained['exported_at']}`"
    return f"commit `{trained.get('commit') or '?'}`"


def _commands(record: dict[str, Any]) -> str:
    """How the threshold and the figures were made, where the record says it."""
    figures = record.get("figures", {})
    recoded = [told.get("command") for told in figures.get("clips_compressed_once_more", {}).values()]
    text = "\n".join(filter(None, (record.get("calibrated"), figures.get("command"), *recoded)))
    return f"\nMade with:\n\n```\n{text}\n```\n" if text else ""


def _averaged(trained: dict[str, Any]) -> str:
    share = trained.get("share_beside_the_anchor")
    if not share:
        return ""
    anchor = trained.get("anchor")
    if not anchor:
        return f"\nIts weights were then averaged with those that it started from ({share:g} of its own).\n"
    other = f"a network of {anchor.get('images', '?')} images; {_commit(anchor)}"
    command = anchor.get("command") or "see docs/training.md"
    return f"\nIts weights were then averaged ({share:g} of its own) with those of {other}:\n\n```\n{command}\n```\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="directory with the manifest")
    parser.add_argument("--set", default="bundled", help="name of the set")
    parser.add_argument("--evaluation", type=Path, required=True, help="evaluation.json of `streamwatch evaluate`")
    parser.add_argument(
        "--recoded", type=Path, nargs="*", default=[], help="the same of `streamwatch evaluate --recode`"
    )


def run(args: argparse.Namespace) -> int:
    record = read_raw_manifest(args.weights).get("sets", {}).get(args.set)
    if record is None:
        raise ConfigError(f"set: {args.weights} has no set {args.set!r}")
    evaluation = _read(args.evaluation, record, args)
    kept = {key: value for key, value in record.get("figures", {}).items() if key.startswith("fixed_")}
    figures = {**kept, **{k: v for k, v in evaluation.items() if k not in NOT_FIGURES}}
    recoded = [_recoded(path, record, args) for path in args.recoded]
    if recoded:
        figures["clips_compressed_once_more"] = dict(sorted(recoded))
    record = {**record, "figures": figures}
    write_set(args.weights, args.set, record)
    for member in record["members"]:
        (args.weights / card_name(member["file"])).write_text(card(member, record), encoding="utf-8")
    return 0


def _read(path: Path, record: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """An evaluation of the set as it is now."""
    try:
        evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsMissing(f"{path}: is no evaluation: {error}") from error
    if evaluation.get("fingerprint") != fingerprint(record):
        measured = evaluation.get("weights", "nobody says which weights")
        raise ConfigError(
            f"{path}: measured {measured}, not {args.set} {record['version']} of {args.weights} as it is"
            " now: its members, calibration or threshold were others"
        )
    return evaluation


def _recoded(path: Path, record: dict[str, Any], args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    evaluation = _read(path, record, args)
    clips = evaluation.get("clips", {})
    if "recoded_at_crf" not in clips:
        raise ConfigError(f"{path}: its clips were not compressed once more (evaluate --recode)")
    told = {name: clips[name] for name in RECODED if name in clips}
    measured = {"command": evaluation["command"], "measured": evaluation["measured"]}
    return f"crf {clips['recoded_at_crf']}", {**told, **measured}


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    try:
        raise SystemExit(run(_parser.parse_args()))
    except StreamWatchError as _error:
        raise SystemExit(f"cards: {_error}") from _error
