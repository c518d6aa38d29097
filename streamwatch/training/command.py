"""Train one member of the ensemble: from scratch, from weights that are here, or on from its own checkpoint."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import timm
import torch
from torch import nn

from streamwatch.errors import ConfigError
from streamwatch.inference.members import MaskMember
from streamwatch.training.autoencoder import load_autoencoders
from streamwatch.training.batches import OWN_SHARE, Batches, HostBatches, OwnBatches
from streamwatch.training.bundle import load_bundled, load_checkpoint, load_warm_start, new_member, transplant
from streamwatch.training.devicebatches import DeviceBatches, upload
from streamwatch.training.faces import load_labelled_faces
from streamwatch.training.heldout import find_reconstruct
from streamwatch.training.loop import Recipe, Trainer
from streamwatch.training.recipes import PLANS, Plan, freeze, parse_mix, plan_of

LAYER_SCALE = 0.1


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
        "--pretrained", action="store_true", help="start the trunk from timm's ImageNet weights (needs the model hub)"
    )
    parser.add_argument("--images", type=int, help="length of the training")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--minutes", type=float, help="stop after so long, to go on later with --resume")
    parser.add_argument("--autoencoders", type=Path, help="folder of auto-encoders for reconstructed fakes")
    parser.add_argument("--mix", default="", help="shares of the fakes, such as swap=0.4,rescale=0")
    parser.add_argument("--mask-weight", type=float, help="weight of the dense mask loss (0: off)")
    parser.add_argument("--severity", type=float, help="strength of the stream look, 0 to 1")
    parser.add_argument("--hard-negatives", type=float, help="share of pairs whose real picture was processed whole")
    parser.add_argument("--recorded", type=float, help="share of pairs that were compressed before being altered")
    parser.add_argument("--tinted", type=float, help="share of pairs that got other colours")
    parser.add_argument(
        "--easy", type=float, help="share of the length during which the fakes harden (0: no curriculum)"
    )
    parser.add_argument("--freeze", default="", help="stages of the trunk to leave as they are, such as stem,stages_0")
    parser.add_argument("--frozen-norms", action="store_true", help="keep batch normalisation's statistics")
    parser.add_argument(
        "--bf16", action="store_true", help="let the trunk compute in bfloat16, where the processor is built for it"
    )
    parser.add_argument("--backbone", help="another timm network that gives features at strides 16 and 32")
    parser.add_argument("--sizes", default="", help="input sizes by share of the length, such as 0:128,0.7:224")
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


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    plan = plan_of(args.member)
    if args.backbone:
        plan = replace(plan, spec=replace(plan.spec, backbone=args.backbone))
    recipe = recipe_of(args, plan)
    torch.manual_seed(recipe.seed)
    member = initial_member(args, plan)
    freeze(member, tuple(filter(None, args.freeze.split(","))))
    trainer = Trainer(member, batches_of(args, recipe), recipe, args.folder or Path("runs") / args.member)
    if args.resume:
        trainer.resume()
    elif trainer.checkpoint.exists():
        raise ConfigError(f"{trainer.checkpoint}: is there already; give --resume, or another --folder")
    trainer.run(60 * args.minutes if args.minutes else None)
    return 0


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


def recipe_of(args: argparse.Namespace, plan: Plan) -> Recipe:
    """The plan's recipe with what the command line changes."""
    recipe = plan.recipe
    schedule = plan.refine if args.start_from else recipe.schedule
    given = {"images": args.images, "rate": args.rate, "easy": args.easy, "sizes": parse_sizes(args.sizes)}
    schedule = replace(schedule, **{name: value for name, value in given.items() if value is not None})
    pairs = replace(recipe.pairs, mix=parse_mix(args.mix, recipe.pairs.mix))
    changed = {name: getattr(args, name) for name in ("severity", "hard_negatives", "recorded", "tinted")}
    pairs = replace(pairs, **{name: value for name, value in changed.items() if value is not None})
    losses = recipe.losses
    if args.mask_weight is not None:
        losses = replace(losses, mask=args.mask_weight)
    seed = recipe.seed if args.seed is None else args.seed
    return replace(
        recipe,
        schedule=schedule,
        pairs=pairs,
        losses=losses,
        seed=seed,
        batch_pairs=args.batch_pairs or recipe.batch_pairs,
        device=args.device,
        frozen_norms=args.frozen_norms,
        bf16=args.bf16,
        command=command_line(),
    )


def command_line() -> str:
    """This training as it was asked for, without the places of this machine: it goes into the manifest."""
    given = sys.argv[3:] if sys.argv[1:3] == ["train", "ensemble"] else sys.argv[1:]
    words = [Path(word).name if word.startswith(("/", ".", "~")) else word for word in given]
    return shlex.join(["streamwatch", "train", "ensemble", *words])


def parse_sizes(text: str) -> tuple[tuple[float, int], ...] | None:
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


def initial_member(args: argparse.Namespace, plan: Plan) -> MaskMember:
    """The network before its first step."""
    member = new_member(plan.spec)
    open_layer_scales(member.trunk)
    if args.start_from:
        source = Path(args.start_from.partition(":")[0])
        if source.is_dir():
            transplant(load_bundled(source, args.start_from.partition(":")[2] or args.member), member)
        elif source.suffix == ".pt":
            transplant(load_checkpoint(source), member)
        else:
            load_warm_start(source, member)
    elif args.pretrained:
        try:
            donor = timm.create_model(plan.spec.backbone, pretrained=True, features_only=True, out_indices=(-2, -1))
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"pretrained: timm's weights of {plan.spec.backbone} cannot be had: {error}") from error
        member.trunk.load_state_dict(donor.state_dict())
    return member


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(run(_parser.parse_args()))
