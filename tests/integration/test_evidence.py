"""Evidence from an alert to its proof: sealed with the real recorder's clip, chained, signed, verified, spoilt,
retained."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from streamwatch.alerts.chain import CHAIN
from streamwatch.alerts.evidence import Evidence, EvidenceOptions
from streamwatch.alerts.signing import Signer
from streamwatch.alerts.verify import verify
from streamwatch.config import EvidenceSettings
from streamwatch.domain import (
    Alert,
    AlertEvent,
    AlertKind,
    AlertPhase,
    Box,
    Face,
    FaceScore,
    Frame,
    FrameScores,
    Instant,
    Severity,
)
from streamwatch.errors import ConfigError, EvidenceInvalid
from streamwatch.ingest.recorder import Recorder
from tests.fakes.disk import fill, small_disk
from tests.fakes.records import stream_score

IDENTITY = {"weights": "bundled-0123", "config_sha256": "ab"}


def settings(directory: Path, **changes: Any) -> EvidenceSettings:
    return EvidenceSettings.model_validate({"directory": directory, "post_roll": 0.2, "pre_roll": 3.0, **changes})


def scored_frame(seq: int, at: Instant, logit: float) -> FrameScores:
    rng = np.random.default_rng(seq)
    frame = Frame("lobby", seq, at, None, rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    crop = np.full((64, 64, 3), seq * 10 % 255, np.uint8)
    heat = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    face = Face(Box(10, 10, 90, 90), 0.9, track=1)
    return FrameScores(frame, (FaceScore(face, logit, {"TimmV2": logit}, crop, heat),), at)


def opened(name: str, at: Instant) -> AlertEvent:
    return AlertEvent(
        AlertPhase.OPENED,
        None,
        Alert(
            id=name,
            kind=AlertKind.DEEPFAKE,
            rule="deepfake",
            stream="lobby",
            severity=Severity.CRITICAL,
            opened_at=at,
            updated_at=at,
            value=0.9,
            peak=0.9,
            threshold=0.7,
            summary="Face 1 on lobby",
            labels={"tracks": "1"},
        ),
    )


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def grey(path: Path) -> int:
    picture = cv2.imread(str(path))
    assert picture is not None
    return int(picture[0, 0, 0])


async def gather(evidence: Evidence, *names: str, recorder: Recorder | None = None, wait: bool = True) -> None:
    """Three seconds of a stream, alerts at their end, and bundles for them."""
    runner = asyncio.create_task(evidence.run())
    end = Instant(time.monotonic(), time.time())
    for i in range(15):
        at = end.shifted((i - 15) / 5)
        scores = scored_frame(i, at, logit=float(i) - 5)
        if recorder is not None:
            recorder.frame("lobby", scores.frame)
        score = stream_score(0, 0.9)
        evidence.observe(replace(score, at=at, seq=i), scores)
    for name in names:
        evidence.submit(opened(name, end))
        if wait:
            await until(lambda name=name: evidence.directory(name) is not None)  # type: ignore[misc]
    await asyncio.sleep(0)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def make(directory: Path, **changes: Any) -> Evidence:
    return Evidence(settings(directory, **changes), EvidenceOptions(lambda stream: IDENTITY))


async def test_a_bundle_holds_clip_faces_scores_and_identity(tmp_path: Path) -> None:
    recorder = Recorder()
    evidence = Evidence(settings(tmp_path), EvidenceOptions(lambda stream: IDENTITY), clips=recorder)
    await gather(evidence, "a1", recorder=recorder)
    bundle = evidence.directory("a1")
    assert bundle is not None
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["identity"] == IDENTITY
    assert manifest["clip"]["kind"] == "encoded"
    assert set(manifest["files"]) == {
        "clip.mp4",
        "scores.json",
        "typical.png",
        "typical_heat.png",
        "worst.png",
        "worst_heat.png",
    }
    with av.open(str(bundle / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == manifest["clip"]["packets"] >= 14
    scores = json.loads((bundle / "scores.json").read_text())
    assert [s["seq"] for s in scores] == list(range(15))
    assert scores[-1]["faces"][0]["members"] == {"TimmV2": 9.0}
    # The worst face is the newest, whose crop is one flat grey; the typical one is the middle of the newest twelve.
    assert [grey(bundle / name) for name in ("worst.png", "typical.png")] == [140, 80]
    proof = verify(tmp_path)
    assert (proof.bundles, proof.removed) == (1, 0)
    assert verify(bundle).key == proof.key


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bundles, to be copied and spoilt."""
    root = tmp_path_factory.mktemp("sealed")
    asyncio.run(gather(make(root), "a1", "a2", "a3"))
    return root


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda d: _append(d / "a2" / "scores.json"), "scores.json: was changed"),
        (lambda d: (d / "a2" / "worst.png").unlink(), "worst.png: is missing"),
        (lambda d: (d / "a2" / "more.txt").write_text("x"), "more.txt: is not in the manifest"),
        (lambda d: _edit(d / "a2" / "manifest.json", "critical", "info"), "manifest.json: the signature does not hold"),
        (lambda d: shutil.rmtree(d / "a2"), "a2: is missing, and the chain does not say"),
        (lambda d: shutil.copytree(d / "a2", d / "a9"), "a9: is not in the chain"),
        (lambda d: _edit(d / CHAIN, '"alert":"a2"', '"alert":"a7"'), "line 2: the signature does not hold"),
        (
            lambda d: (d / CHAIN).write_text("\n".join((d / CHAIN).read_text().splitlines()[1:])),
            "line 1: does not follow",
        ),
        (lambda d: _reorder(d / CHAIN), "line 1: does not follow"),
        (lambda d: _other_key(d / "a2" / "public_key.pem"), "public_key.pem: is not the key that signed it"),
        (lambda d: _append_line(d / CHAIN, 1), "line 4: does not follow"),
        (lambda d: _swap(d / "a1", d / "a2"), "manifest.json: is not the one that the chain names"),
    ],
)
def test_any_change_is_found(sealed: Path, tmp_path: Path, spoil: Callable[[Path], object], fault: str) -> None:
    root = tmp_path / "evidence"
    shutil.copytree(sealed, root)
    assert verify(root).bundles == 3
    spoil(root)
    with pytest.raises(EvidenceInvalid) as caught:
        verify(root)
    assert fault in str(caught.value)


