"""Batches made in tensors: what each operation does against OpenCV, and what a batch is made of."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from streamwatch.domain import Image
from streamwatch.training import batchops
from streamwatch.training.autoencoder import AutoencoderSpec, FaceAutoencoder
from streamwatch.training.batches import HostBatches, OwnBatches, joined, to_batch
from streamwatch.training.devicebatches import DeviceBatches, _matched
from streamwatch.training.devicefaces import upload
from streamwatch.training.fakes import KINDS, FakeMix
from streamwatch.training.losses import Batch
from streamwatch.training.pack import pack
from streamwatch.training.pairs import Pair, PairSettings, make_pair
from streamwatch.training.tones import jpeg
from tests.unit.training.pictures import draw_face, draw_faces

PLAIN = PairSettings(size=96, severity=0.0, hard_negatives=0.0)
PAIRS = 6


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tensor(*images: Image) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0


def image(pictures: Tensor, index: int = 0) -> Image:
    return np.asarray((255 * pictures[index]).round().byte().permute(1, 2, 0).numpy(), np.uint8)


def made(settings: PairSettings, step: int = 0, networks: int = 1, difficulty: float = 1.0) -> Batch:
    torch.manual_seed(0)
    painters = [FaceAutoencoder(AutoencoderSpec(32, 8, 2, 8, True)).eval() for _ in range(networks)]
    return DeviceBatches(upload(draw_faces(8), "cpu"), PAIRS, settings, painters, 3).make(step, 96, difficulty)


def test_each_picture_is_blurred_by_its_own_sigma() -> None:
    picture, _ = draw_face(0)
    blurred = batchops.blur(tensor(picture, picture), torch.tensor([0.8, 2.5]))
    for index, sigma in enumerate((0.8, 2.5)):
        expected = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        assert np.abs(image(blurred, index).astype(int) - expected).max() <= 3


def test_lab_is_opencvs_and_goes_both_ways() -> None:
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    lab = batchops.to_lab(pictures)
    expected = cv2.cvtColor(pictures[0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2LAB) / 100
    assert np.abs(lab[0].permute(1, 2, 0).numpy() - expected).max() < 0.01
    assert torch.allclose(batchops.from_lab(lab), pictures, atol=2e-3)


@pytest.mark.parametrize("quality", [15, 40, 80])
def test_jpeg_loses_what_an_encoder_loses(quality: int) -> None:
    picture = cv2.GaussianBlur(draw_face(1, 128)[0], (0, 0), 1.0)
    ours = image(batchops.jpeg(tensor(picture, picture), torch.tensor([99.0, float(quality)])), 1).astype(float)
    theirs = jpeg(np.asarray(picture, np.uint8), quality).astype(float)
    lost = np.abs(theirs - picture).mean()
    assert np.abs(ours - theirs).mean() < 0.5 * lost
    assert np.abs(ours - picture).mean() == pytest.approx(lost, rel=0.2)


def test_a_face_takes_on_anothers_colours() -> None:
    first, second = tensor(draw_face(2)[0]), tensor(draw_face(5)[0])
    inside = torch.ones(1, 1, 96, 96)
    moved = batchops.transferred(first, second, inside, torch.tensor([1.0]))
    apart = [(x.mean((2, 3)) - second.mean((2, 3))).abs().max() for x in (first, moved)]
    assert apart[1] < 0.25 * apart[0]
    assert torch.allclose(batchops.transferred(first, second, inside, torch.tensor([0.0])), first, atol=5e-3)


def test_a_donors_points_fall_on_the_targets() -> None:
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.uniform(-0.6, 0.6, (1, 40, 2)).astype(np.float32))
    donor = 0.8 * target + 0.1 + 0.05 * torch.sin(5 * target.flip(-1))
    found = _matched(target[:, None], target, donor)[:, 0]
    assert (found - donor).norm(dim=-1).mean() < 0.3 * (0.8 * target + 0.1 - donor).norm(dim=-1).mean()


@pytest.mark.parametrize("kind", [*KINDS, "repainted"])
def test_a_fake_of_each_kind_differs_inside_its_mask_alone(kind: str) -> None:
    shares = {name: float(name == ("swap" if kind == "repainted" else kind)) for name in KINDS}
    batch = made(replace(PLAIN, mix=FakeMix(**shares, repainted=float(kind == "repainted"))))
    assert batch.images.shape == (2 * PAIRS, 3, 96, 96) and batch.labels.tolist() == [0, 1] * PAIRS
    assert float(batch.images.min()) >= 0 and float(batch.images.max()) <= 1
    change = (batch.images[1::2] - batch.images[0::2]).abs().mean(1)
    mask = batch.masks[1::2]
    assert float(batch.masks[0::2].abs().max()) == 0 and float(mask.max()) <= 1
    assert float((mask > 0.3).float().mean((1, 2)).min()) > 0.01, "a fake without a face"
    # What compression spreads beyond the edge of the mask is little.
    outside = torch.stack([c[m == 0].mean() for c, m in zip(change, mask, strict=True)])
    inside = torch.stack([c[m > 0.3].mean() for c, m in zip(change, mask, strict=True)])
    assert float(outside.max()) < 0.004
    assert int((inside > 2 * outside + 0.002).sum()) >= PAIRS - 1


def test_film_and_print_are_the_same_on_both_pictures_of_a_pair() -> None:
    film = made(replace(PLAIN, analogue=1.0))
    change = (film.images[1::2] - film.images[0::2]).abs().mean(1)
    assert all(float(c[m == 0].mean()) < 0.006 for c, m in zip(change, film.masks[1::2], strict=True))


def test_film_and_print_add_fine_texture_and_leave_the_tones() -> None:
    source = DeviceBatches(upload(draw_faces(4), "cpu"), PAIRS, PLAIN, [], 0)
    flat = torch.full((PAIRS, 3, 224, 224), 0.5)
    seen = source._analogue(flat)
    assert float((seen - batchops.blur(seen, torch.full((PAIRS,), 3.0))).std((1, 2, 3)).median()) > 0.012
    assert float((batchops.blur(seen, torch.full((PAIRS,), 8.0)) - 0.5).abs().mean((1, 2, 3)).max()) < 0.03


def test_a_print_has_the_dots_of_opencvs() -> None:
    """A grey screen at no angle, against the host's formula."""
    flat = torch.full((1, 3, 64, 64), 0.6)
    period, contrast, amount = (torch.tensor([value]) for value in (4.0, 8.0, 0.5))
    print_ = batchops.halftoned(flat, period, torch.zeros(1, 3), contrast, amount)
    y, x = np.mgrid[:64, :64] * (2 * np.pi / 4.0)
    dots = 1 / (1 + np.exp(8.0 * (0.5 + 0.25 * (np.cos(x) + np.cos(y)) - 0.6)))
    expected = 0.3 + 0.5 * cv2.GaussianBlur(dots, (0, 0), 0.8, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(print_[0, 1].numpy() - expected).max() < 0.01


def test_a_step_is_the_same_whenever_it_is_made() -> None:
    settings = replace(PLAIN, severity=1.0, hard_negatives=0.3, recorded=0.5, tinted=0.5, analogue=0.5, clean_views=0.5)
    first, again, next_step = made(settings), made(settings), made(settings, step=1)
    assert torch.equal(first.images, again.images) and torch.equal(first.clean, again.clean)
    assert not torch.equal(first.images, next_step.images)
    assert len(first.clean) == PAIRS and first.clean_rows.tolist() == list(range(PAIRS))


def test_masks_lie_where_the_faces_lie() -> None:
    """Through jitter, turns and flips: faces painted white within their outline are white within their mask."""
    faces = draw_faces(8)
    painted = [np.zeros_like(picture) for picture in faces.images]
    for canvas, geometry in zip(painted, faces.geometries, strict=True):
        cv2.fillPoly(canvas, [np.round(geometry.outline).astype(np.int32)], (255, 255, 255))
    source = DeviceBatches(upload(replace(faces, images=painted), "cpu"), 8, PLAIN, [], 0)
    rows = torch.arange(8)
    views = source._views(rows)
    masks = [source._masks(rows, views, 0.0)[:, 0] > 0.4 for _ in range(3)]
    white = views.pictures[:, 0] > 0.5
    common, either = (white & masks[0]).sum((1, 2)), (white | masks[0]).sum((1, 2))
    assert float((common / either).median()) > 0.75
    assert all(float((white & m).sum() / m.sum()) > 0.93 for m in masks)
    assert not torch.equal(masks[0], masks[1])


def test_both_ways_erase_what_is_fine_and_keep_the_face() -> None:
    """Of each of the first pairs one more view: little of what is fine in it is left, and the face is."""
    settings = replace(PLAIN, erased=0.5)
    on_host = HostBatches(draw_faces(8), PAIRS, settings).make(0, 96, 1.0)
    for batch in (on_host, made(settings)):
        assert batch.erased.shape == (PAIRS, 3, 96, 96)
        seen = batch.images[:PAIRS]
        fine = [pictures - batchops.blur(pictures, torch.full((PAIRS,), 1.0)) for pictures in (seen, batch.erased)]
        assert float(fine[1].square().mean()) < 0.7 * float(fine[0].square().mean())
        coarse = [batchops.blur(pictures, torch.full((PAIRS,), 6.0)) for pictures in (seen, batch.erased)]
        alike = [
            torch.corrcoef(torch.stack(views))[0, 1] for views in zip(*(c.flatten(1) for c in coarse), strict=True)
        ]
        assert min(alike) > 0.9
    again = HostBatches(draw_faces(8), PAIRS, settings).make(0, 96, 1.0)
    assert torch.equal(on_host.erased, again.erased)
    assert len(HostBatches(draw_faces(8), PAIRS, PLAIN).make(0, 96, 1.0).erased) == 0


class Own:
    def pair(self, rng: np.random.Generator, size: int, severity: float) -> Pair:
        pair = make_pair(draw_faces(2), 0, rng, replace(PLAIN, size=size, clean_views=1.0))
        return replace(pair, mask=np.full_like(pair.mask, -1))


def test_own_faces_follow_the_fakes() -> None:
    fakes = HostBatches(draw_faces(4), 2, replace(PLAIN, clean_views=1.0))
    batch = OwnBatches(fakes, Own(), 3, 0.5).make(0, 64, 1.0)
    assert batch.images.shape == (10, 3, 64, 64) and batch.labels.tolist() == [0, 1] * 5
    assert batch.clean_rows.tolist() == list(range(10)) and len(batch.clean) == 10
    assert float(batch.masks[5].max()) == -1 and float(batch.masks[:4].min()) == 0
    alone = fakes.make(0, 64, 1.0)
    assert torch.equal(
        joined(alone, to_batch([Own().pair(np.random.default_rng(1), 64, 0)], "cpu")).images[:4], alone.images
    )


def test_a_training_needs_no_pyav_and_makes_its_fakes_where_it_trains(tmp_path: Path) -> None:
    from streamwatch.training.faces import save_pack

    save_pack(pack(draw_faces(6)), tmp_path / "pack.npz")
    words = ["TimmV2", "--data-dir", tmp_path / "pack.npz", "--folder", tmp_path / "run", "--backbone", "test_resnet"]
    words += ["--images", "8", "--sizes", "0:64", "--batch-pairs", "2", "--fakes", "device"]
    code = f"import sys; sys.modules['av'] = None; sys.argv[1:] = {[str(w) for w in words]!r}; import runpy; "
    code += "runpy.run_module('streamwatch.training.command', run_name='__main__')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["progress"]["seen"] == 8
