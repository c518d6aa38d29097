from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from streamwatch.domain import Box, Floats
from streamwatch.errors import ConfigError
from streamwatch.inference.blazeface import INPUT_SIZE, BlazeFace, load_blazeface, make_anchors, normalise
from streamwatch.inference.faces import Detection, FaceFinder, FinderSettings
from streamwatch.inference.weights import bundled_directory, load_tensors, read_manifest
from streamwatch.training import detector
from streamwatch.training.detector_clips import clip_figures
from streamwatch.training.detector_eval import (
    average_precision,
    composite_frames,
    publish,
    recall_and_false,
    still_precision,
)
from streamwatch.training.detector_faces import LabelledFace, load_faces, make_backgrounds
from streamwatch.training.detector_loss import add_batch_norm, detector_loss, fold_batch_norm
from streamwatch.training.detector_scenes import Scene, SceneMaker, assign, batch_of
from streamwatch.training.faces import DatasetError, write_arrays
from tests import require

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn_face(rng: np.random.Generator, side: int = 128) -> LabelledFace:
    """A drawn head with eyes, nose and mouth; its picture is 1.6 times its box."""
    image = np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)
    unit = side / 1.6
    low = (side - unit) / 2
    places = np.array([(0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.5, 0.75), (0.05, 0.4), (0.95, 0.4)]) * unit + low
    skin = tuple(float(v) for v in rng.uniform(0.4, 1, 3) * (240, 190, 160))
    cv2.ellipse(image, (side // 2, side // 2), (int(0.42 * unit), int(0.55 * unit)), 0, 0, 360, skin, -1)
    for x, y in places[:2]:
        cv2.circle(image, (int(x), int(y)), int(0.08 * unit), (250, 250, 250), -1)
        cv2.circle(image, (int(x), int(y)), int(0.045 * unit), (20, 20, 20), -1)
    cv2.ellipse(
        image,
        (int(places[3][0]), int(places[3][1])),
        (int(0.16 * unit), int(0.05 * unit)),
        0,
        0,
        360,
        (120, 30, 40),
        -1,
    )
    box = np.array([low, low, low + unit, low + unit], np.float32)
    return LabelledFace(image, box, places.astype(np.float32), context=False)


@pytest.fixture(scope="module")
def faces() -> list[LabelledFace]:
    rng = np.random.default_rng(3)
    return [drawn_face(rng) for _ in range(24)]


@pytest.fixture(scope="module")
def maker(faces: list[LabelledFace]) -> SceneMaker:
    return SceneMaker(faces, make_backgrounds(faces, np.random.default_rng(0), 40))


def test_keypoints_and_box_follow_the_pasted_picture() -> None:
    """A picture of six coloured spots: where the label says a keypoint is, there is its colour (mirrored ones swap)."""
    image = np.full((160, 160, 3), 128, np.uint8)
    points = np.array([(50, 60), (110, 60), (80, 90), (80, 120), (30, 70), (130, 70)], np.float32)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        cv2.circle(image, (int(x), int(y)), 8, colour, -1)
    maker = SceneMaker(
        [LabelledFace(image, np.array([30, 30, 130, 130], np.float32), points, False)], [image[:64, :64]]
    )
    rng = np.random.default_rng(5)
    seen = matching = 0
    for _ in range(150):
        scene = maker.draw(rng)
        for box, keypoints in zip(scene.boxes, scene.keypoints, strict=True):
            if box[3] - box[1] < 50:
                continue
            for (x, y), colour in zip(keypoints, COLOURS, strict=True):
                if 0 <= x < INPUT_SIZE and 0 <= y < INPUT_SIZE:
                    pixel = scene.image[int(y), int(x)].astype(float)
                    seen += 1
                    strong = np.array(colour) > 0
                    matching += pixel[strong].min() > pixel[~strong].max()
    assert seen > 150
    # Eyes and ears carry their side's name, so in a mirrored picture those four spots show each other's colour.
    assert 0.55 < matching / seen < 0.85


def test_every_visible_face_has_anchors_and_they_hold_its_labels(maker: SceneMaker) -> None:
    rng = np.random.default_rng(1)
    sizes = []
    for _ in range(60):
        scene = maker.draw(rng)
        targets = assign(scene)
        owned = {tuple(box) for box in targets.boxes[targets.labels == 1]}
        for box in scene.boxes:
            inside = np.clip(np.minimum(box[2:], INPUT_SIZE) - np.maximum(box[:2], 0), 0, None).prod()
            if inside / (box[3] - box[1]) ** 2 >= 0.6:
                assert tuple(box) in owned
                sizes.append(box[3] - box[1])
    assert min(sizes) < 10
    assert max(sizes) > 100


def test_a_picture_without_faces_asks_for_background_everywhere() -> None:
    empty = Scene(np.zeros((128, 128, 3), np.uint8), np.empty((0, 4), np.float32), np.empty((0, 6, 2), np.float32))
    assert (assign(empty).labels == 0).all()


def test_anchors_of_another_size_are_background() -> None:
    box = np.array([[14, 14, 114, 114]], np.float32)
    labels = assign(Scene(np.zeros((128, 128, 3), np.uint8), box, np.zeros((1, 6, 2), np.float32))).labels
    assert (labels[:512] == 0).all()
    assert (labels[512:] == 1).any()


def test_folding_batch_norm_changes_nothing(maker: SceneMaker) -> None:
    torch.manual_seed(0)
    model = add_batch_norm(BlazeFace()).train()
    rng = np.random.default_rng(2)
    x = normalise(torch.from_numpy(batch_of([maker.draw(rng) for _ in range(8)])[0]))
    for _ in range(3):
        model(x)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        folded = load_blazeface(fold_batch_norm(model.state_dict()))(x)
    torch.testing.assert_close(folded[0], expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(folded[1], expected[1], rtol=1e-3, atol=1e-3)


def test_the_loss_is_least_at_the_truth(maker: SceneMaker) -> None:
    rng = np.random.default_rng(4)
    targets = batch_of([maker.draw(rng) for _ in range(4)])[1]
    wanted = tuple(torch.from_numpy(a) for a in (targets.labels, targets.boxes, targets.keypoints))
    labels, boxes, keypoints = wanted
    origin = (make_anchors() * INPUT_SIZE).expand(4, -1, -1)
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2 - origin, boxes[..., 2:] - boxes[..., :2]
    truth = torch.cat([centre, size, (keypoints - origin[:, :, None]).flatten(2)], 2)
    logits = torch.where(labels == 1, 12.0, -12.0)
    perfect = detector_loss(truth, logits, (labels, boxes, keypoints), make_anchors())
    assert float(perfect["loss"]) < 1e-3
    shifted = detector_loss(truth + 2.0, -logits, (labels, boxes, keypoints), make_anchors())
    assert all(float(shifted[name]) > 0.01 for name in ("class", "iou", "corner", "keypoint"))


def test_training_learns_saves_and_goes_on(
    faces: list[LabelledFace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(data_dir: Path, split: str, limit: int | None = None, max_side: int | None = None) -> list[LabelledFace]:
        return faces

    monkeypatch.setattr(detector, "load_faces", drawn)  # the data are not in the repository; all else is the real thing
    settings = detector.DetectorTraining(
        tmp_path, tmp_path / "run.pt", tmp_path / "run.safetensors", images=96, batch_size=8, backgrounds=60
    )
    detector.train(settings)
    assert detector.DetectorTrainer(settings).images_seen == 96
    longer = detector.DetectorTraining(**{**{f: getattr(settings, f) for f in settings.__slots__}, "images": 336})
    trainer = detector.train(longer)
    assert trainer.images_seen == 336
    rng = np.random.default_rng(99)
    images, targets = batch_of([SceneMaker(faces, make_backgrounds(faces, rng, 20)).draw(rng) for _ in range(24)])
    wanted = tuple(torch.from_numpy(a) for a in (targets.labels, targets.boxes, targets.keypoints))
    losses = []
    torch.manual_seed(0)
    for model in (load_blazeface(BlazeFace().state_dict()), load_blazeface(settings.output)):
        with torch.no_grad():
            raw, logits = model(normalise(torch.from_numpy(images)))
        losses.append(float(detector_loss(raw, logits, (wanted[0], wanted[1], wanted[2]), make_anchors())["loss"]))
        positive, negative = logits[wanted[0] == 1], logits[wanted[0] == 0]
        auc = float((positive[:, None] > negative[None, ::7]).float().mean())
    assert losses[1] < 0.5 * losses[0]
    assert auc > 0.75  # .80 to .81, by how many threads OpenCV was left with


def test_minutes_are_a_slice(faces: list[LabelledFace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "load_faces", lambda *_, **__: faces)
    parser = argparse.ArgumentParser()
    detector.add_arguments(parser)
    words = f"--data-dir x --checkpoint {tmp_path}/run.pt --output {tmp_path}/new/out.safetensors --minutes 1e-6"
    args = parser.parse_args([*words.split(), "--batch-size", "8", "--images", "80"])
    for slices in (1, 2):
        assert detector.run(args) == 0
        assert torch.load(tmp_path / "run.pt", weights_only=True)["images_seen"] == 8 * slices
    assert (tmp_path / "new" / "out.safetensors").exists()
    (tmp_path / "run.pt").write_bytes(b"PK cut off")
    with pytest.raises(ConfigError, match=r"run\.pt: cannot be gone on from"):
        detector.run(args)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--images 0", "images: must be above 0"),
        ("--minutes 0", "minutes: must be above 0"),
        ("--batch-size 0", "batch_size: must be above 0"),
        ("--threads 0", "threads: must be above 0"),
        ("--seed -1", "seed: must be at least 0"),
        ("--start-from nowhere.pth --checkpoint nowhere.pt", "start_from: nowhere.pth: "),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(words: str, said: str) -> None:
    parser = argparse.ArgumentParser()
    detector.add_arguments(parser)
    with pytest.raises(ConfigError, match=said):
        detector.run(parser.parse_args(["--data-dir", "x", *words.split()]))


def test_start_from_weights_alone(faces: list[LabelledFace], tmp_path: Path) -> None:
    torch.manual_seed(7)
    start = BlazeFace().state_dict()
    torch.save(start, tmp_path / "start.pth")
    settings = detector.DetectorTraining(
        tmp_path, tmp_path / "run.pt", tmp_path / "out.safetensors", start_from=tmp_path / "start.pth"
    )
    trainer = detector.DetectorTrainer(settings)
    assert trainer.progress == 0.0
    trainer.save()
    assert torch.equal(
        load_blazeface(tmp_path / "out.safetensors").state_dict()["regressor_8.bias"], start["regressor_8.bias"]
    )


def detection(x0: float, y0: float, side: float, score: float) -> Detection:
    return Detection(Box(x0, y0, x0 + side, y0 + side), np.zeros((6, 2), np.float32), score)


def test_average_precision_table() -> None:
    truth: list[Floats] = [np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32), np.empty((0, 4), np.float32)]
    both = [detection(0, 0, 10, 0.9), detection(50, 50, 10, 0.8)]
    assert average_precision([both, []], truth) == pytest.approx(1.0)
    assert average_precision([both[:1], []], truth) == pytest.approx(0.5)
    assert average_precision([both, [detection(0, 0, 10, 0.95)]], truth) == pytest.approx(2 / 3)
    assert average_precision([[both[0], both[0]], []], truth) == pytest.approx(0.5)  # a second box on a face is false
    assert average_precision([[detection(6, 6, 10, 0.9)], []], truth) == 0.0
    assert average_precision([[], []], truth) == 0.0
    assert recall_and_false([both, [detection(0, 0, 10, 0.4)]], truth, 0.85) == (0.5, 0.0)
    assert recall_and_false([both, [detection(0, 0, 10, 0.4)]], truth, 0.3) == (1.0, 0.5)


def test_composites_hold_the_faces_that_they_claim(faces: list[LabelledFace]) -> None:
    frames = list(composite_frames(faces, 48, 2))
    again = list(composite_frames(faces, 48, 2))
    assert all((a.image == b.image).all() for a, b in zip(frames, again, strict=True))
    for truth in frames:
        assert truth.image.shape == (720, 1280, 3)
        assert 4 <= len(truth.boxes) <= 10
        heights = truth.boxes[:, 3] - truth.boxes[:, 1]
        assert (heights > 42).all()
        assert (heights < 54).all()


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.npz"):
        load_faces(tmp_path, "train")
    for content in (b"", b"PK cut off"):
        (tmp_path / "labels.npz").write_bytes(content)
        with pytest.raises(DatasetError, match=r"labels\.npz: cannot be read"):
            load_faces(tmp_path, "train")
    box, keypoints = np.zeros((1, 4), np.int16), np.zeros((1, 6, 2), np.int16)
    write_arrays(tmp_path / "labels.npz", split=["train"], name=["a.png"], box=box, keypoints=keypoints)
    with pytest.raises(DatasetError, match=r"labels\.npz: a\.png: the box .* has no size"):
        load_faces(tmp_path, "train")
    with pytest.raises(DatasetError, match="no rows of split 'val'"):
        load_faces(tmp_path, "val")


def test_the_command_line_fills_the_settings() -> None:
    parser = argparse.ArgumentParser()
    detector.add_arguments(parser)
    args = parser.parse_args(["--data-dir", "data", "--minutes", "3"])
    assert args.minutes == 3.0
    assert args.data_dir == Path("data")


def test_publishing_leaves_the_rest_of_the_manifest(tmp_path: Path) -> None:
    source = bundled_directory()
    (tmp_path / "manifest.json").write_text('{"format": 1, "detectors": {}, "sets": {"mine": {"version": "7"}}}')
    publish(source / "blazeface.safetensors", tmp_path, 0.6, {"stills_ap50": 0.9}, "commit, command")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sets"] == {"mine": {"version": "7"}}
    record = manifest["detectors"]["blazeface"]
    assert record["score_threshold"] == 0.6
    load_blazeface(load_tensors(tmp_path / record["file"], record["sha256"]))


@pytest.mark.data
def test_the_bundled_detector_on_held_out_faces_and_real_video() -> None:
    data = require.data_dir()
    directory = bundled_directory()
    record = read_manifest(directory).detectors["blazeface"]
    model = load_blazeface(load_tensors(directory / record.file, record.sha256))
    faces = load_faces(data, "val", limit=120)
    assert still_precision(FaceFinder(model, settings=FinderSettings(score_threshold=0.05)), faces) > 0.95
    finder = FaceFinder(model, settings=FinderSettings(score_threshold=record.score_threshold))
    clip = clip_figures(finder, data / "clips" / "liveportrait__d18.mp4", None, 3.0)
    assert clip.frames > 15
    assert clip.coverage > 0.95
    assert clip.second_faces < 0.2
    assert clip.jitter < 0.05
