from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from streamwatch.domain import Floats
from streamwatch.inference.blazeface import (
    ANCHOR_COUNT,
    BlazeBlock,
    BlazeFace,
    decode,
    drop_nested,
    iou,
    load_blazeface,
    make_anchors,
    normalise,
    scores_of,
    weighted_nms,
)


def candidate(y0: float, x0: float, y1: float, x1: float, score: float) -> Floats:
    return np.array([y0, x0, y1, x1, *([0.5 * (x0 + x1), 0.5 * (y0 + y1)] * 6), score], np.float32)


def test_the_layout_is_that_of_the_original_checkpoint() -> None:
    model = BlazeFace()
    state = model.state_dict()
    assert sum(parameter.numel() for parameter in model.parameters()) == 101_390
    assert state["backbone1.0.weight"].shape == (24, 3, 5, 5)
    assert state["backbone1.4.convs.0.weight"].shape == (28, 1, 3, 3)
    assert state["backbone1.12.convs.1.weight"].shape == (88, 80, 1, 1)
    assert state["backbone2.4.convs.1.bias"].shape == (96,)
    heads = {
        name: tuple(state[f"{name}.weight"].shape[:2])
        for name in ("classifier_8", "classifier_16", "regressor_8", "regressor_16")
    }
    assert heads == {
        "classifier_8": (2, 88),
        "classifier_16": (6, 96),
        "regressor_8": (32, 88),
        "regressor_16": (96, 96),
    }
    blocks = [f"backbone1.{i}" for i in range(2, 13)] + [f"backbone2.{i}" for i in range(5)]
    expected = {f"{block}.convs.{conv}.{kind}" for block in blocks for conv in (0, 1) for kind in ("weight", "bias")}
    expected |= {f"{name}.{kind}" for name in ("backbone1.0", *heads) for kind in ("weight", "bias")}
    assert set(state) == expected


@torch.no_grad()
def test_pictures_are_padded_as_the_original_pads_them() -> None:
    """The original pads by hand, and its weights know no other edge."""
    torch.manual_seed(0)
    model = BlazeFace().eval()
    x = torch.rand(2, 3, 128, 128)
    stem, halving = model.backbone1[0], model.backbone1[4]
    assert isinstance(stem, nn.Conv2d) and isinstance(halving, BlazeBlock)
    expected = F.conv2d(F.pad(x, (1, 2, 1, 2)), stem.weight, stem.bias, stride=2)
    torch.testing.assert_close(stem(x), expected)
    y = torch.rand(2, 28, 64, 64)
    depthwise, pointwise = halving.convs
    assert isinstance(depthwise, nn.Conv2d)
    inner = F.conv2d(F.pad(y, (0, 2, 0, 2)), depthwise.weight, depthwise.bias, stride=2, groups=28)
    skip = F.pad(F.max_pool2d(y, 2), (0, 0, 0, 0, 0, 4))
    torch.testing.assert_close(halving(y), F.relu(pointwise(inner) + skip))


def test_output_shapes_and_anchors() -> None:
    regressors, logits = BlazeFace().eval()(normalise(torch.zeros(2, 128, 128, 3, dtype=torch.uint8)))
    assert regressors.shape == (2, ANCHOR_COUNT, 16)
    assert logits.shape == (2, ANCHOR_COUNT)
    anchors = make_anchors()
    assert anchors.shape == (ANCHOR_COUNT, 2)
    torch.testing.assert_close(anchors[[0, 1, 2, 32, 511, 512, 517, 518, 895]] * 32, torch.tensor(
        [[1.0, 1], [1, 1], [3, 1], [1, 3], [31, 31], [2, 2], [2, 2], [6, 2], [30, 30]]
    ))  # fmt: skip


def test_an_output_cell_belongs_to_its_place_in_the_picture() -> None:
    """Anchors run along rows: a disturbance on the right of the picture changes anchors on the right."""
    torch.manual_seed(0)
    model = BlazeFace().eval()
    plain = torch.full((1, 128, 128, 3), 127, dtype=torch.uint8)
    marked = plain.clone()
    marked[:, 4:12, 100:108] = 255
    with torch.no_grad():
        change = (model(normalise(plain))[1] - model(normalise(marked))[1]).abs()[0, :512]
    x, y = make_anchors()[int(change.argmax())]
    assert x > 0.6
    assert y < 0.35


