"""Fetching DF-Spot's published archives from Google Drive, through gdown."""

from __future__ import annotations

import shutil
from pathlib import Path

from streamwatch.errors import ConfigError, StreamWatchError, WeightsUnavailable
from streamwatch.inference.weights import SEED_SETS, store_directory
from streamwatch.inference.weights_import import Progress, import_weights
from streamwatch.inference.weights_store import ARCHIVE_BYTES

DRIVE_IDS = {
    "dfspot-celeb": "1l4CpqaUb3e5bGfkDEJRaGJsFHQnJdNpM",
    "dfspot-dfdc": "1_Ofv_TBOeTDSaXhjnUi1BgNT3HWUmMPI",
    "dfspot-ffpp": "1fvFJ6uRaZBEn_AF4KRyge2R1j3YokwZH",
}
WORKING_BYTES = 10 * 10**9
"""Beside the archive: one unpacked checkpoint with its optimiser's state, and the four networks as they are kept."""
TIMEOUT = (15.0, 60.0)
"""Seconds to connect, and between two blocks."""


def pull(names: list[str], progress: Progress | None = None) -> list[str]:
    """Fetches and imports DF-Spot's sets by name (`all`: the three), and returns what was taken, as `set/member`.

    A download that broke off is resumed; the archive is removed once imported. Raises WeightsUnavailable where
    gdown is not installed, the disk is too full, or the host cannot be reached or refuses; ConfigError for other names.
    """
    chosen = list(SEED_SETS) if "all" in names else names
    unknown = [name for name in chosen if name not in DRIVE_IDS]
    if unknown or not chosen:
        raise ConfigError(f"weights pull: {unknown[0] if unknown else 'nothing'!r} cannot be pulled; {_choices()} can")
    taken = []
    for name in chosen:
        archive = _fetch(name, progress or (lambda *_: None))
        taken += import_weights(archive, progress)
        archive.unlink()
    return taken


def _fetch(name: str, progress: Progress) -> Path:
    try:
        import gdown  # noqa: PLC0415  an extra: only a pull needs it
    except ImportError as error:
        raise WeightsUnavailable("pulling needs gdown: pip install 'streamwatch[weights]'") from error
    store = store_directory()
    archive = store / f"{name}.download"
    _require_space(store, name)
    try:
        gdown.download(
            id=DRIVE_IDS[name],
            output=str(archive),
            quiet=True,
            use_cookies=False,
            resume=True,
            retries=3,
            timeout=TIMEOUT,
            progress=lambda done, total: progress(f"pull {name}", done, total),
        )
    except (OSError, gdown.exceptions.DownloadError, gdown.exceptions.FileURLRetrievalError) as error:
        raise WeightsUnavailable(_explain(name, error)) from error
    if not archive.is_file():
        raise WeightsUnavailable(f"{name}: nothing was fetched")
    return archive


def _require_space(store: Path, name: str) -> None:
    try:
        store.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(store).free
    except OSError as error:
        raise WeightsUnavailable(f"{store}: cannot be used: {error.strerror or error}") from error
    fetched = sum(part.stat().st_size for part in store.glob(f"{name}.download*"))
    needed = ARCHIVE_BYTES + WORKING_BYTES - fetched
    if free < needed:
        raise WeightsUnavailable(f"{name}: needs {needed / 1e9:.0f} GB in {store}, {free / 1e9:.1f} GB are free")


def _explain(name: str, error: Exception) -> str:
    """One line for people: what could not be done, why, and what else they can do."""
    by_hand = f"get {_url(name)} in a browser, then `streamwatch weights import FILE`"
    if isinstance(error, StreamWatchError):
        return str(error)
    links = [error, error.__cause__, error.__context__]
    if any(_is_connection_error(link) for link in links if link is not None):
        return f"{name}: drive.google.com cannot be reached; {by_hand}"
    detail = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{name}: the host refuses it (too many downloads of late, or no access): {detail[:150]}; {by_hand}"


def _is_connection_error(error: BaseException) -> bool:
    # requests' own errors derive from OSError; their names are all that is needed, without importing requests here.
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in (
        "ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError",
    )  # fmt: skip


def _url(name: str) -> str:
    return f"https://drive.google.com/file/d/{DRIVE_IDS[name]}"


def _choices() -> str:
    return ", ".join([*DRIVE_IDS, "all"])
