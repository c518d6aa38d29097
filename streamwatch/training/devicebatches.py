"""Training batches made on the device that trains: on a GPU, fakes made one by one on the host are the bottleneck.

The same recipe as `pairs` and `fakes`, in tensors: views, masks, fakes and looks of a whole batch at a time. What
differs: compression is JPEG's (real H.264 comes with a pack's recorded variants), a hard negative's occluder is a bar,
and pairs share their look's size by fours, so that a chunk stays one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from streamwatch.training import batchops
from streamwatch.training.autoencoder import FACE_SIDE, FaceAutoencoder
from streamwatch.training.devicefaces import MARGIN, RAYS, DeviceFaces
from streamwatch.training.fakes import FakeMix
from streamwatch.training.geometry import MOUTH_SHARE
from streamwatch.training.losses import Batch
from streamwatch.training.pairs import PairSettings
from streamwatch.training.streamlook import ERASING, SMALLEST

WORK = 224
"""Side of the views that fakes are made on."""
GRID = 14
CHUNK = 4
"""Pairs that share a look's size and its draw of codecs."""


@dataclass(frozen=True, slots=True, eq=False)
class _Views:
    """A batch of views: `pictures` (P, 3, W, W), `places` (P, W, W, 2) of their pixels in the stored squares, and

    `back` (P, 2, 3), the map from the view's coordinates to the square's."""

    pictures: Tensor
    places: Tensor
    back: Tensor


