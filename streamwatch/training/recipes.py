"""The four members' trainings: which network, which fakes, which losses. Names are the seed's roles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from streamwatch.errors import ConfigError
from streamwatch.inference.members import MaskMember, MemberSpec
from streamwatch.training.fakes import KINDS, FakeMix
from streamwatch.training.loop import Recipe
from streamwatch.training.losses import LossWeights
from streamwatch.training.pairs import PairSettings
from streamwatch.training.schedule import Schedule

TRIPLET_LOSSES = LossWeights(triplet=0.5)
SWAP_MIX = FakeMix(self_blend=0.25, swap=0.40, autoencoder=0.25, rescale=0.10)
RECORDED_MIX = FakeMix(self_blend=0.40, swap=0.25, autoencoder=0.25, rescale=0.10)
RECORDED = PairSettings(mix=RECORDED_MIX, severity=0.4, hard_negatives=0.1, recorded=0.5, tinted=0.4)
"""Fakes of footage that was compressed before, under a milder stream look: what a network learns from nothing with."""
FROM_SCRATCH = Schedule(400_000, ((0.0, 128), (0.45, 160), (0.7, 224)), easy=0.35, rate=2e-3)
FROM_SCRATCH_CONV = Schedule(220_000, ((0.0, 128), (0.6, 160), (0.85, 224)), easy=0.3, rate=2e-3)
REFINE = Schedule(60_000, ((0.0, 224),), easy=0.0, rate=2e-4)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A member's network and training; `refine` is the schedule of one that starts from trained weights."""

    spec: MemberSpec
    recipe: Recipe
    refine: Schedule = REFINE


def _plan(spec: MemberSpec, pairs: PairSettings, losses: LossWeights, seed: int) -> Plan:
    return Plan(spec, Recipe(FROM_SCRATCH, pairs, losses, batch_pairs=12, seed=seed))


PLANS = {
    "TimmV2": Plan(
        MemberSpec("mobilenetv4_conv_small"),
        Recipe(FROM_SCRATCH_CONV, RECORDED, LossWeights(), batch_pairs=12, seed=2),
        replace(REFINE, rate=8e-4),
    ),
    "TimmV2ST": Plan(
        MemberSpec("mobilenetv4_conv_small", head="bn_linear"),
        Recipe(FROM_SCRATCH_CONV, replace(RECORDED, severity=0.5), TRIPLET_LOSSES, batch_pairs=12, seed=3),
        replace(REFINE, rate=6e-4),
    ),
    "ViT": _plan(MemberSpec("efficientvit_b0"), PairSettings(clean_views=0.06, hard_negatives=0.2), LossWeights(), 1),
    "ViTST": _plan(
        MemberSpec("efficientvit_b0", head="bn_linear", highpass=2.0), PairSettings(mix=SWAP_MIX), TRIPLET_LOSSES, 4
    ),
}


def plan_of(name: str) -> Plan:
    """ConfigError names the members that there are."""
    try:
        return PLANS[name]
    except KeyError as error:
        raise ConfigError(f"member: {name!r} is none of {', '.join(PLANS)}") from error


def parse_mix(text: str, base: FakeMix) -> FakeMix:
    """`swap=0.4,autoencoder=0` changes those shares; ConfigError names what is not a share."""
    changes: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in (*KINDS, "repainted"):
            raise ConfigError(f"mix: {name!r} is none of {', '.join(KINDS)}, repainted")
        try:
            changes[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"mix: {part!r} is not NAME=NUMBER") from error
    mix = replace(base, **changes)
    try:
        mix.shares()
    except ValueError as error:
        raise ConfigError(f"mix: {error}") from error
    return mix


def freeze(member: MaskMember, stages: tuple[str, ...]) -> None:
    """Leave the trunk's named stages as they are: the earliest cost the most and are learnt first.

    A name matches every child of the trunk that begins with it (`stem`, `layer1`), and where it has a dot that child
    of a child (`blocks.0`); ConfigError where none does.
    """
    children = dict(member.trunk.named_children())
    inner = {f"{name}.{key}": part for name, child in children.items() for key, part in child.named_children()}
    for stage in stages:
        found = [child for name, child in children.items() if name.startswith(stage)]
        if stage in inner:
            found.append(inner[stage])
        if not found:
            names = ", ".join(children)
            raise ConfigError(f"freeze: the trunk has no stage {stage!r}; it has {names}")
        for child in found:
            _freeze(child)


def _freeze(module: nn.Module) -> None:
    module.requires_grad_(False)
