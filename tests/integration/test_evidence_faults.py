"""Evidence whose directory fails: alerts go on, what does not hold is not continued, and it comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamwatch.alerts.chain import CHAIN
from streamwatch.alerts.evidence import Evidence, EvidenceOptions
from streamwatch.alerts.signing import Signer
from streamwatch.alerts.verify import verify
from streamwatch.app import Service
from streamwatch.cli import main
from streamwatch.domain import Instant
from streamwatch.errors import ConfigError, ServerError
from tests.fakes.disk import fill, small_disk
from tests.fakes.evidence import IDENTITY, gather, make, names, opened, settings, until
from tests.fakes.people import quick_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamwatch.alerts.evidence.AGAIN_AFTER", 0.05)


@contextlib.asynccontextmanager
async def running(directory: Path, **changes: Any) -> AsyncIterator[tuple[Evidence, list[str | None]]]:
    """The evidence, and what it reports of itself."""
    told: list[str | None] = []
    options = EvidenceOptions(lambda stream: IDENTITY)
    evidence = Evidence(settings(directory, **changes), options, report=lambda kind, name, said: told.append(said))
    runner = asyncio.create_task(evidence.run())
    try:
        yield evidence, told
    finally:
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)


def alert(evidence: Evidence, name: str) -> None:
    evidence.submit(opened(name, Instant(time.monotonic(), time.time())))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# --- the directory cannot be written ---------------------------------------------------------------------------------


async def test_a_read_only_directory_keeps_nobody_from_watching(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        await gather(make(disk / "evidence"), "a1")
        remount(disk, "ro")
        async with running(disk / "evidence") as (evidence, told):
            await until(lambda: len(told) > 5)
            assert all("Read-only file system" in (said or "") for said in told)
            assert len([m for m in caplog.messages if "Read-only" in m]) == 1
            assert evidence.directories("a1") == [disk / "evidence" / "a1"], "what is there can be looked at"
            evidence.interrupted(opened("a0", Instant(0.0, time.time() - 60)).after)
            alert(evidence, "a2")
            await until(lambda: any("a2" in (said or "") for said in told))
            remount(disk, "rw")
            await until(lambda: told[-1] is None)
            alert(evidence, "a3")
            await until(lambda: evidence.directories("a3") and evidence.directories("a0"))
        assert {"a0", "a1", "a3"} <= names(disk / "evidence")
        assert verify(disk / "evidence").bundles == 3


async def test_a_disk_that_is_full_at_the_first_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = disk / "filler"
        fill(filler)
        async with running(disk / "evidence") as (evidence, told):
            await until(lambda: told)
            assert "No space left" in (told[-1] or "")
            key = disk / "evidence" / "signing_key.pem"
            assert not key.exists(), "no half of a key is left"
            filler.unlink()
            await until(lambda: told[-1] is None)
            alert(evidence, "a1")
            await until(lambda: evidence.directories("a1"))
        assert key.stat().st_mode & 0o777 == 0o600
        assert verify(disk / "evidence").bundles == 1


async def test_a_full_disk_is_told_before_an_alert_needs_it_and_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        await gather(make(disk / "evidence"), "a1")
        filler = disk / "filler"
        fill(filler)
        async with running(disk / "evidence") as (_, told):
            await until(lambda: len(told) > 5)
            assert None not in told
            filler.unlink()
            await until(lambda: told[-1] is None)


async def test_a_place_that_is_not_mounted_yet(tmp_path: Path) -> None:
    (tmp_path / "evidence").symlink_to(tmp_path / "mounted")
    async with running(tmp_path / "evidence", signing_key=tmp_path / "usb.pem") as (evidence, told):
        await until(lambda: told)
        (tmp_path / "mounted").mkdir()
        await until(lambda: "usb.pem: No such file" in (told[-1] or ""))
        Signer.load_or_make(tmp_path / "usb.pem")
        await until(lambda: told[-1] is None)
        alert(evidence, "a1")
        await until(lambda: evidence.directories("a1"))


async def test_what_is_configured_wrongly_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for path in (tmp_path / "file", tmp_path / "file" / "evidence"):
        with pytest.raises(ConfigError, match=r"alerts\.evidence\.directory: .*file is no directory"):
            make(path)


async def test_the_next_start_writes_no_file(tmp_path: Path) -> None:
    await gather(make(tmp_path), "a1")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "signing_key.pem", tmp_path / "public_key.pem")}
    make(tmp_path).close()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    (tmp_path / "public_key.pem").write_bytes(b"of somebody else")
    make(tmp_path).close()
    assert verify(tmp_path).bundles == 1


async def test_an_empty_key_of_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "signing_key.pem").touch()
    await gather(make(tmp_path), "a1")
    assert verify(tmp_path).bundles == 1


# --- what is there does not hold -------------------------------------------------------------------------------------


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("key", "spoil"),
    [
        (None, lambda d: _edit(d / CHAIN, '"alert":"a1"', '"alert":"a7"')),
        (None, lambda d: _edit(d / CHAIN, '"alert":"a2"', '"alert":"a7"')),  # the newest, which no other line names
        ("own.pem", lambda d: _edit(d / CHAIN, '"alert":"a2"', '"alert":"a7"')),
        (None, lambda d: (d / "signing_key.pem").write_text("nonsense")),
        (None, lambda d: (d / CHAIN).unlink()),
        (None, lambda d: (d / CHAIN).write_bytes(b"")),
    ],
)
async def test_evidence_that_does_not_hold_is_not_continued_and_the_service_runs(
    key: str | None, spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    root, changes = tmp_path / "evidence", {}
    if key is not None:
        Signer.load_or_make(tmp_path / key)
        changes = {"signing_key": tmp_path / key}
    await gather(make(root, **changes), "a1", "a2")
    spoil(root)
    before = tree(root)
    async with running(root, **changes) as (evidence, told):
        await until(lambda: told)
        assert f"nothing more is sealed in {root}: move that directory away" in (told[-1] or "")
        alert(evidence, "a3")
        await until(lambda: any("a3" in (said or "") for said in told))
        assert tree(root) == before
        root.rename(tmp_path / "kept")
        await until(lambda: told[-1] is None)
        alert(evidence, "a4")
        await until(lambda: evidence.directories("a4"))
    assert tree(tmp_path / "kept") == before
    assert verify(root).bundles == 1


async def test_a_copy_beside_the_bundles_is_not_taken_for_tampering(tmp_path: Path) -> None:
    await gather(make(tmp_path), "a1")
    shutil.copytree(tmp_path / "a1", tmp_path / "a1.copy")
    async with running(tmp_path) as (_, told):
        await until(lambda: told)
        assert told == [None]


async def test_a_service_starts_without_its_evidence_and_says_so(tmp_path: Path) -> None:
    await gather(make(tmp_path / "evidence"), "a1", "a2")
    _edit(tmp_path / "evidence" / CHAIN, '"alert":"a1"', '"alert":"a7"')
    async with (
        Service(quick_config(tmp_path, {})) as service,
        httpx.AsyncClient(base_url=service.url, timeout=30) as http,
        asyncio.timeout(30),
    ):
        while not (alerts := (await http.get("/api/v1/alerts?active=true")).json()["items"]):
            await asyncio.sleep(0.1)
        assert (alerts[0]["kind"], alerts[0]["labels"]["name"]) == ("storage", "evidence")
        assert "move that directory away" in alerts[0]["summary"]
        assert (await http.get("/readyz")).status_code == 200


# --- two in one directory --------------------------------------------------------------------------------------------


async def test_a_second_service_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    """On a port of its own: the address refuses nobody."""
    async with running(tmp_path / "evidence") as (first, _):
        alert(first, "a1")
        await until((tmp_path / "evidence" / "chain.jsonl").exists)  # written after the bundle is in place
        before = tree(tmp_path / "evidence")
        with pytest.raises(ServerError, match=f"evidence.directory: {tmp_path}/evidence is in use") as caught:
            async with Service(quick_config(tmp_path, {})):
                pass
        assert caught.value.exit_code == 6
        assert names(tmp_path) == {"evidence"}, "its history was opened"
        assert tree(tmp_path / "evidence") == before
    make(tmp_path / "evidence").close()  # the first has let go of it


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    hold = "import sys, time, pathlib, streamwatch.alerts.disk as d; l = d.DirectoryLock(pathlib.Path(sys.argv[1]));"
    with subprocess.Popen(
        [sys.executable, "-c", hold + "print('held', flush=True); time.sleep(60)", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ServerError, match="in use"):
            make(tmp_path)
        process.send_signal(signal.SIGKILL)
    make(tmp_path).close()


async def test_where_there_are_no_locks_the_chain_finds_the_other_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    async with running(tmp_path) as (first, _), running(tmp_path) as (second, told):
        await until(lambda: told)
        alert(first, "a1")
        await until(lambda: first.directories("a1"))
        alert(second, "a2")
        await until(lambda: any("was changed by others" in (said or "") for said in told))
        await until(lambda: told[-1] is None)  # it has read the other's line
        alert(second, "a3")
        await until(lambda: second.directories("a3"))
    assert verify(tmp_path).bundles == 2


# --- retention cut short, and what verify makes of damage ------------------------------------------------------------


async def test_a_removal_cut_short_is_no_tampering_and_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "evidence"
    await gather(make(root), "a1", "a2")
    shutil.copytree(root / "a1", tmp_path / "a1")
    shutil.copytree(root / "a2", tmp_path / "a2")
    async with running(root, keep_gigabytes=1e-9) as (_, told):
        await until(lambda: told)
    assert verify(root).removed == 2
    shutil.move(tmp_path / "a2", root / "a2")  # the kill came before its first file ...
    shutil.move(tmp_path / "a1", root / "a1")
    (root / "a1" / "scores.json").unlink()  # ... and after its first
    assert verify(root).left == ("a1", "a2")
    assert main(["evidence", "verify", str(root)]) == 0
    assert "left a1, a2: no evidence any more" in capsys.readouterr().out
    make(root).close()
    assert not {"a1", "a2"} & names(root)
    assert (verify(root).removed, verify(root).left) == (2, ())


async def test_pictures_that_cannot_be_removed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await gather(make(tmp_path), "a1")
    with monkeypatch.context() as stuck:
        stuck.setattr(shutil, "rmtree", lambda *_, **__: None)
        async with running(tmp_path, keep_gigabytes=1e-9) as (_, told):
            await until(lambda: len(told) > 2)
            assert all("a1: its time is over, and it cannot be removed" in (said or "") for said in told)
            stuck.undo()
            await until(lambda: told[-1] is None)
    assert "a1" not in names(tmp_path)


@pytest.mark.parametrize("at", ["NaN", "1e999", "-Infinity", '"today"', "null", "1" + "0" * 400, "[" * 100_000])
async def test_a_line_of_the_chain_that_is_nonsense(
    at: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await gather(make(tmp_path), "a1")
    line = (tmp_path / CHAIN).read_text()
    before, _, after = line.partition('"at":')
    (tmp_path / CHAIN).write_text(f'{before}"at":{at},{after.partition(",")[2]}')
    assert main(["evidence", "verify", str(tmp_path)]) == 5
    assert "chain.jsonl, line 1: is damaged" in capsys.readouterr().err
    async with running(tmp_path) as (_, told):
        await until(lambda: told)
        assert told[-1] is not None


@pytest.mark.parametrize("name", ["a1/scores.json", "a1/manifest.json", CHAIN, "public_key.pem"])
async def test_a_file_that_cannot_be_read_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await gather(make(tmp_path), "a1")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/proc/self/mem")  # a file that refuses even root: input/output error
    assert main(["evidence", "verify", str(tmp_path)]) == 5
    assert f"{tmp_path / name}: Input/output error" in capsys.readouterr().err