def _other_key(path: Path) -> None:
    stranger = path.with_name("stranger.pem")
    path.write_bytes(Signer.load_or_make(stranger).public_pem)
    stranger.unlink()


def _reorder(chain: Path) -> None:
    first, second, *rest = chain.read_bytes().splitlines(keepends=True)
    chain.write_bytes(b"".join([second, first, *rest]))


def _append_line(chain: Path, number: int) -> None:
    lines = chain.read_bytes().splitlines(keepends=True)
    chain.write_bytes(b"".join([*lines, lines[number]]))


def test_a_kept_head_proves_that_nothing_was_cut_off(sealed: Path, tmp_path: Path) -> None:
    root = tmp_path / "evidence"
    shutil.copytree(sealed, root)
    head = verify(root).head
    assert verify(root, heads=[head]).head == head
    lines = (root / CHAIN).read_bytes().splitlines(keepends=True)
    (root / CHAIN).write_bytes(b"".join(lines[:-1]))
    shutil.rmtree(root / "a3")
    older = verify(root).head  # of itself it holds: its last alert is gone without a trace
    assert verify(sealed, heads=[older, head]).bundles == 3  # heads kept at any time are all there
    with pytest.raises(EvidenceInvalid, match=rf"chain\.jsonl: has no line of hash {head}: its newest lines were cut"):
        verify(root, heads=[older, head])
    with pytest.raises(EvidenceInvalid, match="is a single bundle"):
        verify(root / "a1", heads=[head])


async def test_a_kept_head_proves_that_the_chain_was_not_written_anew(tmp_path: Path) -> None:
    """Whoever has the private key can seal another story, but not under a head that was kept."""
    await gather(make(tmp_path / "true"), "a1")
    head = verify(tmp_path / "true").head
    key = tmp_path / "true" / "signing_key.pem"
    await gather(make(tmp_path / "false", signing_key=key), "a1")
    trusted = tmp_path / "true" / "public_key.pem"
    assert verify(tmp_path / "false", trusted).bundles == 1
    with pytest.raises(EvidenceInvalid, match="written anew"):
        verify(tmp_path / "false", trusted, [head])


async def test_each_seal_logs_the_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "streamwatch.alerts.evidence"):
        await gather(make(tmp_path), "a1")
    assert f"evidence of a1 sealed, head {verify(tmp_path).head}" in caplog.messages


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


