from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch

from streamwatch.config import DetectorSettings, DeviceSettings, EnsembleSettings
from streamwatch.domain import Box, Face, Frame, Instant
from streamwatch.errors import DeviceError, Expired, Overloaded, WeightsCorrupt, WeightsMissing
from streamwatch.inference.crop import crop_face
from streamwatch.inference.devices import choose_devices, host_image, torch_threads
from streamwatch.inference.engine import EngineSettings, LocalEngine
from streamwatch.inference.ensemble import load_ensemble
from streamwatch.inference.models import DetectorSource
from streamwatch.inference.seed_members import SeedSpec, seed_crop
from streamwatch.inference.weights import find_set
from streamwatch.inference.weights_import import import_state
from streamwatch.observer import NullObserver
from streamwatch.protocols import Engine, FindOptions
from tests.unit.inference.test_seed_members import SMALL, seed_layout

FACES = [Face(Box(20, 10, 80, 90), 0.9), Face(Box(100, 40, 200, 160), 0.8), Face(Box(-10, -8, 50, 60), 0.7)]


def frame(seed: int = 0, stream: str = "lobby") -> Frame:
    image = np.random.default_rng(seed).integers(0, 256, (180, 320, 3), dtype=np.uint8)
    return Frame(stream, seed, Instant(time.monotonic(), time.time()), None, image)


def later() -> float:
    return time.monotonic() + 60


