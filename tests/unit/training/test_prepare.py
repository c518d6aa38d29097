from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from streamwatch.training import prepare
from streamwatch.training.detector_faces import load_faces
from streamwatch.training.faces import DatasetError, load_labelled_faces


def arguments(folder: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    return parser.parse_args([str(folder), *more])


def test_a_folder_becomes_a_set_that_the_loaders_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    portrait = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    (tmp_path / "someone").mkdir()
    cv2.imwrite(str(tmp_path / "someone" / "a.png"), portrait)
    cv2.imwrite(str(tmp_path / "b.jpg"), np.ascontiguousarray(portrait[:, ::-1]))
    cv2.imwrite(str(tmp_path / "blurred.jpg"), cv2.GaussianBlur(portrait, (0, 0), 3))
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert prepare.run(arguments(tmp_path, "--val-share", "0")) == 0
    said = capsys.readouterr().out
    assert "3 pictures to train, 0 to validate" in said
    assert "1 left out (no face)" in said
    assert "1 left out (unreadable)" in said

    faces = load_labelled_faces(tmp_path, "train", sharp_only=False)
    assert list(faces.names) == ["b.jpg", "blurred.jpg", "someone/a.png"]
    detector_faces = load_faces(tmp_path, "train")
    assert [face.image.shape for face in detector_faces] == [(512, 512, 3)] * 3
    for geometry, face in zip(faces.geometries, detector_faces, strict=True):
        np.testing.assert_allclose(geometry.box, face.box)
        x0, y0, x1, y1 = geometry.box
        assert x0 < geometry.outline[:, 0].mean() < x1
        assert y0 < geometry.outline[:, 1].mean() < y1
        assert 0.5 < np.ptp(geometry.outline[:, 1]) / (y1 - y0) < 1.8
    mirrored, original = detector_faces[0], detector_faces[2]
    middle = (original.box[0] + original.box[2]) / 2
    assert (mirrored.box[0] + mirrored.box[2]) / 2 == pytest.approx(512 - middle, abs=12)
    with np.load(tmp_path / "labels.npz") as labels:
        assert labels["sharp"].tolist() == [True, False, True]
        assert labels["box"].dtype == np.int16


def test_labels_are_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "labels.npz").write_bytes(b"")
    with pytest.raises(DatasetError, match="--force"):
        prepare.run(arguments(tmp_path))


def test_folders_without_pictures_or_faces_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no pictures"):
        prepare.run(arguments(tmp_path))
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(DatasetError, match="no face of 64 px or more in 1 pictures"):
        prepare.run(arguments(tmp_path))


def test_a_persons_pictures_stay_on_one_side() -> None:
    splits = {prepare.split_of(f"person/{index}.jpg", 0.5) for index in range(50)}
    assert len(splits) == 1
    lone = [prepare.split_of(f"{index}.jpg", 0.3) for index in range(400)]
    assert 80 < lone.count("val") < 160


def test_wide_pictures_keep_their_coordinates() -> None:
    assert prepare._sixteenths(np.array([[2047.0, 1.5]])).dtype == np.int16
    assert prepare._sixteenths(np.array([[4000.25, 1.5]])).tolist() == [[64004, 24]]