class DeviceBatches:
    """Makes batches like the host's `make_pair` does. All chance comes from one generator a step."""

    def __init__(
        self, faces: DeviceFaces, pairs: int, settings: PairSettings, networks: Sequence[FaceAutoencoder], seed: int
    ) -> None:
        self.faces = faces
        self.pairs = pairs
        self.settings = settings
        self.device = faces.pictures.device
        self._networks = [network.to(self.device) for network in networks]
        self._seed = seed
        self._random = torch.Generator(self.device)

    @torch.no_grad()
    def make(self, step: int, size: int, difficulty: float) -> Batch:
        """Deterministic in the seed and the step, on one kind of device."""
        self._random.manual_seed(self._seed * 1_000_003 + step)
        settings = self.settings.at_difficulty(difficulty, size)
        rows = self._whole(len(self.faces))
        views = self._views(rows)
        base = self._tinted(views.pictures, settings.tinted, 1.5)
        if settings.analogue:
            base = torch.where(batchops.column(self._chance(settings.analogue)), self._analogue(base), base)
        clean = base
        recorded = self._chance(settings.recorded)
        base = torch.where(batchops.column(recorded), self._recorded(base), base)
        mask = self._masks(rows, views, difficulty)
        fake = base + mask * (self._altered(rows, views, base, clean, mask, settings.mix) - base)
        hard = batchops.column(self._chance(settings.hard_negatives))
        real = torch.where(hard, self._whole_picture(base, views), base)
        images, untouched = self._looks(torch.stack((real, fake), 1), settings)
        masks = batchops.resized(mask, size, size)[:, 0].clamp(0, 1)
        count = round(self.settings.clean_views * self.pairs)
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            torch.tensor([0.0, 1.0], device=self.device).repeat(self.pairs),
            torch.stack((torch.zeros_like(masks), masks), 1).flatten(0, 1),
            untouched[: 2 * count].contiguous(memory_format=torch.channels_last),
            torch.arange(2 * count, device=self.device),
            self._erased(images[: 2 * round(settings.erased * self.pairs)], settings),
        )

    # chance

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape or (self.pairs,), generator=self._random, device=self.device)
        return low + (high - low) * drawn

    def _normal(self, deviation: float, *shape: int) -> Tensor:
        return deviation * torch.randn(shape, generator=self._random, device=self.device)

    def _whole(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape or (self.pairs,), generator=self._random, device=self.device)

    def _chance(self, share: float) -> Tensor:
        return self._uniform(0, 1) < share

    # views and masks

    def _views(self, rows: Tensor) -> _Views:
        """The project's crop with its jitter, a slight turn and a flip."""
        zoom, turn = self._uniform(0.85, 1.15) / MARGIN, self._normal(math.radians(4), self.pairs)
        flip = torch.where(self._chance(0.5), -1.0, 1.0)
        cos, sin = zoom * turn.cos(), zoom * turn.sin()
        shift = self._uniform(-0.1, 0.1, self.pairs, 2) * 2 / (1.6 * MARGIN)
        back = torch.stack((cos * flip, -sin, shift[:, 0], sin * flip, cos, shift[:, 1]), 1).view(-1, 2, 3)
        places = F.affine_grid(back, [self.pairs, 3, WORK, WORK], align_corners=False)
        return _Views(self._seen(rows, places), places, back)

    def _seen(self, rows: Tensor, places: Tensor) -> Tensor:
        pictures = self.faces.pictures[rows].float() / 255.0
        return F.grid_sample(pictures, places, padding_mode="border", align_corners=False)

    def _masks(self, rows: Tensor, views: _Views, difficulty: float) -> Tensor:
        """The outline, deformed along its radius, with a soft edge; sometimes the lower face alone: (P, 1, W, W)."""
        ray = views.places - self.faces.centres[rows][:, None, None]
        angle = torch.atan2(ray[..., 1], ray[..., 0])
        radius = self._radius(rows, angle)
        change = self._uniform(-0.14, 0.06).view(-1, 1, 1).expand_as(angle).clone()
        for wave in (1, 2, 3, 5):
            height = self._normal(0.04 / wave, self.pairs).view(-1, 1, 1)
            change += height * torch.cos(wave * angle + self._uniform(0, 2 * math.pi).view(-1, 1, 1))
        mean = self.faces.radii[rows].mean(1).view(-1, 1, 1)
        soft = self._uniform(0.05, 0.25).view(-1, 1, 1) * mean
        mask = _smooth((radius * (1 + change) - ray.norm(dim=-1)) / soft)
        cut = (2 * self._uniform(MOUTH_SHARE, 0.65) - 1).view(-1, 1, 1) * mean  # below the outline's middle
        lower = self._chance(0.15).view(-1, 1, 1)
        mask = torch.where(lower, mask * _smooth((ray[..., 1] + cut) / soft), mask)
        weak = 1.0 - 0.7 * difficulty
        ratios = torch.tensor([1.0, 1.0, 1.0, *(max(weak, least) for least in (0.75, 0.5, 0.35))], device=self.device)
        return (mask * ratios[self._whole(len(ratios))].view(-1, 1, 1))[:, None]

    def _radius(self, rows: Tensor, angle: Tensor) -> Tensor:
        """The outline's radius in the direction of each pixel."""
        position = (angle / (2 * math.pi) + 0.5) * RAYS
        low = position.floor()
        radii = self.faces.radii[rows]
        first, second = (radii.gather(1, ((low.long() + step) % RAYS).flatten(1)).view_as(angle) for step in (0, 1))
        return first + (position - low) * (second - first)

    # fakes

    def _altered(self, rows: Tensor, views: _Views, base: Tensor, clean: Tensor, mask: Tensor, mix: FakeMix) -> Tensor:
        """The face as each pair's kind of fake paints it; only what the mask covers is used."""
        shares = torch.from_numpy(mix.shares()).to(self.device)
        kinds = torch.multinomial(shares, self.pairs, replacement=True, generator=self._random)
        # A generator paints from the picture before compression, or from the compressed one: both happen.
        source = torch.where(batchops.column(self._chance(0.4)), clean, base)
        strength = 1.5 - 0.5 * mix.difficulty
        blended = self._shaken(self._sharpened(self._tinted(source, 1.0, strength)), strength)
        swapped = self._swapped(rows, views, base, mask, mix.repainted)
        textured = self._textured(source, mix.difficulty)
        painted = self._reconstructed(source, rows, views) if self._networks else textured
        painted = torch.where(batchops.column(self._chance(0.4)), self._textured(painted, mix.difficulty), painted)
        painted, textured = self._tinted(painted, 0.5, 0.6), self._tinted(textured, 0.4, 0.6)
        every = torch.stack((blended, swapped, painted, textured))
        return every[kinds, torch.arange(self.pairs, device=self.device)]

    def _shaken(self, pictures: Tensor, strength: float) -> Tensor:
        """Moved by up to 3 % of the face and scaled by up to 5 %: the misalignment of a self-blend."""
        scale = 1 + strength * self._uniform(-0.05, 0.05, self.pairs, 2)
        shift = strength * self._uniform(-0.03, 0.03, self.pairs, 2)
        zero = torch.zeros_like(scale[:, 0])
        matrix = torch.stack((scale[:, 0], zero, shift[:, 0], zero, scale[:, 1], shift[:, 1]), 1).view(-1, 2, 3)
        grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
        return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    def _swapped(self, rows: Tensor, views: _Views, base: Tensor, mask: Tensor, repainted: float) -> Tensor:
        """Another person's face on this one's points, a share of them painted anew, in its colours and texture."""
        tries = self._whole(len(self.faces), self.pairs, 12)
        apart = (self.faces.poses[tries] - self.faces.poses[rows][:, None]).square().sum(-1)
        donors = tries.gather(1, (apart + 1e6 * (tries == rows[:, None])).argmin(1, keepdim=True))[:, 0]
        places = _matched(views.places, self.faces.points[rows], self.faces.points[donors])
        moved = self._seen(donors, places)
        repaint = self._chance(repainted if self._networks else 0.0)
        if bool(repaint.any()):
            moved = torch.where(batchops.column(repaint), self._reconstructed(moved, rows, views), moved)
        coloured = batchops.transferred(moved, base, (mask > 0.1).float(), self._uniform(0.5, 1.0))
        plain = batchops.column(repaint | self._chance(0.5))
        return torch.where(plain, coloured, self._textured(coloured, 1.0))

    def _reconstructed(self, pictures: Tensor, rows: Tensor, views: _Views) -> Tensor:
        """The face as one auto-encoder, drawn for the batch, paints it."""
        network = self._networks[int(self._whole(len(self._networks), 1))]
        size = network.spec.size
        side = FACE_SIDE * self.faces.radii[rows].amax(1)
        centre = _to_view(views.back, self.faces.centres[rows])
        reach = side / views.back[:, :, :2].square().sum((1, 2)).div(2).sqrt()  # in the view's coordinates
        zero = torch.zeros_like(reach)
        square = torch.stack((reach, zero, centre[:, 0], zero, reach, centre[:, 1]), 1).view(-1, 2, 3)
        grid = F.affine_grid(square, [self.pairs, 3, size, size], align_corners=False)
        smooth = batchops.blur(pictures, (0.4 * reach * WORK / size).clamp_min(0.05))
        painted = network(F.grid_sample(smooth, grid, padding_mode="border", align_corners=False)).clamp(0, 1)
        inverse = torch.stack((1 / reach, zero, -centre[:, 0] / reach, zero, 1 / reach, -centre[:, 1] / reach), 1)
        home = F.affine_grid(inverse.view(-1, 2, 3), list(pictures.shape), align_corners=False)
        laid = F.grid_sample(painted, home, mode="bilinear", padding_mode="border", align_corners=False)
        return torch.where((home.abs().amax(-1) <= 1)[:, None], laid, pictures)

    # what happens to a picture as a whole

    def _tinted(self, pictures: Tensor, share: float, strength: float) -> Tensor:
        count = len(pictures)
        tint = self._uniform(-14 / 255, 14 / 255, count, 3) * (self._uniform(0, 1, count, 1) < 0.6)
        light = self._uniform(-18 / 255, 18 / 255, count, 1) * (self._uniform(0, 1, count, 1) < 0.5)
        contrast = self._uniform(-0.15, 0.15, count, 1) * (self._uniform(0, 1, count, 1) < 0.5)
        gamma = torch.exp(strength * self._uniform(-0.25, 0.25, count) * (self._uniform(0, 1, count) < 0.3))
        saturation = 1 + strength * self._uniform(-0.35, 0.35, count) * (self._uniform(0, 1, count) < 0.4)
        gain = 1 + strength * contrast.expand(-1, 3)
        offset = strength * (tint + light) + 0.5 * (1 - gain)
        changed = batchops.toned(pictures, gain, offset, gamma, saturation)
        return torch.where(batchops.column(self._uniform(0, 1, count) < share), changed, pictures)

    def _sharpened(self, pictures: Tensor) -> Tensor:
        """Sharpened (a third), down and up again (nearly half), or left alone."""
        draw = batchops.column(self._uniform(0, 1))
        soft = batchops.blur(pictures, self._uniform(0.7, 2.0))
        sharp = (pictures + batchops.column(self._uniform(0.3, 1.2)) * (pictures - soft)).clamp(0, 1)
        coarse = batchops.rescaled(pictures, self._uniform(0.3, 0.75))
        return torch.where(draw < 0.35, sharp, torch.where(draw < 0.8, coarse, pictures))

    def _textured(self, pictures: Tensor, difficulty: float) -> Tensor:
        """A face generator's texture: low resolution brought up, a blur, or an old JPEG."""
        draw = batchops.column(self._uniform(0, 1))
        face = 0.6 * WORK
        coarse = batchops.rescaled(pictures, ((self._uniform(56, 160) + 24 * (difficulty - 1)) / face).clamp(0.2, 0.9))
        soft = batchops.blur(pictures, self._uniform(0.003, 0.011) * face)
        old = batchops.jpeg(pictures, self._uniform(15, 60))
        return torch.where(draw < 0.5, coarse, torch.where(draw < 0.8, soft, old))

    def _whole_picture(self, pictures: Tensor, views: _Views) -> Tensor:
        """Hard negatives: what fakes do to a face, done to the whole picture, or a bar of one colour before it."""
        draw = batchops.column(self._uniform(0, 1))
        middle, turn = self._uniform(-0.5, 0.5, self.pairs, 2), self._uniform(0, math.pi).view(-1, 1, 1)
        ray = views.places - middle[:, None, None]
        along = (ray[..., 0] * turn.cos() + ray[..., 1] * turn.sin()).abs()
        across = (ray[..., 1] * turn.cos() - ray[..., 0] * turn.sin()).abs()
        ends = (self._uniform(0.05, 0.25).view(-1, 1, 1), self._uniform(0.05, 0.35).view(-1, 1, 1))
        bar = ((along < ends[0]) & (across < ends[1]))[:, None]
        barred = torch.where(bar, batchops.column(self._uniform(0, 1, self.pairs, 3)), pictures)
        toned, sharpened = self._tinted(pictures, 1.0, 1.2), self._sharpened(pictures)
        textured = self._textured(pictures, 1.0)
        processed = torch.where(draw < 0.4, sharpened, torch.where(draw < 0.8, textured, barred))
        return torch.where(draw < 0.2, toned, processed)

    def _analogue(self, pictures: Tensor) -> Tensor:
        """A photograph on film, a scanned print (half of them grey), or both."""
        draw = batchops.column(self._uniform(0, 1))
        shared, own = self._normal(1.0, self.pairs, 1, WORK, WORK), self._normal(1.0, *pictures.shape)
        noise = shared + batchops.column(self._uniform(0, 0.6)) * (own - shared)
        grained = batchops.grained(pictures, noise, self._uniform(0.4, 1.6), self._uniform(2.5, 11) / 255)
        film = torch.where(draw < 0.6, grained, pictures)
        grey = self._chance(0.5)
        apart = torch.tensor([0.0, 30.0, 60.0], device=self.device).deg2rad() * (~grey)[:, None]
        angles = self._uniform(0, math.pi / 2, self.pairs, 1) + apart
        source = torch.where(batchops.column(grey), batchops.luma(film).expand_as(film), film)
        printed = batchops.halftoned(
            source, self._uniform(1.8, 5.5), angles, self._uniform(4, 12), self._uniform(0.1, 0.7)
        )
        return torch.where(draw > 0.475, printed, film)

    def _recorded(self, pictures: Tensor) -> Tensor:
        """What a camera and its file did before anyone altered the picture: noise, and one codec."""
        noise = self._uniform(1 / 255, 6 / 255) * self._chance(0.4)
        noisy = pictures + batchops.column(noise) * self._normal(1.0, *pictures.shape)
        return batchops.jpeg(noisy.clamp(0, 1), self._uniform(45, 95))

    def _looks(self, pairs: Tensor, settings: PairSettings) -> tuple[Tensor, Tensor]:
        """Pairs (P, 2, 3, W, W), both pictures through the same stream look, and untouched: (2P, 3, S, S) each."""
        flat = pairs.flatten(0, 1)
        seen = [self._look(part.flatten(0, 1), settings) for part in torch.split(pairs, CHUNK)]
        return torch.cat(seen), batchops.resized(flat, settings.size, settings.size)

    def _erased(self, pictures: Tensor, settings: PairSettings) -> Tensor:
        """The pictures through any stream, and then without the fine traces of an alteration (`streamlook.erase`)."""
        if not len(pictures):
            return pictures
        seen = self._look(pictures, replace(settings, severity=1.0))
        quality = self._uniform(ERASING[0], ERASING[1], len(seen))
        return batchops.jpeg(seen, quality).contiguous(memory_format=torch.channels_last)

    def _look(self, pictures: Tensor, settings: PairSettings) -> Tensor:
        """A few pairs, rows alternating; one size and one draw of codecs for them, the rest for each pair."""
        count = len(pictures) // 2
        severity = settings.severity * float(self._uniform(0.2, 1.0, 1))
        smallest = WORK + severity * (SMALLEST - WORK)
        side = (
            WORK
            if float(self._uniform(0, 1, 1)) < 0.2
            else math.exp(float(self._uniform(0, 1, 1)) * (math.log(WORK) - math.log(smallest)) + math.log(smallest))
        )
        x = batchops.resized(pictures, round(side), round(side))
        if float(self._uniform(0, 1, 1)) < 0.2:
            x = batchops.blur(x, _paired(self._uniform(0.3, 1.1, count) * severity + 0.05))
        dark = self._uniform(0, 1, count) < 0.12 * severity
        gain = torch.where(dark, self._uniform(0.3, 0.7, count), 1 + severity * self._uniform(-0.12, 0.12, count))
        gamma = torch.exp(severity * self._uniform(-0.2, 0.2, count))
        gains = _paired(gain)[:, None].expand(-1, 3)
        x = batchops.toned(x, gains, torch.zeros_like(gains), _paired(gamma), torch.ones_like(gains[:, 0]))
        noise = self._uniform(1 / 255, 7 / 255, count) * severity * (self._uniform(0, 1, count) < 0.25)
        grain = self._normal(1.0, count, *x.shape[1:])
        x = (x + _paired(batchops.column(noise) * grain)).clamp(0, 1)
        for share in (0.35 + 0.5 * severity, 0.15 * severity):
            if float(self._uniform(0, 1, 1)) < share:
                x = batchops.jpeg(x, _paired(self._uniform(90 - 55 * severity, 95, count)))
        return batchops.resized(x, settings.size, settings.size)