async def test_another_key_does_not_verify(tmp_path: Path) -> None:
    await gather(make(tmp_path / "evidence"), "a1")
    stranger = Signer.load_or_make(tmp_path / "other.pem")
    (tmp_path / "other.pub").write_bytes(stranger.public_pem)
    with pytest.raises(EvidenceInvalid, match="signature does not hold"):
        verify(tmp_path / "evidence", tmp_path / "other.pub")
    assert (tmp_path / "other.pem").stat().st_mode & 0o777 == 0o600


async def test_no_picture_is_stored_where_none_may_be(tmp_path: Path) -> None:
    for place, evidence in (
        ("all", make(tmp_path / "all", store_frames="never")),
        (
            "stream",
            Evidence(
                settings(tmp_path / "stream"),
                EvidenceOptions(lambda s: IDENTITY, pictures=lambda s: s != "lobby"),
                clips=Recorder(),
            ),
        ),
    ):
        await gather(evidence, "a1")
        manifest = json.loads((tmp_path / place / "a1" / "manifest.json").read_text())
        assert (set(manifest["files"]), manifest["pictures"], manifest["clip"]) == ({"scores.json"}, "never", None)
        assert verify(tmp_path / place).bundles == 1


async def test_a_stream_that_is_gone_when_its_bundle_is_sealed_keeps_its_privacy(tmp_path: Path) -> None:
    """At the end of the service the streams stop first: what they allowed must not be forgotten with them."""
    here = {"lobby"}

    def allowed(stream: str) -> bool:
        return stream not in here  # private while it is here; whoever asks later would be told otherwise

    recorder = Recorder()
    options = EvidenceOptions(lambda s: IDENTITY if s in here else {}, pictures=allowed)
    evidence = Evidence(settings(tmp_path, post_roll=20.0), options, clips=recorder)
    runner = asyncio.create_task(evidence.run())
    end = Instant(time.monotonic(), time.time())
    for i in range(5):
        at = end.shifted((i - 5) / 5)
        recorder.frame("lobby", scored_frame(i, at, 1.0).frame)
        evidence.observe(replace(stream_score(0, 0.9), at=at, seq=i), scored_frame(i, at, 1.0))
    evidence.submit(opened("a1", end))
    await asyncio.sleep(0)
    here.clear()
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    manifest = json.loads((tmp_path / "a1" / "manifest.json").read_text())
    assert (set(manifest["files"]), manifest["pictures"]) == ({"scores.json"}, "never")
    assert manifest["identity"] == IDENTITY


def two_faces(seq: int, at: Instant, logits: tuple[float, float]) -> FrameScores:
    """Track 1 in light grey, track 2 in dark grey."""
    frame = scored_frame(seq, at, 0.0).frame
    heat = np.zeros((8, 8), np.float32)
    scored = [
        FaceScore(Face(Box(10, 10, 90, 90), 0.9, track=track), logit, {}, np.full((64, 64, 3), shade, np.uint8), heat)
        for track, logit, shade in zip((1, 2), logits, (200, 50), strict=True)
    ]
    return FrameScores(frame, tuple(scored), at)


async def test_evidence_shows_the_person_that_it_speaks_of(tmp_path: Path) -> None:
    """Another face scores higher, and stays when the first is gone; one that joins the alert gets its own bundle."""
    evidence = make(tmp_path)
    runner = asyncio.create_task(evidence.run())
    end = Instant(time.monotonic(), time.time())
    for i in range(40):
        at = end.shifted((i - 40) / 5)
        scores = two_faces(i, at, (2.0, 5.0))
        if i >= 20:  # track 1 has left
            scores = replace(scores, faces=scores.faces[1:])
        evidence.observe(replace(stream_score(0, 0.9), at=at, seq=i), scores)
    first = opened("a1", end)
    evidence.submit(first)
    joined = replace(first.after, labels={"tracks": "1,2"}, updated_at=end.shifted(0.1))
    evidence.submit(AlertEvent(AlertPhase.UPDATED, first.after, joined))
    evidence.submit(AlertEvent(AlertPhase.UPDATED, joined, replace(joined, value=0.95)))  # nobody new
    await until(lambda: evidence.directory("a1") and evidence.directory("a1+2"))
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert grey(tmp_path / "a1" / "worst.png") == 200
    assert grey(tmp_path / "a1+2" / "worst.png") == 50
    manifest = json.loads((tmp_path / "a1+2" / "manifest.json").read_text())
    assert (manifest["alert"]["labels"]["supplements"], manifest["alert"]["labels"]["tracks"]) == ("a1", "2")
    assert verify(tmp_path).bundles == 2