@pytest.fixture
def settings(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> EngineSettings:
    monkeypatch.setenv("STREAMWATCH_WEIGHTS_DIR", str(weights_dir))
    # float32 is named: `auto` may find bfloat16 faster on this machine, by a measurement, and scores are compared here.
    return EngineSettings(DeviceSettings(devices=("cpu",), dtype="float32", threads=1, max_batch=16, max_queue=16))


@pytest_asyncio.fixture
async def engine(settings: EngineSettings) -> AsyncIterator[LocalEngine]:
    async with LocalEngine(settings, NullObserver()) as engine:
        yield engine


async def test_frames_of_many_streams_are_scored_together_and_none_is_mixed_up(
    engine: LocalEngine, weights_dir: Path
) -> None:
    frames = [frame(seed, f"camera-{seed}") for seed in range(5)]
    results = await asyncio.gather(*(engine.score(each, FACES, later()) for each in frames))
    ensemble = load_ensemble(find_set(str(weights_dir)))
    for each, scores in zip(frames, results, strict=True):
        crops = np.stack([crop_face(each.image, face.box, 64) for face in FACES])
        expected = ensemble.score(torch.from_numpy(crops))
        assert [score.face for score in scores] == FACES
        assert [score.logit for score in scores] == pytest.approx(expected.fused, abs=1e-4)
        assert [score.members["ViT"] for score in scores] == pytest.approx(expected.members[:, 1], abs=1e-4)
        assert scores[0].crop is not None
        assert np.array_equal(scores[0].crop, crops[0])
        assert scores[0].heat is not None and scores[0].heat.ndim == 2
    assert engine.describe()["batches"]["score"]["largest_batch"] > len(FACES)


async def test_finding_and_scoring_share_the_device(engine: LocalEngine) -> None:
    found, scored = await asyncio.gather(
        engine.find(frame(), FindOptions(), later()), engine.score(frame(), FACES, later())
    )
    assert isinstance(found, tuple)
    assert len(scored) == 3
    assert await engine.score(frame(), (), later()) == ()


def test_it_is_the_engine_of_the_domain(settings: EngineSettings) -> None:
    engine: Engine = LocalEngine(settings, NullObserver())
    assert engine is not None


async def test_late_and_surplus_work_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(Expired):
        await engine.score(frame(), FACES, time.monotonic() - 1)
    with pytest.raises(Expired):
        await engine.find(frame(), FindOptions(), time.monotonic() - 1)
    with pytest.raises(Overloaded):
        await engine.score(frame(), FACES * 6, later())


async def test_a_bad_frame_fails_alone(engine: LocalEngine) -> None:
    bad = Frame("lobby", 1, Instant(0, 0), None, np.zeros((10, 10), np.uint8))
    with pytest.raises(DeviceError, match="detect batch of 1 failed"):
        await engine.find(bad, FindOptions(), later())
    assert await engine.find(frame(), FindOptions(), later()) is not None


async def test_a_cancelled_caller_leaves_the_engine_at_work(engine: LocalEngine) -> None:
    task = asyncio.create_task(engine.score(frame(), FACES, later()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await engine.score(frame(), FACES, later())) == 3


async def test_the_description_is_plain_json(engine: LocalEngine) -> None:
    described = json.loads(json.dumps(engine.describe()))
    assert described["devices"][0]["device"] == "cpu"
    assert described["devices"][0]["dtype"].keys() == {"TimmV2", "ViT"}
    assert described["weights"]["hash"] == engine.weights.hash
    assert described["weights"]["threshold"] == engine.threshold == 0.5


async def test_a_seed_set_serves_live_streams(
    settings: EngineSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    spec = SeedSpec("TimmV2ST", SMALL["TimmV2"])
    import_state("dfspot-ffpp", spec, seed_layout("TimmV2ST")[0], "memory")
    ensemble = EnsembleSettings(weights="dfspot-ffpp", members=("TimmV2ST",))
    async with LocalEngine(EngineSettings(settings.device, ensemble=ensemble), NullObserver()) as engine:
        scores = await engine.score(frame(), FACES, later())
    assert engine.threshold == 0.3
    assert engine.describe()["weights"]["disagreement_p99"] is None
    assert scores[0].crop is not None
    assert scores[0].crop.shape == (224, 224, 3)
    assert scores[1].crop is not None
    assert np.array_equal(scores[1].crop, seed_crop(frame().image, FACES[1].box))
    assert scores[0].logit == pytest.approx(scores[0].members["TimmV2ST"], abs=1e-4)


async def test_stopping_joins_every_thread_and_refuses_more(settings: EngineSettings) -> None:
    before = {thread.name for thread in threading.enumerate()}
    async with LocalEngine(settings, NullObserver()) as engine:
        await engine.score(frame(), FACES, later())
    assert not {t.name for t in threading.enumerate() if t.name.startswith("device-")} - before
    with pytest.raises(DeviceError, match="stopped"):
        await engine.find(frame(), FindOptions(), later())


async def test_corrupt_weights_stop_the_start_and_leave_no_thread(settings: EngineSettings, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(find_set("bundled").directory, tmp_path / "broken"))
    (broken / "vit.safetensors").write_bytes(b"nothing")
    ensemble = EnsembleSettings(weights=str(broken))
    with pytest.raises(WeightsCorrupt, match=r"vit\.safetensors"):
        async with LocalEngine(EngineSettings(settings.device, ensemble=ensemble), NullObserver()):
            pass
    assert not [t for t in threading.enumerate() if t.name.startswith("device-")]


async def test_a_set_of_another_crop_stops_the_start_and_leaves_no_thread(
    settings: EngineSettings, tmp_path: Path
) -> None:
    foreign = Path(shutil.copytree(find_set("bundled").directory, tmp_path / "foreign"))
    manifest = json.loads((foreign / "manifest.json").read_text())
    manifest["sets"]["bundled"]["members"][0]["crop"] = "square2.0h-v9"
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    ensemble = EnsembleSettings(weights=str(foreign))
    with pytest.raises(WeightsCorrupt, match=r"square2\.0h-v9"):
        async with LocalEngine(EngineSettings(settings.device, ensemble=ensemble), NullObserver()):
            pass
    assert not [t for t in threading.enumerate() if t.name.startswith("device-")]


@pytest.mark.parametrize(
    ("name", "content"),
    [("face.pth", "another network"), ("face.pth", "junk"), ("face.safetensors", "junk"), ("face.pth", "")],
)
async def test_a_detector_of_the_users_own_must_be_one(
    settings: EngineSettings, tmp_path: Path, name: str, content: str
) -> None:
    other = tmp_path / name
    if content == "another network":
        torch.save({"weight": torch.zeros(3)}, other)
    else:
        other.write_text(content)
    with pytest.raises(WeightsCorrupt, match=rf"{name}: is not a BlazeFace file"):
        async with LocalEngine(EngineSettings(settings.device, DetectorSettings(weights=other)), NullObserver()):
            pass
    with pytest.raises(WeightsMissing, match=r"none\.pth: is not there"):
        DetectorSource(tmp_path / "none.pth", None, 0.5).load()


def test_devices_are_chosen_or_named_as_missing() -> None:
    assert choose_devices(["cpu", "cpu"]) == ["cpu"]
    assert choose_devices(["auto"])
    with pytest.raises(DeviceError, match="cuda:99"):
        choose_devices(["cuda:99"])
    with pytest.raises(DeviceError, match="abacus"):
        choose_devices(["abacus"])
    assert torch_threads(DeviceSettings(threads=3), "cpu") == 3
    assert torch_threads(DeviceSettings(threads=3), "cuda:0") == 1
    assert torch_threads(DeviceSettings(), "cpu") >= 1


def test_pixels_that_live_in_a_tensor_are_read_too() -> None:
    tensor = torch.arange(12, dtype=torch.uint8).reshape(2, 2, 3)
    assert np.array_equal(host_image(tensor), tensor.numpy())
