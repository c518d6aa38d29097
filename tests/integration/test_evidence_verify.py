"""The proof of sealed evidence: any change is found, keys and heads are held to, what a crash left is mended."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamwatch.alerts.chain import CHAIN
from streamwatch.alerts.signing import Signer
from streamwatch.alerts.verify import verify
from streamwatch.errors import ConfigError, EvidenceInvalid
from tests.fakes.evidence import gather, make


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


async def test_another_signing_key_is_refused_at_the_start(tmp_path: Path) -> None:
    await gather(make(tmp_path / "evidence"), "a1")
    Signer.load_or_make(tmp_path / "new.pem")
    with pytest.raises(ConfigError, match=r"signing_key: did not sign the chain"):
        make(tmp_path / "evidence", signing_key=tmp_path / "new.pem")
    assert verify(tmp_path / "evidence").bundles == 1  # nothing was touched
    (tmp_path / "evidence" / "signing_key.pem").rename(tmp_path / "old.pem")
    make(tmp_path / "evidence", signing_key=tmp_path / "old.pem")


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


def test_a_key_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"alerts\.evidence\.signing_key: .*key\.pem: is no"):
        make(tmp_path / "evidence", signing_key=tmp_path / "key.pem")
    with pytest.raises(EvidenceInvalid, match="holds neither"):
        verify(tmp_path)