async def test_an_alert_whose_bundle_a_crash_prevented_is_in_the_chain_all_the_same(tmp_path: Path) -> None:
    await gather(make(tmp_path), "a1")
    again = make(tmp_path)
    runner = asyncio.create_task(again.run())
    for name in ("a1", "a2"):  # both were open when the service was killed; one had its bundle
        again.interrupted(opened(name, Instant(0.0, time.time() - 60)).after)
    await until(lambda: again.directory("a2"))
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert json.loads((tmp_path / "a2" / "manifest.json").read_text())["alert"]["labels"]["interrupted"] == "true"
    assert verify(tmp_path).bundles == 2


async def test_another_signing_key_is_refused_at_the_start(tmp_path: Path) -> None:
    await gather(make(tmp_path / "evidence"), "a1")
    Signer.load_or_make(tmp_path / "new.pem")
    with pytest.raises(ConfigError, match=r"signing_key: did not sign the chain"):
        make(tmp_path / "evidence", signing_key=tmp_path / "new.pem")
    assert verify(tmp_path / "evidence").bundles == 1  # nothing was touched
    (tmp_path / "evidence" / "signing_key.pem").rename(tmp_path / "old.pem")
    make(tmp_path / "evidence", signing_key=tmp_path / "old.pem")


async def test_a_clock_that_leaps_ahead_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await gather(make(tmp_path), "a1")
    evidence = make(tmp_path)
    wall = time.time
    monkeypatch.setattr("streamwatch.alerts.evidence.time.time", lambda: wall() + 400 * 86_400.0)
    await evidence._retain()
    assert verify(tmp_path).bundles == 1


async def test_nothing_is_stored_without_an_alert(tmp_path: Path) -> None:
    await gather(make(tmp_path))
    assert names(tmp_path) == {"signing_key.pem", "public_key.pem"}


async def test_the_end_of_the_service_seals_what_waits(tmp_path: Path) -> None:
    await gather(make(tmp_path, post_roll=60.0, ring_seconds=90.0), "a1", wait=False)
    assert verify(tmp_path).bundles == 1


async def test_retention_by_age_and_size_keeps_the_chain_whole(tmp_path: Path) -> None:
    evidence = make(tmp_path)
    await gather(evidence, "a1", "a2", "a3")
    sealer = evidence._sealer
    assert sealer.retain(time.time()) == []
    size = sum(f.stat().st_size for f in (tmp_path / "a1").iterdir())
    small = make(tmp_path, keep_gigabytes=size * 1.5 / 1e9)
    assert small._sealer.retain(time.time()) == ["a1", "a2"]
    proof = verify(tmp_path)
    assert (proof.bundles, proof.removed) == (1, 2)
    assert small._sealer.retain(time.time() + 31 * 86_400) == ["a3"]
    assert verify(tmp_path).removed == 3


async def test_a_crash_between_bundle_and_chain_is_mended(tmp_path: Path) -> None:
    await gather(make(tmp_path), "a1", "a2")
    lines = (tmp_path / CHAIN).read_bytes().splitlines(keepends=True)
    (tmp_path / CHAIN).write_bytes(lines[0] + lines[1][:20])  # the second line was being written
    (tmp_path / ".partial-a3").mkdir()
    with pytest.raises(EvidenceInvalid):
        verify(tmp_path)
    make(tmp_path)
    assert verify(tmp_path).bundles == 2
    assert not (tmp_path / ".partial-a3").exists()


@pytest.mark.slow
async def test_a_full_disk_loses_bundles_but_not_the_chain(tmp_path: Path) -> None:
    told: list[str | None] = []
    with small_disk(tmp_path / "disk") as disk:
        root = disk / "evidence"
        options = EvidenceOptions(lambda stream: IDENTITY)
        evidence = Evidence(settings(root), options, report=lambda kind, name, problem: told.append(problem))
        await gather(evidence, "a1")
        filler = disk / "filler"
        fill(filler)
        await gather(evidence, "a2", wait=False)
        assert told[-1] is not None
        assert "No space left" in told[-1]
        filler.unlink()
        await gather(evidence, "a3")
        assert told[-1:] == [None]
        assert {"a1", "a3"} <= names(root)
        assert verify(root).bundles == 2


def test_a_key_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"alerts\.evidence\.signing_key: .*key\.pem: is no"):
        make(tmp_path / "evidence", signing_key=tmp_path / "key.pem")
    with pytest.raises(EvidenceInvalid, match="holds neither"):
        verify(tmp_path)