def test_decode_adds_the_anchor_and_orders_the_columns() -> None:
    raw = torch.zeros(1, 1, 16)
    raw[..., :4] = torch.tensor([12.8, -6.4, 25.6, 51.2])  # centre offset x, y; width, height
    raw[..., 4:6] = torch.tensor([1.28, 2.56])
    decoded = decode(raw, torch.tensor([[0.5, 0.25]]))[0, 0]
    torch.testing.assert_close(decoded[:4], torch.tensor([0.0, 0.5, 0.4, 0.7]))
    torch.testing.assert_close(decoded[4:8], torch.tensor([0.51, 0.27, 0.5, 0.25]))


def test_scores_clamp_the_logit() -> None:
    torch.testing.assert_close(scores_of(torch.tensor([0.0, 1e9, -1e9])), torch.tensor([0.5, 1.0, 0.0]))


def test_weighted_nms_blends_a_group_and_keeps_others() -> None:
    faces = weighted_nms(np.stack([
        candidate(0, 0, 10, 10, 0.8), candidate(50, 50, 60, 60, 0.9), candidate(0, 2, 10, 12, 0.4),
    ]))  # fmt: skip
    assert len(faces) == 2
    np.testing.assert_allclose(faces[0], candidate(50, 50, 60, 60, 0.9), rtol=1e-6)
    np.testing.assert_allclose(faces[1, :4], [0, 2 / 3, 10, 10 + 2 / 3], rtol=1e-5)
    assert faces[1, 16] == pytest.approx(0.6)


def test_weighted_nms_with_weights_trusts_the_heavier_view() -> None:
    rows = np.stack([candidate(0, 0, 10, 10, 0.8), candidate(0, 2, 10, 12, 0.7)])
    (face,) = weighted_nms(rows, weights=np.array([1.0, 9.0], np.float32))
    assert face[1] == pytest.approx(1.8)
    assert face[16] == pytest.approx(0.71)


def test_weighted_nms_of_nothing_and_of_degenerate_boxes() -> None:
    assert weighted_nms(np.empty((0, 17), np.float32)).shape == (0, 17)
    flat = np.stack([candidate(5, 5, 5, 5, 0.9), candidate(9, 9, 3, 3, 0.8)])
    assert len(weighted_nms(flat)) == 2


def test_a_box_inside_a_better_one_is_dropped() -> None:
    faces = np.stack([candidate(0, 0, 40, 40, 0.9), candidate(5, 5, 20, 20, 0.8), candidate(35, 35, 60, 60, 0.7)])
    np.testing.assert_array_equal(drop_nested(faces), faces[[0, 2]])
    outer = np.stack([candidate(10, 10, 20, 20, 0.9), candidate(0, 0, 40, 40, 0.8)])
    np.testing.assert_array_equal(drop_nested(outer), outer[:1])
    assert drop_nested(np.empty((0, 17), np.float32)).shape == (0, 17)


def test_iou_of_nested_and_apart() -> None:
    boxes = np.array([[0, 0, 5, 10], [20, 20, 30, 30], [0, 0, 10, 10]], np.float32)
    np.testing.assert_allclose(iou(np.array([0, 0, 10, 10], np.float32), boxes), [0.5, 0, 1])


def test_every_file_format_loads_the_same_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = BlazeFace().state_dict()
    save_file(state, tmp_path / "half.safetensors")
    torch.save(state, tmp_path / "original.pth")
    x = torch.randn(1, 3, 128, 128)
    outputs = [
        load_blazeface(source)(x)[0] for source in (state, tmp_path / "half.safetensors", tmp_path / "original.pth")
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="classifier_8"):
        load_blazeface({"something": torch.zeros(1)})
    with pytest.raises(FileNotFoundError):
        load_blazeface(tmp_path / "absent.safetensors")


def test_the_original_checkpoint_gives_its_published_sums() -> None:
    path = os.environ.get("STREAMWATCH_BLAZEFACE_PTH")
    if not path:
        pytest.skip("STREAMWATCH_BLAZEFACE_PTH does not name the original blazeface.pth, which is not redistributed")
    y, x = np.mgrid[:128, :128]
    picture = np.stack([2 * x % 256, 2 * y % 256, (x + y) % 256], -1).astype(np.uint8)
    regressors, logits = load_blazeface(path)(normalise(torch.from_numpy(picture[None])))
    assert float(regressors.sum()) == pytest.approx(70870.67, rel=1e-4)
    assert float(logits.sum()) == pytest.approx(-7510.63, rel=1e-4)
    assert float(logits.max()) == pytest.approx(-0.2415, abs=1e-3)
    assert int(logits.argmax()) == 695
