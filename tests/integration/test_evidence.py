"""Evidence from an alert to its bundle: the recorder's real clip, faces, privacy, retention, crashes, a full disk."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pytest

from streamwatch.alerts.evidence import Evidence, EvidenceOptions
from streamwatch.alerts.verify import verify
from streamwatch.domain import (
    AlertEvent,
    AlertPhase,
    Box,
    Face,
    FaceScore,
    FrameScores,
    Instant,
)
from streamwatch.ingest.recorder import Recorder
from tests.fakes.disk import fill, small_disk
from tests.fakes.evidence import IDENTITY, gather, grey, make, names, opened, scored_frame, settings, until
from tests.fakes.records import stream_score


async def test_a_bundle_holds_clip_faces_scores_and_identity(tmp_path: Path) -> None:
    recorder = Recorder()
    evidence = Evidence(settings(tmp_path), EvidenceOptions(lambda stream: IDENTITY), clips=recorder)
    await gather(evidence, "a1", recorder=recorder)
    (bundle,) = evidence.directories("a1")
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
    await until(lambda: len(evidence.directories("a1")) == 2)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert grey(tmp_path / "a1" / "worst.png") == 200
    assert grey(tmp_path / "a1+2" / "worst.png") == 50
    manifest = json.loads((tmp_path / "a1+2" / "manifest.json").read_text())
    assert (manifest["alert"]["labels"]["supplements"], manifest["alert"]["labels"]["tracks"]) == ("a1", "2")
    assert verify(tmp_path).bundles == 2


async def test_a_face_that_joins_after_a_restart_does_not_take_an_earlier_faces_place(tmp_path: Path) -> None:
    """Each run numbers the faces anew: face 2 of the second run is somebody else than that of the first."""
    problems: list[str | None] = []
    options = EvidenceOptions(lambda stream: IDENTITY)
    for run in range(3):
        evidence = Evidence(settings(tmp_path), options, report=lambda kind, name, problem: problems.append(problem))
        runner = asyncio.create_task(evidence.run())
        first = opened("a1", Instant(time.monotonic(), time.time()))
        if run == 0:
            evidence.submit(first)
        for tracks in ("1,2", "1,2,10"):
            joined = replace(first.after, labels={"tracks": tracks})
            evidence.submit(AlertEvent(AlertPhase.UPDATED, first.after, joined))
            first = replace(first, after=joined)
        await asyncio.sleep(0)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)
    assert set(problems) == {None}
    expected = ["a1", "a1+2", "a1+2-2", "a1+2-3", "a1+10", "a1+10-2", "a1+10-3"]
    assert [path.name for path in evidence.directories("a1")] == expected
    assert verify(tmp_path).bundles == 7


@pytest.mark.parametrize(("window", "kept"), [(40.0, 10), (3000.0, 150), (5.0, 2)])
async def test_the_scores_are_those_of_the_streams_own_window(tmp_path: Path, window: float, kept: int) -> None:
    """A stream that is seldom looked at has a longer window; a suspicion has it looked at more often, at once."""
    evidence = make(tmp_path, pre_roll=8.0, post_roll=1.0)
    now = Instant(time.monotonic(), time.time())
    for i in range(200):
        score = replace(stream_score(0, 0.9), at=now.shifted(4.0 * (i - 199)), seq=i, window=window)
        evidence.observe(score, None)
    evidence.submit(opened("a1", now))
    for i in range(3):
        later = now.shifted(0.2 * (i + 1))
        evidence.observe(replace(stream_score(0, 0.9), at=later, seq=200 + i, window=8.0), None)
    await until(lambda: evidence.directories("a1"))
    scores = json.loads((tmp_path / "a1" / "scores.json").read_text())
    assert [s["seq"] for s in scores] == list(range(200 - kept, 203))


async def test_an_alert_whose_bundle_a_crash_prevented_is_in_the_chain_all_the_same(tmp_path: Path) -> None:
    await gather(make(tmp_path), "a1")
    again = make(tmp_path)
    runner = asyncio.create_task(again.run())
    for name in ("a1", "a2"):  # both were open when the service was killed; one had its bundle
        again.interrupted(opened(name, Instant(0.0, time.time() - 60)).after)
    await until(lambda: again.directories("a2"))
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert json.loads((tmp_path / "a2" / "manifest.json").read_text())["alert"]["labels"]["interrupted"] == "true"
    assert verify(tmp_path).bundles == 2


async def test_a_bundle_of_an_earlier_run_shows_nobody_of_this_one(tmp_path: Path) -> None:
    """Its database was away for a while: when its alerts are taken up, somebody else is face 1."""
    recorder = Recorder()
    evidence = Evidence(settings(tmp_path), EvidenceOptions(lambda stream: IDENTITY), clips=recorder)
    runner = asyncio.create_task(evidence.run())
    now = Instant(time.monotonic(), time.time())
    for i in range(15):
        at = now.shifted((i - 15) / 5)
        recorder.frame("lobby", scored_frame(i, at, 1.0).frame)
        evidence.observe(replace(stream_score(0, 0.9), at=at, seq=i), scored_frame(i, at, 5.0))
    earlier = opened("a1", now.shifted(-1.0)).after
    assert earlier.labels["tracks"] == "1"
    evidence.interrupted(earlier)
    await until(lambda: evidence.directories("a1"))
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    manifest = json.loads((tmp_path / "a1" / "manifest.json").read_text())
    assert (set(manifest["files"]), manifest["clip"], manifest["faces"]) == ({"scores.json"}, None, {})
    assert json.loads((tmp_path / "a1" / "scores.json").read_text()) == []


async def test_a_slow_disk_costs_no_clip_and_too_many_alerts_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty alerts at once; when the second bundle has its turn, the ring has long forgotten what led to it."""
    told: list[str | None] = []
    slow, go_on, sync = threading.Event(), threading.Event(), os.fsync

    def fsync(file: int) -> None:
        if slow.is_set():
            stuck.set()
            assert go_on.wait(60)
        sync(file)

    stuck = threading.Event()
    monkeypatch.setattr(os, "fsync", fsync)
    recorder = Recorder()
    options = EvidenceOptions(lambda stream: IDENTITY)
    evidence = Evidence(settings(tmp_path), options, recorder, report=lambda kind, name, problem: told.append(problem))
    runner = asyncio.create_task(evidence.run())
    now = Instant(time.monotonic(), time.time())
    for i in range(15):
        recorder.frame("lobby", scored_frame(i, now.shifted((i - 15) / 5), 1.0).frame)
    await until(lambda: told == [None])
    slow.set()
    for number in range(40):
        evidence.submit(opened(f"a{number:02}", now))
    assert told[1:] == [f"none is kept for a{number}: too many alerts at once" for number in range(32, 40)]
    await until(stuck.is_set)
    await asyncio.sleep(0.2)  # the post-roll of the others is over too
    for i in range(15):
        recorder.frame("lobby", scored_frame(i, now.shifted(60 + i / 5), 1.0).frame)
    assert recorder.select("lobby", now.wall - 3, now.wall) is None
    go_on.set()
    await until(lambda: len(names(tmp_path)) == 32 + len({"signing_key.pem", "public_key.pem", "chain.jsonl", ".lock"}))
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    for number in range(32):
        clip = json.loads((tmp_path / f"a{number:02}" / "manifest.json").read_text())["clip"]
        assert clip is not None, number
        assert datetime.fromisoformat(clip["start"]).timestamp() == pytest.approx(now.wall - 3.0, abs=0.5)
    assert verify(tmp_path).bundles == 32
    assert told[-1] is None


