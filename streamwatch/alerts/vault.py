"""The directory of all evidence: its lock, key and chain, what goes in and what is removed. Blocking.

A bundle is moved into place before its line enters the chain. A crash between the two leaves a bundle without its line;
the next start finds that it follows from the chain's end, and enters it. One that is removed goes the other way: a
crash leaves a bundle, or half of it, that the chain calls removed, and that nobody claims to be evidence.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import shutil
from pathlib import Path

from streamwatch.alerts.bundle import Bundle, write_bundle
from streamwatch.alerts.chain import CHAIN, GENESIS, Chain, signed_by
from streamwatch.alerts.disk import DirectoryLock, sync, translated, write, write_whole
from streamwatch.alerts.signing import Signer, file_sha256, load_public
from streamwatch.alerts.verify import MANIFEST, PUBLIC_KEY, verify_bundle
from streamwatch.config import EvidenceSettings
from streamwatch.errors import ConfigError, EvidenceInvalid, StorageError, StreamWatchError
from streamwatch.protocols import ClipInfo

KEY = "signing_key.pem"
_PARTIAL = ".partial-"
_PROBE = 1 << 16


class Vault:
    """One directory of bundles, held by this process alone until `close`. For one caller at a time; every method raises
    StorageError."""

    def __init__(self, settings: EvidenceSettings) -> None:
        """Raises ConfigError for what the settings say wrongly, ServerError where another process holds the directory,
        StorageError, EvidenceInvalid where what is there does not hold: that is never continued."""
        self._settings = settings
        self._root = root = settings.directory
        with translated(root):
            _make(root)
            self._lock = DirectoryLock(root)
        try:
            with translated(root):
                self._signer = self._key()
                self._chain = Chain(root, self._signer)
                self._clear_up()
        except EvidenceInvalid as error:
            self._lock.close()
            raise EvidenceInvalid(
                f"{error}; nothing more is sealed in {root}: move that directory away for whoever looks into it, and a "
                "new one is begun"
            ) from error
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        self._lock.close()

    @property
    def head(self) -> str:
        """The hash of the chain's newest line."""
        return self._chain.head

    def known(self, alert: str) -> bool:
        """Whether the chain names the alert, be its bundle still here or removed."""
        return alert in self._chain.alerts

    def free(self, name: str) -> str:
        """The name, or the first of NAME-2, NAME-3, ... that no bundle bears or has borne."""
        names = itertools.chain([name], (f"{name}-{run}" for run in itertools.count(2)))
        return next(n for n in names if not self.known(n) and not (self._root / n).exists())

    def begin(self, alert: str) -> Path:
        """An empty directory to write into."""
        path = self._root / f"{_PARTIAL}{Path(alert).name}"
        with translated(path):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        return path

    def seal(self, bundle: Bundle, clip: ClipInfo | None, directory: Path) -> Path:
        """Writes everything beside the clip, signs, and moves the whole into place. Returns where it lies."""
        final = self._root / Path(bundle.alert.id).name
        with translated(directory):
            write_bundle(bundle, clip, directory, self._signer, self._newest())
            directory.rename(final)
            sync(self._root)
        try:
            self._chain.append("sealed", bundle.alert.id, file_sha256(final / MANIFEST), bundle.alert.opened_at.wall)
        except StreamWatchError:
            shutil.rmtree(final, ignore_errors=True)  # without its line it would break the chain of those that follow
            raise
        return final

    def retain(self, now: float) -> list[str]:
        """Removes the oldest bundles beyond the age and size that are kept. Returns their alerts."""
        gone = self._chain.removed
        kept = [k for k in self._chain.links if k.kind == "sealed" and k.alert not in gone]
        sizes = {link.alert: _size(self._root / link.alert) for link in kept}
        total, limit = sum(sizes.values()), self._settings.keep_gigabytes * 1e9
        removed = []
        for link in kept:
            if now - link.at <= self._settings.keep_days * 86_400.0 and total <= limit:
                break
            self._chain.append("removed", link.alert, link.manifest, now)
            shutil.rmtree(self._root / link.alert, ignore_errors=True)
            total -= sizes[link.alert]
            removed.append(link.alert)
        self._sweep()
        return removed

    def probe(self) -> None:
        """Whether anything can be written here: a full disk is to be known before an alert needs it."""
        path = self._root / ".probe"
        with translated(path):
            try:
                write(path, bytes(_PROBE))
            finally:
                path.unlink(missing_ok=True)

    def _key(self) -> Signer:
        """A chain has one key from its first line to its last. Raises ConfigError, EvidenceInvalid."""
        given = self._settings.signing_key
        signer = Signer.load(given) if given else Signer.load_or_make(self._root / KEY)
        chain, public = self._root / CHAIN, self._root / PUBLIC_KEY
        same = public.is_file() and public.read_bytes() == signer.public_pem
        lines = chain.read_bytes().splitlines(keepends=True) if chain.exists() else []
        complete = [line for line in lines if line.endswith(b"\n")]
        if complete and not signed_by(complete[-1], load_public(signer.public_pem, public)):
            # The public key is that of the last start: who changed it since, the settings or somebody in the directory?
            if given and not same:
                raise ConfigError(
                    f"alerts.evidence.signing_key: did not sign the chain in {self._root}: use the key that did, or "
                    "move that directory away and begin a new one"
                )
            raise EvidenceInvalid(f"{chain}, line {len(complete)}: is not signed by the key in use")
        if not same:
            write_whole(public, signer.public_pem)
        return signer

    def _newest(self) -> str:
        """The hash of the manifest that the next one names."""
        return next((link.manifest for link in reversed(self._chain.links) if link.kind == "sealed"), GENESIS)

    def _clear_up(self) -> None:
        """What a crash may have left."""
        for left in self._root.glob(_PARTIAL + "*"):
            shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(StorageError):  # `retain` will say it
            self._sweep()
        self._adopt()

    def _sweep(self) -> None:
        """Removes what the chain calls removed. Raises StorageError: pictures must not stay for ever unnoticed."""
        with translated(self._root):
            left = [path for path in self._root.iterdir() if path.name in self._chain.removed]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if stuck := [path for path in left if path.exists()]:
            raise StorageError(f"{stuck[0]}: its time is over, and it cannot be removed")

    def _adopt(self) -> None:
        """Enters the one bundle that a crash may have left without its line. Raises EvidenceInvalid where more are
        without: no crash does that."""
        left = [path for path in self._root.iterdir() if not self.known(path.name) and self._sealed_here(path)]
        for path in left:
            manifest = json.loads((path / MANIFEST).read_bytes())
            if len(left) > 1 or manifest["previous"] != self._newest():
                raise EvidenceInvalid(f"{self._root / CHAIN}: the line of {path.name} was taken out")
            self._chain.append("sealed", path.name, file_sha256(path / MANIFEST), float(manifest["clock"]["wall"]))

    def _sealed_here(self, bundle: Path) -> bool:
        """Under this name and with this key; anything else `evidence verify` will name."""
        if not (bundle / MANIFEST).is_file():
            return False
        try:
            manifest = verify_bundle(bundle, load_public(self._signer.public_pem, self._root / PUBLIC_KEY))
        except EvidenceInvalid:
            return False
        return bool(manifest["alert"]["id"] == bundle.name)


def bundles_of(root: Path, alert: str) -> list[Path]:
    """The alert's bundle, then those of faces that joined it, by track and run. Empty: it is not sealed yet. Raises
    StorageError."""
    own = root / Path(alert).name
    with translated(own):
        joined = sorted(root.glob(f"{glob.escape(own.name)}+*"), key=_track_and_run)
        return [path for path in (own, *joined) if (path / MANIFEST).is_file()] if (own / MANIFEST).is_file() else []


def _track_and_run(bundle: Path) -> tuple[int, ...]:
    """`ALERT+7` is (7,), `ALERT+7-2` is (7, 2)."""
    return tuple(map(int, bundle.name.rpartition("+")[2].split("-")))


def _make(root: Path) -> None:
    """Raises ConfigError where a file is in the way, OSError: that one may be mended while the service runs."""
    for path in (root, *root.parents):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"alerts.evidence.directory: {path} is no directory")
    root.mkdir(parents=True, exist_ok=True)


def _size(directory: Path) -> int:
    try:
        return sum(p.stat().st_size for p in directory.iterdir())
    except OSError:
        return 0