def _paired(values: Tensor) -> Tensor:
    """One value for both pictures of each pair."""
    return values.repeat_interleave(2, 0)


def _smooth(x: Tensor) -> Tensor:
    """From 0 at -1/2 to 1 at 1/2, without a kink: what two blurs make of an edge."""
    share = (x + 0.5).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _to_view(back: Tensor, points: Tensor) -> Tensor:
    """Points (P, 2) of the squares in the coordinates of the views."""
    moved: Tensor = torch.linalg.solve(back[:, :, :2], (points - back[:, :, 2])[:, :, None])[:, :, 0]
    return moved


def _matched(places: Tensor, target: Tensor, donor: Tensor) -> Tensor:
    """Where the donor's square shows what belongs at `places` (P, H, W, 2) of the target's: an affine fit of the points

    (P, K, 2), then what it leaves over, spread smoothly on a coarse grid (as `warping.match_face`)."""
    ones = torch.ones_like(target[..., :1])
    fit = torch.linalg.lstsq(torch.cat((target, ones), -1), donor).solution  # (P, 3, 2)
    rest = donor - torch.cat((target, ones), -1) @ fit
    line = torch.linspace(-1, 1, GRID, device=places.device)
    nodes = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(1, -1, 2)
    sigma = (0.08 * (target[..., 1].amax(1) - target[..., 1].amin(1))).view(-1, 1, 1)
    distance = torch.cdist(nodes.expand(len(target), -1, -1), target).square()
    nearest = distance.amin(2, keepdim=True)
    weight = torch.exp(-0.5 * (distance - nearest) / sigma**2)
    flow = weight @ rest / weight.sum(2, keepdim=True) * torch.exp(-0.5 * nearest / (2 * sigma) ** 2)
    field = flow.transpose(1, 2).reshape(len(target), 2, GRID, GRID)
    spread = F.grid_sample(field, places, padding_mode="border", align_corners=True).permute(0, 2, 3, 1)
    found: Tensor = places @ fit[:, None, :2] + fit[:, None, 2:] + spread
    return found
