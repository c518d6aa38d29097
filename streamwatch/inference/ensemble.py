"""The members behind one Ensemble: a batch of face crops in, calibrated logits, their fusion and a heat map out."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamwatch.domain import Box, Floats, Image
from streamwatch.errors import ConfigError, WeightsCorrupt
from streamwatch.inference.crop import CROP_VERSION, crop_face
from streamwatch.inference.devices import largest_batch
from streamwatch.inference.folding import folded, packed
from streamwatch.inference.members import MaskMember, Member, MemberSpec, build_member
from streamwatch.inference.seed_members import SEED_CROP, SEED_INPUT, FacePolicy, SeedSpec, empty_seed_member, seed_crop
from streamwatch.inference.weights import Fusion, MemberRecord, WeightSet, first_mismatch, load_tensors

Cropper = Callable[[Image, Box], Image]
"""A frame (H, W, 3) and a face box in it to the square crop that the members see, both uint8 RGB."""

LOW_PRECISION_GAIN = 1.1
"""A lower precision must be at least so much faster to be worth its rounding."""
LOW_PRECISION_TOLERANCE = 0.01
"""Largest change of a member's score, 0 to 1, at which a lower precision still counts as agreeing."""
CPU_BATCH = 8
"""Faces in one call of the members for each thread of a CPU."""
SCORE_LIMIT = 1e-7
"""Scores are kept so far from 0 and 1 when they are turned back into logits."""


class EnsembleOutput(NamedTuple):
    """`members` (N, M) calibrated logits in the order of `Ensemble.names`; `fused` (N,) logits; `heat` (N, h, w)
    0 to 1, None where no member has a mask."""

    members: Floats
    fused: Floats
    heat: Floats | None