async def test_a_clock_that_leaps_ahead_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await gather(make(tmp_path), "a1")
    evidence = make(tmp_path)
    wall = time.time
    monkeypatch.setattr("streamwatch.alerts.evidence.time.time", lambda: wall() + 400 * 86_400.0)
    await evidence._upkeep()
    evidence.close()
    assert verify(tmp_path).bundles == 1


async def test_nothing_is_stored_without_an_alert(tmp_path: Path) -> None:
    await gather(make(tmp_path))
    assert names(tmp_path) == {"signing_key.pem", "public_key.pem", ".lock"}


async def test_the_end_of_the_service_seals_what_waits(tmp_path: Path) -> None:
    await gather(make(tmp_path, post_roll=60.0, ring_seconds=90.0), "a1", wait=False)
    assert verify(tmp_path).bundles == 1


async def test_retention_by_age_and_size_keeps_the_chain_whole(tmp_path: Path) -> None:
    evidence = make(tmp_path)
    await gather(evidence, "a1", "a2", "a3")
    assert evidence._open().retain(time.time()) == []
    evidence.close()
    size = sum(f.stat().st_size for f in (tmp_path / "a1").iterdir())
    small = make(tmp_path, keep_gigabytes=size * 1.5 / 1e9)
    assert small._open().retain(time.time()) == ["a1", "a2"]
    proof = verify(tmp_path)
    assert (proof.bundles, proof.removed) == (1, 2)
    assert small._open().retain(time.time() + 31 * 86_400) == ["a3"]
    assert verify(tmp_path).removed == 3


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
