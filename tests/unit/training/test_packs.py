from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from streamwatch.errors import ConfigError
from streamwatch.inference.crop import crop_face
from streamwatch.training.autoencoder import (
    AutoencoderSpec,
    load_autoencoders,
    reconstructor,
    save_autoencoder,
    train_autoencoder,
)
from streamwatch.training.cards import card
from streamwatch.training.faces import (
    DatasetError,
    faces_folder,
    load_labelled_faces,
    pick_donor,
    save_pack,
    write_arrays,
)
from streamwatch.training.pack import pack
from tests.unit.training.pictures import draw_face, draw_faces

TINY = AutoencoderSpec(32, 8, 2, 8, True)


def labelled(folder: Path) -> Path:
    """A folder of labelled faces, as the development data has it."""
    faces = draw_faces(4)
    for name, image in zip(faces.names, faces.images, strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    np.savez(
        folder / "labels.npz",
        name=np.array([f"{name}.png" for name in faces.names]),
        split=np.array(["train", "train", "train", "val"]),
        sharp=np.array([True, True, False, True]),
        box=np.round(np.stack([g.box for g in faces.geometries]) * 16).astype(np.int16),
        landmarks=np.round(np.stack([g.points for g in faces.geometries]) * 16).astype(np.int16),
    )
    return folder


def test_labelled_faces_are_read_by_split(tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    assert load_labelled_faces(folder, "train").names == ["face0.png", "face1.png"]
    assert len(load_labelled_faces(folder, "train", sharp_only=False)) == 3
    validation = load_labelled_faces(folder, "val")
    image, geometry = draw_face(3)
    assert (validation.images[0] == image).all()
    assert np.abs(validation.geometries[0].points - geometry.points).max() < 0.05


def test_faults_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.npz"):
        load_labelled_faces(tmp_path, "train")
    folder = labelled(tmp_path)
    with pytest.raises(DatasetError, match="no rows of split 'test'"):
        load_labelled_faces(folder, "test")
    (folder / "face1.png").unlink()
    with pytest.raises(DatasetError, match=r"face1\.png"):
        load_labelled_faces(folder, "train")
    for content in (b"", (folder / "labels.npz").read_bytes()[:-40]):
        (folder / "labels.npz").write_bytes(content)
        with pytest.raises(DatasetError, match=r"labels\.npz: cannot be read"):
            load_labelled_faces(folder, "train")
    (folder / "pack.npz").write_bytes(b"no pack")
    with pytest.raises(DatasetError, match=r"pack\.npz"):
        load_labelled_faces(folder / "pack.npz", "train")


def changed(folder: Path, **arrays: np.ndarray) -> Path:
    with np.load(folder / "labels.npz") as labels:
        write_arrays(folder / "labels.npz", **{**labels, **arrays})
    return folder


def test_labels_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="all 3 pictures of split 'train' are blurred"):
        load_labelled_faces(changed(labelled(tmp_path), sharp=np.zeros(4, bool)), "train")
    with pytest.raises(DatasetError, match=r"labels\.npz: face0\.png: the box .* has no size"):
        load_labelled_faces(changed(labelled(tmp_path), box=np.zeros((4, 4), np.int16)), "train")
    with pytest.raises(DatasetError, match=r"labels\.npz: face0\.png: a face mesh needs"):
        load_labelled_faces(changed(labelled(tmp_path), landmarks=np.ones((4, 3, 2), np.int16)), "train")


def test_faces_lie_in_the_folder_or_in_its_faces(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    with pytest.raises(DatasetError, match=r"has no labels\.npz, neither there nor in faces/"):
        faces_folder(tmp_path)
    folder = labelled(tmp_path / "faces")
    assert faces_folder(tmp_path) == faces_folder(folder) == folder
    assert load_labelled_faces(tmp_path, "val").names == ["face3.png"]


@pytest.mark.parametrize(("side", "kept"), [(1500, 640), (400, 640)])
def test_a_photograph_is_kept_as_far_as_a_view_reaches(tmp_path: Path, side: int, kept: int) -> None:
    folder = labelled(tmp_path)
    face, geometry = draw_face(0, side)
    photograph = np.full((2000, 3000, 3), 90, np.uint8)
    photograph[300 : 300 + side, 1400 : 1400 + side] = face
    cv2.imwrite(str(folder / "face0.png"), cv2.cvtColor(photograph, cv2.COLOR_RGB2BGR))
    with np.load(folder / "labels.npz") as labels:
        box, points = labels["box"].astype(np.int32), labels["landmarks"].astype(np.int32)
    box[0] = np.round(16 * (geometry.box + np.array((1400, 300, 1400, 300))))
    points[0] = np.round(16 * (geometry.points + np.array((1400, 300))))
    read = load_labelled_faces(changed(folder, box=box, landmarks=points), "train")
    assert max(read.images[0].shape) == kept and read.images[0].base is None
    ours = crop_face(read.images[0], tuple(read.geometries[0].box), 96)
    theirs = crop_face(photograph, tuple(box[0] / 16), 96)
    assert np.abs(ours.astype(int) - theirs).mean() < 4
    mean = read.geometries[0].points.mean(0) - read.geometries[0].box[:2]
    size, whole = (np.ptp(b[[0, 2]]) for b in (read.geometries[0].box, geometry.box))
    assert mean / size == pytest.approx((geometry.points.mean(0) - geometry.box[:2]) / whole, abs=0.01)


def test_a_pack_gets_its_name_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_pack(pack(draw_faces(2)), tmp_path / "faces")
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_a_pack_holds_the_same_faces(tmp_path: Path) -> None:
    faces = draw_faces(6)
    save_pack(pack(faces, quality=95), tmp_path / "pack.npz")
    read = load_labelled_faces(tmp_path / "pack.npz", "train")
    assert sorted(read.names) == sorted(faces.names)
    for name, image, geometry in zip(read.names, read.images, read.geometries, strict=True):
        row = list(faces.names).index(name)
        assert np.abs(image.astype(int) - faces.images[row]).mean() < 8
        assert np.abs(geometry.points - faces.geometries[row].points).max() < 0.05


def test_a_pack_keeps_within_its_size(tmp_path: Path) -> None:
    faces = draw_faces(20)
    small = pack(faces, largest=20_000)
    assert 0 < len(small.names) < 20
    save_pack(small, tmp_path / "pack.npz")
    assert (tmp_path / "pack.npz").stat().st_size < 23_000
    with pytest.raises(ConfigError, match="largest"):
        pack(faces, largest=10)


def test_the_donor_looks_the_same_way() -> None:
    faces = draw_faces(12)
    rng = np.random.default_rng(0)
    for index in range(len(faces)):
        donor = pick_donor(faces, index, rng, tries=200)
        distance = ((faces.poses - faces.poses[index]) ** 2).sum(1)
        assert donor == np.argsort(distance)[1]


def test_an_auto_encoder_repaints_the_face_alone(tmp_path: Path) -> None:
    network = train_autoencoder(draw_faces(8), TINY, steps=30)
    save_autoencoder(network, tmp_path)
    with pytest.raises(DatasetError, match="no auto-encoder"):
        load_autoencoders(tmp_path / "elsewhere")
    repaint = reconstructor(load_autoencoders(tmp_path, [TINY]))
    image, geometry = draw_face(50)
    painted = repaint(image, geometry, np.random.default_rng(0))
    changed = np.abs(painted.astype(int) - image).mean(2)
    middle = tuple(np.round(geometry.outline.mean(0)).astype(int)[::-1])
    assert painted.shape == image.shape
    assert changed[:4, :4].max() == 0
    assert changed[middle[0] - 5 : middle[0] + 5, middle[1] - 5 : middle[1] + 5].max() > 0
    assert changed.mean() < 60  # it is still a picture of that face


def test_a_card_carries_the_terms_and_the_figures() -> None:
    member = {
        "name": "ViT",
        "architecture": {"backbone": "efficientvit_b0", "head": "linear", "input_size": 224, "highpass": 2.0},
        "crop": "c1",
        "bias": 0.1,
        "temperature": 1.5,
        "trained": {"images": 12, "commit": "abc", "command": "streamwatch train", "share_beside_the_anchor": 0.4},
    }
    figures = {"clips": {"members": {"ViT": {"value": 0.8, "low": 0.7, "high": 0.9}}, "without": {"ViT": 0.75}}}
    text = card(member, {"version": "1", "members": [member], "threshold": 0.6, "figures": figures})
    assert "FairFace" in text and "CC BY 4.0" in text and "Civil Services" in text
    assert "0.800 [0.700, 0.900]" in text and "high-pass of sigma 2 px" in text and "0.4 of its own" in text


def test_a_pack_brings_real_h264_to_where_there_is_none(tmp_path: Path) -> None:
    faces = draw_faces(6)
    save_pack(pack(faces, recorded=1.0), tmp_path / "pack.npz")
    packed = load_labelled_faces(tmp_path / "pack.npz", "train")
    assert len(packed) == 12 and packed.names[0] == packed.names[1]
    plain, recorded = (packed.images[i].astype(int) for i in (0, 1))
    original = faces.images[int(packed.names[0].removeprefix("face"))].astype(int)
    assert np.abs(plain - original).mean() < np.abs(recorded - original).mean()
    assert np.abs(packed.geometries[0].points - packed.geometries[1].points).max() == 0
    assert len(pack(faces).names) == 6
    with pytest.raises(ConfigError, match="recorded: must be 0 to 1"):
        pack(faces, recorded=2.0)
