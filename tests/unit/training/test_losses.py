"""What a member is taught by: each term, and that a picture is judged alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamwatch.inference.members import MaskMember, MemberSpec
from streamwatch.training.batches import to_batch
from streamwatch.training.losses import LossWeights, member_loss, triplet_loss
from streamwatch.training.pairs import PairSettings, make_pair
from tests.unit.training.pictures import draw_faces

PAIRS = PairSettings(size=64, severity=0.1, hard_negatives=0.0, h264=False, clean_views=0.2)


def member() -> MaskMember:
    torch.manual_seed(0)
    return MaskMember(MemberSpec("mobilenetv3_small_050", input_size=64, mask_channels=16))


def test_each_loss_can_be_left_out() -> None:
    faces, settings = draw_faces(4), replace(PAIRS, clean_views=1.0)
    rng = np.random.default_rng(0)
    batch = to_batch([make_pair(faces, i, rng, settings) for i in range(4)], "cpu")
    network = member()
    total, terms, logits = member_loss(network, batch, LossWeights(triplet=1.0))
    assert set(terms) == {"verdict", "mask", "margin", "triplet", "consistency"}
    assert logits.shape == (8,) and total.requires_grad
    only_mask = LossWeights(verdict=0, margin=0, consistency=0)
    total, terms, _ = member_loss(network, batch, only_mask)
    assert float(total.detach()) == pytest.approx(terms["mask"])


def test_a_face_without_traces_is_to_get_no_verdict() -> None:
    """Whatever is said of it costs, in either direction, and nothing where the term is left out."""
    faces = draw_faces(4)
    pairs = [make_pair(faces, i, np.random.default_rng(i), PAIRS) for i in range(4)]
    batch = to_batch(pairs, "cpu", [image for pair in pairs[:2] for image in pair.images[:2]])
    network, alone = member().eval(), LossWeights(verdict=0, mask=0, margin=0, consistency=0, neutral=1)
    head = network.head
    assert isinstance(head, torch.nn.Linear)
    costs = []
    for bias in (-3.0, 0.0, 3.0):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, bias)
        total, terms, _ = member_loss(network, batch, alone)
        costs.append(float(total.detach()))
        assert terms["neutral"] == pytest.approx(costs[-1])
    assert costs[1] == 0 and costs[0] == pytest.approx(costs[2]) and costs[0] > 2
    assert "neutral" not in member_loss(network, batch, LossWeights())[1]
    assert "neutral" not in member_loss(network, to_batch(pairs, "cpu"), alone)[1]


def test_a_picture_is_judged_without_sight_of_its_own_pair() -> None:
    """Batch normalisation would let a real picture lean on its fake, and a clean view on the other's."""
    faces, settings = draw_faces(6), replace(PAIRS, clean_views=1.0)
    rng = np.random.default_rng(0)
    batch = to_batch([make_pair(faces, i, rng, settings) for i in range(6)], "cpu")
    network = member()
    _, _, before = member_loss(network, batch, LossWeights())
    for pair in range(6):
        images, clean = batch.images.clone(), batch.clean.clone()
        images[2 * pair + 1], clean[2 * pair + 1] = images[2 * pair + 1].flip(1), clean[2 * pair + 1].flip(2)
        _, _, after = member_loss(network, replace(batch, images=images, clean=clean), LossWeights())
        assert after[2 * pair] == before[2 * pair]
        assert after[2 * pair + 1] != before[2 * pair + 1]
        assert (after != before).sum() > 2, "the norms of this network are not those of its batch"


def test_a_fake_whose_region_nobody_knows_teaches_no_mask() -> None:
    faces = draw_faces(2)
    pair = make_pair(faces, 0, np.random.default_rng(0), PAIRS)
    known = to_batch([pair], "cpu")
    unknown = to_batch([replace(pair, mask=np.full_like(pair.mask, -1))], "cpu")
    network = member().eval()
    weights = LossWeights(consistency=0)
    _, with_mask, _ = member_loss(network, known, weights)
    _, without, _ = member_loss(network, unknown, weights)
    assert with_mask["verdict"] == without["verdict"]
    assert with_mask["mask"] != without["mask"] and np.isfinite(without["mask"])


def test_triplets_want_pairs_apart() -> None:
    together = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    apart = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    assert float(triplet_loss(apart, 0.3)) == 0.0
    assert float(triplet_loss(together, 0.3)) == pytest.approx(0.3)