@dataclass(slots=True, eq=False)
class LoadedMember:
    name: str
    network: Member
    input_size: int
    temperature: float = 1.0
    bias: float = 0.0
    dtype: torch.dtype = torch.float32
    packed: Member | None = None
    """The same network for calls with a crop or more for each thread of a CPU: with fewer, oneDNN wants its kernels in
    yet another order, and takes up to twice as long."""

    def logits(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """float32 crops (N, 3, S, S) in 0..1, S the input's size, to calibrated logits (N,) and the mask's
        probabilities (N, h, w)."""
        output = self._network_for(len(crops))(crops)
        mask = output.mask.float().sigmoid() if output.mask is not None else None
        return (output.logit.float() + self.bias) / self.temperature, mask

    def _network_for(self, count: int) -> Member:
        return self.network if self.packed is None or count < torch.get_num_threads() else self.packed


class Ensemble:
    """Members of one weight set on one device. Not thread-safe: it belongs to the thread of its device."""

    def __init__(
        self, members: Sequence[LoadedMember], fusion: Fusion = "logit_mean", device: torch.device | str = "cpu"
    ) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = tuple(members)
        self.fusion = fusion
        self.device = torch.device(device)
        for member in self.members:
            member.network.to(self.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def crop_size(self) -> int:
        """Side of the crops that `score` wants: the largest input of any member."""
        return max(member.input_size for member in self.members)

    def score(self, crops: Tensor) -> EnsembleOutput:
        """uint8 RGB crops (N, S, S, 3) to the ensemble's view of each."""
        with torch.inference_mode():
            parts = torch.split(crops, largest_batch(self.device, CPU_BATCH))
            logits, heats = zip(*map(self._views, parts), strict=True)
            stacked = torch.cat(logits)
            fused = fuse(stacked, self.fusion)
            heat = _floats(torch.cat(heats)) if heats[0] is not None else None
            return EnsembleOutput(_floats(stacked), _floats(fused), heat)

    def _views(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """The members' calibrated logits (N, M) and their mean heat (N, h, w)."""
        x = self._prepare(crops)
        views = {size: shrunk(x, size) for size in {member.input_size for member in self.members}}
        logits, masks = zip(*(member.logits(views[member.input_size]) for member in self.members), strict=True)
        return torch.stack(logits, 1), _mean_heat([mask for mask in masks if mask is not None])

    def choose_dtype(self, wanted: str, batch: int = 8) -> dict[str, str]:
        """Sets each member's precision and returns it by name. `auto` keeps float32 unless bfloat16 is measurably
        faster here and gives the same scores; another name is taken as it is."""
        for member in self.members:
            dtype = torch.float32 if wanted == "auto" else getattr(torch, wanted)
            if dtype == torch.float32:
                member.packed = self._packed(member)
            if wanted == "auto" and self._low_precision_pays(member, batch):
                dtype, member.packed = torch.bfloat16, None
            member.network.to(dtype)
            member.dtype = dtype
        return {member.name: str(member.dtype).removeprefix("torch.") for member in self.members}

    def _prepare(self, crops: Tensor) -> Tensor:
        x = crops.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return x.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)

    def _packed(self, member: LoadedMember) -> Member | None:
        # DF-Spot's networks stay as they are, comparable to the last bit.
        if self.device.type != "cpu" or not isinstance(member.network, MaskMember):
            return None
        with torch.inference_mode():
            count = 2 * torch.get_num_threads()
            return packed(member.network, self._prepare(torch.from_numpy(probe_crops(count, member.input_size))))

    def _low_precision_pays(self, member: LoadedMember, batch: int) -> bool:
        if self.device.type == "cpu" and not _cpu_has_bfloat16():
            return False  # emulated: always slower, not worth the time to measure
        with torch.inference_mode():
            x = self._prepare(torch.from_numpy(probe_crops(batch, member.input_size)))
            rounded = LoadedMember(member.name, copy.deepcopy(member.network).to(torch.bfloat16), member.input_size)
            rounded.temperature, rounded.bias, rounded.dtype = member.temperature, member.bias, torch.bfloat16
            exact_scores, exact_time = _measure(member, x)
            rounded_scores, rounded_time = _measure(rounded, x)
        agrees = bool((exact_scores - rounded_scores).abs().max() <= LOW_PRECISION_TOLERANCE)
        return agrees and exact_time > LOW_PRECISION_GAIN * rounded_time


def shrunk(crops: Tensor, size: int) -> Tensor:
    """Crops (N, 3, S, S) at `size` pixels a side, at most S, each the mean of the area that it covers, as OpenCV's
    INTER_AREA, in steps of 1/255: what the members were trained on. (torch's 'area' gives whole pixels alone, and blurs
    unevenly. That pictures are rounded is part of their finest texture, and networks on high-passed input know it.)"""
    side = crops.shape[-1]
    if side == size:
        return crops
    weights = _area_weights(side, size).to(crops.device)
    exact = weights @ crops @ weights.T
    return exact.mul_(255).round_().div_(255).contiguous(memory_format=torch.channels_last)


@functools.lru_cache(maxsize=8)
def _area_weights(side: int, size: int) -> Tensor:
    """(size, side): how much of each old pixel lies in each new one; rows sum to 1."""
    edges = np.arange(size + 1) * (side / size)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return torch.from_numpy((overlap.clip(0) * (size / side)).astype(np.float32))


def fuse(logits: Tensor, fusion: Fusion) -> Tensor:
    """Members' calibrated logits (N, M) to one (N,): their mean, or the log-odds of their mean score."""
    if fusion == "logit_mean":
        return logits.mean(1)
    return logits.double().sigmoid().mean(1).clamp(SCORE_LIMIT, 1 - SCORE_LIMIT).logit().float()


def probe_crops(count: int, size: int) -> Image:
    """Pictures (count, size, size, 3), always the same, of soft shapes and fine texture: to measure with before any
    face came."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 3, 6, 6)).astype(np.float32)
    soft = F.interpolate(torch.from_numpy(coarse), (size, size), mode="bicubic").numpy().transpose(0, 2, 3, 1)
    picture = soft + rng.normal(0, 6, soft.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class CropOptions:
    """How DF-Spot's sets cut and scale a face; the bundled members know one crop alone."""

    policy: FacePolicy = "scale"
    size: int = SEED_INPUT


def load_ensemble(weights: WeightSet, device: torch.device | str = "cpu", input_size: int = SEED_INPUT) -> Ensemble:
    """Raises WeightsMissing or WeightsCorrupt, naming the file and what is wrong with it.

    `input_size` is that of DF-Spot's networks; its transformers take 224 alone.
    """
    load = _load_seed_member if weights.is_seed else _load_compact_member
    return Ensemble(
        [load(weights, record, input_size) for record in weights.record.members], weights.record.fusion, device
    )


def make_cropper(weights: WeightSet, size: int, options: CropOptions | None = None) -> Cropper:
    """The crop that the set's members were trained on. Raises WeightsCorrupt where this version cuts another."""
    version = SEED_CROP if weights.is_seed else CROP_VERSION
    for record in weights.record.members:
        if record.crop != version:
            path = weights.directory / record.file
            raise WeightsCorrupt(f"{path}: trained on the crop {record.crop!r}, this version cuts {version!r}")
    if weights.is_seed:
        policy = (options or CropOptions()).policy
        return lambda image, box: seed_crop(image, box, policy, size)
    return lambda image, box: crop_face(image, box, size)


def _load_compact_member(weights: WeightSet, record: MemberRecord, _: int) -> LoadedMember:
    path = weights.directory / record.file
    try:
        spec = MemberSpec.from_dict(dict(record.architecture))
        network = build_member(spec)
    except (ValueError, TypeError, RuntimeError) as error:
        raise WeightsCorrupt(f"{path}: {error}") from error
    tensors = _checked_tensors(path, record, network)
    network.load_state_dict(tensors, strict=True)
    network.eval().requires_grad_(False)
    example = torch.from_numpy(probe_crops(1, spec.input_size)).permute(0, 3, 1, 2) / 255
    return LoadedMember(record.name, folded(network, example), spec.input_size, record.temperature, record.bias)


def _load_seed_member(weights: WeightSet, record: MemberRecord, input_size: int) -> LoadedMember:
    path = weights.directory / record.file
    try:
        spec = SeedSpec.from_dict(record.architecture)
        network = empty_seed_member(spec)
    except (ValueError, TypeError, RuntimeError) as error:
        raise WeightsCorrupt(f"{path}: {error}") from error
    if input_size != SEED_INPUT and spec.name.startswith("ViT"):
        raise ConfigError(f"--face-size: {spec.name} takes {SEED_INPUT} pixels only, not {input_size}")
    network.load(_checked_tensors(path, record, network.net))
    return LoadedMember(record.name, network, input_size, record.temperature, record.bias)


def _checked_tensors(path: Path, record: MemberRecord, network: nn.Module) -> dict[str, Tensor]:
    tensors = {key: _as_float32(tensor) for key, tensor in load_tensors(path, record.sha256).items()}
    mismatch = first_mismatch(network.state_dict(), tensors)
    if mismatch is not None:
        raise WeightsCorrupt(f"{path}: {mismatch}")
    return tensors


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _measure(member: LoadedMember, x: Tensor) -> tuple[Tensor, float]:
    """The scores, and the median seconds of three runs after one that warms up."""
    times = []
    scores = torch.empty(0)
    for _ in range(4):
        begun = time.perf_counter()
        scores = member.logits(x)[0].sigmoid().cpu()
        times.append(time.perf_counter() - begun)
    return scores, statistics.median(times[1:])


def _mean_heat(masks: Sequence[Tensor]) -> Tensor | None:
    if not masks:
        return None
    size = max(tuple(mask.shape[-2:]) for mask in masks)
    resized = [F.interpolate(mask[:, None], size, mode="bilinear", align_corners=False)[:, 0] for mask in masks]
    return torch.stack(resized).mean(0)


def _floats(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array


def _cpu_has_bfloat16() -> bool:
    supported: Callable[[], bool] | None = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())
