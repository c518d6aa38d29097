"""Finding labelled clips: a CSV, or the folders that FaceForensics++, Celeb-DF and DFDC come in."""

from __future__ import annotations

import json
from pathlib import Path

from streamwatch.training.clips import Clip, read_clips
from streamwatch.training.faces import DatasetError

VIDEO = "*.mp4"


def find_clips(place: Path) -> list[Clip]:
    """The clips of a CSV or of a data set's folder; DatasetError says which layouts were looked for."""
    if place.is_file():
        return read_clips(place)
    for layout in (_faceforensics, _celeb_df, _dfdc):
        clips = layout(place)
        if clips:
            return clips
    raise DatasetError(
        f"{place}: neither a CSV nor a folder of FaceForensics++ (original_sequences, manipulated_sequences), "
        "Celeb-DF (Celeb-real, Celeb-synthesis) or DFDC (metadata.json)"
    )


def _faceforensics(root: Path) -> list[Clip]:
    """`original_sequences/SOURCE/cNN/videos/000.mp4`, `manipulated_sequences/METHOD/cNN/videos/000_003.mp4`."""
    originals = sorted(root.glob(f"original_sequences/*/*/videos/{VIDEO}"))
    clips = [Clip(path, 0, "none", path.stem, source=f"ffpp_{path.parts[-3]}") for path in originals]
    for path in sorted(root.glob(f"manipulated_sequences/*/*/videos/{VIDEO}")):
        method, quality = path.parts[-4], path.parts[-3]
        clips.append(Clip(path, 1, method, path.stem.split("_")[0], source=f"ffpp_{quality}"))
    return clips


def _celeb_df(root: Path) -> list[Clip]:
    """`Celeb-real/id0_0000.mp4`, `YouTube-real/00000.mp4`, `Celeb-synthesis/id0_id16_0000.mp4`; groups are people."""
    clips = []
    for folder, label in (("Celeb-real", 0), ("YouTube-real", 0), ("Celeb-synthesis", 1)):
        for path in sorted((root / folder).glob(VIDEO)):
            person = path.stem.split("_")[0]
            group = f"{folder}_{person}" if folder == "YouTube-real" else person
            clips.append(Clip(path, label, "Celeb-DF" if label else "none", group, source="celeb_df"))
    return clips


def _dfdc(root: Path) -> list[Clip]:
    """`metadata.json` beside its videos, in the folder or in its parts: {"a.mp4": {"label", "original"}}."""
    clips = []
    for table in sorted([*root.glob("metadata.json"), *root.glob("*/metadata.json")]):
        try:
            entries = json.loads(table.read_text(encoding="utf-8"))
            for name, entry in sorted(entries.items()):
                label = {"REAL": 0, "FAKE": 1}[entry["label"]]
                group = Path(entry.get("original") or name).stem
                clips.append(Clip(table.parent / name, label, "DFDC" if label else "none", group, source="dfdc"))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise DatasetError(f"{table}: is not DFDC's metadata (label REAL or FAKE per file): {error!r}") from error
    return clips
