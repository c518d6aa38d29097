from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
import pytest
import skimage
import torch
from timm.layers import Conv2dSame

from streamwatch.domain import Box, Floats, Image
from streamwatch.inference.blazeface import BlazeFace, iou, load_blazeface
from streamwatch.inference.faces import Detection, FaceFinder, FinderSettings, find_faces_like_seed
from streamwatch.inference.tiles import TILINGS
from streamwatch.inference.weights import bundled_directory, load_tensors, read_manifest
from streamwatch.protocols import FindOptions

FACE_IN_PICTURE = Box(170, 72, 276, 178)
"""The astronaut's face by hand, in the 512 x 512 picture: a square from the brows' top to the chin."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def bundled() -> tuple[BlazeFace, float]:
    directory = bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    return load_blazeface(load_tensors(directory / record.file, record.sha256)), record.score_threshold


def finder(tiles: str = "default") -> FaceFinder:
    model, threshold = bundled()
    return FaceFinder(model, settings=FinderSettings(TILINGS[tiles], threshold))


def frame_with_face(size: tuple[int, int], corner: tuple[int, int], face_height: float) -> tuple[Image, Floats]:
    """A grey frame (width, height) with the astronaut's picture at `corner`, and the true box."""
    picture = skimage.data.astronaut()
    scale = face_height / FACE_IN_PICTURE.height
    side = round(512 * scale)
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    frame = np.full((size[1], size[0], 3), 90, np.uint8)
    x, y = corner
    visible = small[: size[1] - y, : size[0] - x]
    frame[y : y + visible.shape[0], x : x + visible.shape[1]] = visible
    return frame, (np.array(FACE_IN_PICTURE, np.float32) * scale + np.array([x, y, x, y])).astype(np.float32)


def overlaps(faces: list[Detection], truth: Floats) -> list[float]:
    return [float(iou(np.array(face.box, np.float32), truth[None])[0]) for face in faces]


@pytest.mark.parametrize(
    ("size", "corner", "height"),
    [
        ((1280, 720), (40, 60), 64),
        ((1280, 720), (900, 350), 64),
        ((1280, 720), (300, 0), 200),
        ((1280, 720), (420, 60), 90),  # across the border of two tiles
        ((1920, 1080), (1500, 700), 80),
        ((1920, 1080), (700, 100), 150),
        ((720, 1280), (100, 900), 80),
        ((512, 512), (0, 0), 106),
        ((320, 240), (60, 20), 64),
    ],
)
def test_a_face_is_found_wherever_it_is(size: tuple[int, int], corner: tuple[int, int], height: float) -> None:
    frame, truth = frame_with_face(size, corner, height)
    faces = finder().find([frame])[0]
    assert faces
    found = overlaps(faces, truth)
    assert max(found) > 0.5
    face = faces[int(np.argmax(found))]
    right_eye, left_eye, nose, mouth = face.keypoints[:4]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < mouth[1]


@pytest.mark.parametrize(("tiles", "height"), [("default", 170), ("fine", 120)])
def test_four_k_has_no_blind_band(tiles: str, height: float) -> None:
    for x in (0, 1150, 1700, 2400, 3100):
        frame, truth = frame_with_face((3840, 2160), (x, 900), height)
        assert max(overlaps(finder(tiles).find([frame])[0], truth), default=0) > 0.5, f"not found at x = {x}"


def test_frames_of_many_sizes_share_a_batch_and_keep_their_faces() -> None:
    given = [frame_with_face((1280, 720), (200, 100), 120), frame_with_face((320, 240), (10, 10), 60)]
    empty = np.full((480, 640, 3), 128, np.uint8)
    images = [given[0][0], empty, given[1][0]]
    together = finder().find(images)
    apart = [finder().find([image])[0] for image in images]
    assert [len(faces) for faces in together] == [len(faces) for faces in apart]
    assert together[1] == []
    for faces, alone in zip(together, apart, strict=True):
        for face, same in zip(faces, alone, strict=True):
            np.testing.assert_allclose(face.box, same.box, atol=0.05)
    assert max(overlaps(together[0], given[0][1])) > 0.5
    assert max(overlaps(together[2], given[1][1])) > 0.5


def test_the_detectors_paddings_are_folded() -> None:
    model, _ = bundled()
    assert not any(isinstance(module, Conv2dSame) for module in FaceFinder(model).detector.modules())
    assert any(isinstance(module, Conv2dSame) for module in model.modules()), "the given one stays as it was"


def test_small_batches_give_the_same() -> None:
    frame, _ = frame_with_face((1280, 720), (200, 100), 120)
    model, threshold = bundled()
    chunked = FaceFinder(model, settings=FinderSettings(score_threshold=threshold, max_batch=2)).find([frame])[0]
    whole = finder().find([frame])[0]
    np.testing.assert_allclose([f.box for f in chunked], [f.box for f in whole], atol=0.05)


def test_limits_of_size_number_and_place() -> None:
    frame, truth = frame_with_face((1280, 720), (200, 100), 120)
    second, _ = frame_with_face((1280, 720), (760, 100), 100)
    frame[:, 700:] = second[:, 700:]
    everything = finder().find([frame])[0]
    assert len(everything) >= 2
    x, y = (truth[:2] + truth[2:]) / 2 / [1280, 720]
    around = (x - 0.05, y - 0.05, x + 0.05, y + 0.05)
    options = [
        FindOptions(max_faces=1),
        FindOptions(min_size=300),
        FindOptions(roi=around),
        FindOptions(ignore=(around,)),
    ]
    best, none, inside, outside = finder().find([frame] * 4, options)
    assert len(best) == 1
    np.testing.assert_allclose(best[0].box, everything[0].box, atol=0.05)
    assert none == []
    assert max(overlaps(inside, truth)) > 0.5
    assert outside
    assert max(overlaps(outside, truth)) < 0.1
    assert len(inside) + len(outside) == len(everything)


def test_the_box_holds_still_when_the_picture_moves() -> None:
    """The ensemble's crop follows the box's height: over a slow pan it must not jump."""
    heights, offsets = [], []
    for step in range(8):
        frame, truth = frame_with_face((1280, 720), (380 + 9 * step, 60 + 4 * step), 120)
        faces = finder().find([frame])[0]
        face = faces[int(np.argmax(overlaps(faces, truth)))]
        heights.append(face.box.height)
        offsets.append(face.box.x0 - truth[0])
    assert np.std(heights) / np.mean(heights) < 0.05
    assert np.std(offsets) / np.mean(heights) < 0.05


def test_seed_mode_finds_the_face_with_the_seeds_tiles() -> None:
    frame, truth = frame_with_face((1280, 720), (300, 40), 200)
    faces = find_faces_like_seed(finder(), frame)
    assert faces
    assert max(overlaps(faces, truth)) > 0.5
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


@pytest.mark.parametrize(
    "image",
    [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((0, 10, 3), np.uint8)],
)
def test_other_images_are_refused_by_index(image: Image) -> None:
    with pytest.raises(ValueError, match="image 1: expected uint8"):
        finder().find([np.zeros((8, 8, 3), np.uint8), image])


def test_a_float_image_and_missing_options_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        finder().find([np.zeros((8, 8, 3), np.float32)])
    with pytest.raises(ValueError, match="2 images, but 1 options"):
        finder().find([np.zeros((8, 8, 3), np.uint8)] * 2, [FindOptions()])


def test_no_images_no_faces() -> None:
    assert finder().find([]) == []
