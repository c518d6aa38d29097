"""Finding labelled clips: a CSV, or the folders that FaceForensics++, Celeb-DF and DFDC come in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
    """`original_sequences/SOURCE/cNN/videos/000.mp4`, `manipulated_sequences/METHOD/cNN/videos/000_003.mp4`: the

    footage of 000 with the face of 003. DeepFakeDetection has `01__kitchen_pan.mp4` and `01_02__kitchen_pan__ABC.mp4`.
    """
    clips = []
    for label, kind in enumerate(("original_sequences", "manipulated_sequences")):
        for path in sorted(root.glob(f"{kind}/*/*/videos/{VIDEO}")):
            people, *scene = path.stem.split("__")
            shown = people.split("_")
            if scene:  # of an actor, who are numbered anew
                shown = [f"actor{number}" for number in shown]
            method = path.parts[-4] if label else "none"
            footage = "__".join([shown[0], *scene[:1]])
            clips.append(_Shown(Clip(path, label, method, source=f"ffpp_{path.parts[-3]}", footage=footage), shown))
    return _grouped(clips)


def _celeb_df(root: Path) -> list[Clip]:
    """`Celeb-real/id0_0000.mp4`, `YouTube-real/00000.mp4`, `Celeb-synthesis/id0_id16_0000.mp4`."""
    clips = []
    for folder, label in (("Celeb-real", 0), ("YouTube-real", 0), ("Celeb-synthesis", 1)):
        for path in sorted((root / folder).glob(VIDEO)):
            *people, number = path.stem.split("_")
            shown = people or [f"{folder}_{number}"]
            clip = Clip(path, label, "Celeb-DF" if label else "none", source="celeb_df", footage=f"{shown[0]}_{number}")
            clips.append(_Shown(clip, shown))
    return _grouped(clips)


class _Shown(NamedTuple):
    """A clip without a group yet, and the people who are in it."""

    clip: Clip
    people: Sequence[str]


def _grouped(clips: Sequence[_Shown]) -> list[Clip]:
    """A swap shows two people: whoever is joined by a chain of swaps is of one group, named after the first of them."""
    first: dict[str, str] = {}

    def find(person: str) -> str:
        while first.setdefault(person, person) != person:
            person = first[person]
        return person

    for _, people in clips:
        joined = sorted(find(person) for person in people)
        first.update(dict.fromkeys(joined, joined[0]))
    return [replace(clip, group=find(people[0])) for clip, people in clips]


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
