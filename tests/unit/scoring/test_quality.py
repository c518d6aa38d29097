"""The quality gate on real pictures that the dependencies ship, spoilt on purpose."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from streamwatch.config import ScoringSettings
from streamwatch.domain import Box, Floats, Image
from streamwatch.scoring.quality import blockiness, measure, pose, truncation

BOX = Box(172.0, 68.0, 276.0, 190.0)
"""The face of skimage's astronaut."""


@pytest.fixture(scope="module")
def portrait() -> Image:
    return np.asarray(data.astronaut(), dtype=np.uint8)


def keypoints(nose: float = 0.0) -> Floats:
    """A face of 100 px between the tragions; `nose` is its offset towards the left ear."""
    points: list[list[float]] = [[70, 50], [30, 50], [50 + nose, 70], [50 + nose / 2, 90], [100, 55], [0, 55]]
    return np.array([[x + 170, y + 80] for x, y in points], dtype=np.float32)


def test_a_good_face_has_full_weight(portrait: Image) -> None:
    quality = measure(portrait, BOX, keypoints())
    assert quality.gate is None
    assert quality.weight == pytest.approx(1.0, abs=0.1)
    assert set(quality.measures) == {
        "size",
        "truncation",
        "pose",
        "sharpness",
        "brightness",
        "glare",
        "compression",
    }


def test_the_codecs_quantiser_is_kept_as_evidence_and_changes_nothing(portrait: Image) -> None:
    quality, told = measure(portrait, BOX, keypoints()), measure(portrait, BOX, keypoints(), quantiser=33.5)
    assert told.measures == {**quality.measures, "quantiser": 33.5}
    assert (told.weight, told.gate) == (quality.weight, None)


@pytest.mark.parametrize(
    ("spoil", "gate"),
    [
        (lambda p: cv2.GaussianBlur(p, (0, 0), 9), "sharpness"),
        (lambda p: (p * 0.08).astype(np.uint8), "brightness"),
        (lambda p: np.clip(p.astype(int) + 190, 0, 255).astype(np.uint8), "glare"),
    ],
)
def test_what_cannot_be_judged_is_gated(portrait: Image, spoil, gate: str) -> None:  # type: ignore[no-untyped-def]
    quality = measure(np.ascontiguousarray(spoil(portrait)), BOX, None)
    assert (quality.gate, quality.weight) == (gate, 0.0)


def test_size_gates_and_halves(portrait: Image) -> None:
    settings = ScoringSettings(min_size=64, full_size=96)
    weights = {}
    for height in (60, 70, 122):
        factor = height / BOX.height
        small = cv2.resize(portrait, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        quality = measure(np.asarray(small, np.uint8), Box(*(v * factor for v in BOX)), None, settings)
        weights[height] = (quality.gate, round(quality.weight, 1))
    assert weights == {60: ("size", 0.0), 70: (None, 0.5), 122: (None, 1.0)}


def test_a_profile_and_a_cut_off_face_are_gated(portrait: Image) -> None:
    assert measure(portrait, BOX, keypoints(nose=48)).gate == "pose"
    half = Box(-60.0, 68.0, 44.0, 190.0)
    assert measure(portrait, half, None).gate == "truncation"


def test_sharpness_does_not_depend_on_size(portrait: Image) -> None:
    """Blur is judged relative to the face: the same face twice as large is as sharp."""
    large = np.asarray(cv2.resize(portrait, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)
    one = measure(portrait, BOX, None).measures["sharpness"]
    two = measure(large, Box(*(2 * v for v in BOX)), None).measures["sharpness"]
    assert two == pytest.approx(one, rel=0.25)


def test_strong_compression_lowers_the_weight_and_only_a_mosaic_is_gated(portrait: Image) -> None:
    def as_jpeg(quality: int) -> Image:
        bgr = cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)

    good, bad, mosaic = (measure(image, BOX, None) for image in (portrait, as_jpeg(8), as_jpeg(1)))
    assert bad.gate is None
    assert bad.weight < good.weight
    assert bad.measures["compression"] > 1.6 > good.measures["compression"]
    assert (mosaic.gate, mosaic.weight) == ("compression", 0.0)


def test_the_grid_is_the_frames_not_the_crops() -> None:
    blocks = np.kron(np.random.default_rng(0).integers(0, 255, (20, 20)), np.ones((8, 8))).astype(np.uint8)
    assert blockiness(blocks, 0, 0) > 10
    assert blockiness(blocks[:, 3:], 3, 0) > 10
    assert blockiness(blocks[3:, 3:], 0, 0) < 1.5


def test_pose_and_truncation_by_hand() -> None:
    assert pose(keypoints()) == pytest.approx(0.0, abs=0.01)
    assert pose(keypoints(nose=25)) == pytest.approx(0.5, abs=0.01)
    assert pose(np.zeros((6, 2), np.float32)) == 1.0
    assert truncation(Box(-50, 0, 50, 100), 640, 480) == 0.5
    assert truncation(Box(10, 10, 20, 20), 640, 480) == 0.0


class OffHost:
    """An image of which only the shape is known here, as one on a GPU."""

    shape = (512, 512, 3)

    def __dlpack__(self) -> object:
        raise BufferError("not on the host")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def test_an_image_off_the_host_is_judged_by_its_geometry() -> None:
    quality = measure(OffHost(), BOX, keypoints())
    assert (quality.gate, set(quality.measures)) == (None, {"size", "truncation", "pose"})
