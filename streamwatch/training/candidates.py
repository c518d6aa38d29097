"""Networks, and sets of them, side by side before one is exported: NAME=CHECKPOINT or NAME=DIRECTORY:MEMBER for each.

Every network sees the faces and the mirrored faces: two *looks*, NAME and NAME'. A set of looks is calibrated as
`calibrate` does and measured as `evaluate` does, from what each look said, so that hundreds of sets cost no more
scoring than their networks. What is chosen by these figures is flattered by them: by default the clips are those of
the half that calibrates, and the other half is left for `evaluate`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from streamwatch.domain import Floats, Image
from streamwatch.errors import ConfigError, StreamWatchError
from streamwatch.inference.ensemble import Ensemble, LoadedMember, probe_crops
from streamwatch.inference.folding import folded
from streamwatch.inference.members import MaskMember, MemberSpec
from streamwatch.training.bundle import member_bytes, new_member, open_network
from streamwatch.training.calibrate import Evidence, calibrate
from streamwatch.training.clips import ClipFaces, Sampling, all_clip_faces, split_groups
from streamwatch.training.faces import UNREADABLE, DatasetError, read_arrays, write_arrays
from streamwatch.training.heldout import CALIBRATION_SEED, find_reconstruct, held_out
from streamwatch.training.layouts import find_clips
from streamwatch.training.metrics import FEWEST_GROUPS, Interval, auc, auc_gain, grouped_auc
from streamwatch.training.own import bundled_finder
from streamwatch.training.scored import ScoredClip, clips_of, false_alarms, fused_logits, score_crops

MIRRORED = "'"
AS_THEY_ARE = "clips"
CROP_SIDE = 224


class Candidate(NamedTuple):
    """A network's name, its checkpoint or DIRECTORY:MEMBER, and its input in pixels (0: what its training ended at)."""

    name: str
    place: str
    pixels: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What looks said, a column each, uncalibrated: of the faces that calibrate (N, looks), of those held out, and of

    clips as they are and compressed further. The clips of the groups `choose` calibrate too."""

    names: tuple[str, ...]
    calibrating: Floats
    calibrating_labels: npt.NDArray[np.int64]
    held_out: Floats
    held_out_labels: npt.NDArray[np.int64]
    heavy: npt.NDArray[np.bool_]
    clips: Mapping[str, Sequence[ScoredClip]]
    choose: frozenset[str]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one set, at its own threshold. `clips` is their pooled AUC, by compression; `over` are the fakes and `wrong`

    the reals that reach the threshold as whole clips, of how many; `alarms` are 10 s windows on real clips."""

    names: tuple[str, ...]
    held_out: float
    heavy: float
    clips: Mapping[str, Interval]
    methods: Mapping[str, float]
    over: Mapping[str, tuple[int, int]]
    wrong: tuple[int, int]
    alarms: int
    threshold: float
    logits: Mapping[str, Floats]
    """Each clip's, by compression."""


def parse_candidate(text: str) -> Candidate:
    """`N4=runs/N4/checkpoint.pt@160`; ConfigError where it is malformed."""
    name, separator, rest = text.partition("=")
    place, at, pixels = rest.rpartition("@")
    if not at or not pixels.isdigit():
        place, pixels = rest, "0"
    if not (separator and name.isalnum() and place) or int(pixels) > CROP_SIDE:
        wanted = (
            f"NAME=CHECKPOINT or NAME=DIRECTORY:MEMBER, with @PIXELS of at most {CROP_SIDE} where the input changes"
        )
        raise ConfigError(f"networks: {text!r} is not {wanted}")
    return Candidate(name, place, int(pixels))


def open_looks(candidate: Candidate) -> dict[str, MaskMember]:
    """The network under its name, and the same on the mirrored face. ConfigError where it is no network."""
    opened = open_network(candidate.place, candidate.name)
    if opened is None:
        raise ConfigError(f"networks: {candidate.place} is neither a checkpoint (.pt) nor DIRECTORY:MEMBER")
    looks = {}
    for mark in ("", MIRRORED):
        spec = opened[0].spec
        spec = replace(spec, mirrored=bool(mark), input_size=candidate.pixels or spec.input_size)
        if spec.input_size > CROP_SIDE:
            raise ConfigError(f"networks: {candidate.name} looks at {spec.input_size} px, and crops have {CROP_SIDE}")
        looks[candidate.name + mark] = _with_spec(opened[0], spec)
    return looks


def _with_spec(member: MaskMember, spec: MemberSpec) -> MaskMember:
    copy = new_member(spec)
    copy.load_state_dict(member.state_dict())
    return copy.eval()


class Scorer:
    """What each look says of crops; kept in a folder, if there is one, by what the network and the pictures are."""

    def __init__(self, looks: Mapping[str, MaskMember], cache: Path | None) -> None:
        self.looks = looks
        self._cache = cache
        self._digests = {
            name: hashlib.sha256(member_bytes(look) + repr(look.spec).encode()).hexdigest()
            for name, look in looks.items()
        }

    def score(self, crops: Image, what: str) -> Floats:
        """Crops (N, S, S, 3) to raw logits (N, looks)."""
        pictures = hashlib.sha256(np.ascontiguousarray(crops).tobytes()).hexdigest()
        rows = [self._column(name, crops, pictures) for name in track(self.looks, what)]
        return np.stack(rows, 1)

    def _column(self, name: str, crops: Image, pictures: str) -> Floats:
        key = hashlib.sha256(f"{self._digests[name]} {pictures}".encode()).hexdigest()[:24]
        path = self._cache / f"look_{key}.npz" if self._cache else None
        if path is not None:
            try:
                return np.asarray(read_arrays(path, "logits")["logits"], np.float32)
            except UNREADABLE:
                path.parent.mkdir(parents=True, exist_ok=True)
        look = self.looks[name]
        size = look.spec.input_size
        example = torch.from_numpy(probe_crops(1, size)).permute(0, 3, 1, 2) / 255
        logits = score_crops(Ensemble([LoadedMember(name, folded(look, example), size)]), crops)[0][:, 0]
        if path is not None:
            write_arrays(path, logits=logits)
        return logits


def score_faces(scorer: Scorer, clips: Sequence[ClipFaces], what: str) -> list[ScoredClip]:
    """Every clip that has a face, with the looks' raw logits; they are not fused."""
    found = [faces for faces in clips if len(faces.crops)]
    if not found:
        raise DatasetError(f"{what}: no face was found in any clip")
    logits = scorer.score(np.concatenate([faces.crops for faces in found]), what)
    parts = np.split(logits, np.cumsum([len(faces.crops) for faces in found])[:-1])
    return [
        ScoredClip(faces.clip, part, part.mean(1), faces.times, faces.heights, faces.coverage)
        for faces, part in zip(found, parts, strict=True)
    ]


def measure(views: Views, names: Sequence[str], rate: float) -> Figures:
    """The figures of a set of looks, calibrated so that at most `rate` of the real examples are over its threshold."""
    columns = [views.names.index(name) for name in names]
    seen = {kind: [_columns(clip, columns) for clip in clips] for kind, clips in views.clips.items()}
    calibrates = [clip for clip in seen[AS_THEY_ARE] if clip.clip.group in views.choose]
    calibration = calibrate(Evidence(views.calibrating[:, columns], views.calibrating_labels, calibrates), rate)
    temperatures, biases = np.array(calibration.temperatures), np.array(calibration.biases)

    def fused(raw: Floats) -> Floats:
        return fused_logits((raw + biases) / temperatures, "logit_mean").astype(np.float32)

    settled = {kind: [replace(clip, fused=fused(clip.members)) for clip in clips] for kind, clips in seen.items()}
    plain, held_out = settled[AS_THEY_ARE], fused(views.held_out[:, columns])
    limit = float(np.log(calibration.threshold / (1 - calibration.threshold)))
    return Figures(
        tuple(names),
        auc(views.held_out_labels, held_out),
        auc(views.held_out_labels[views.heavy], held_out[views.heavy]),
        {kind: _auc(clips) for kind, clips in settled.items()},
        {method: _auc_of_method(plain, method) for method in _methods(plain)},
        {kind: _reaching(clips, 1, limit) for kind, clips in settled.items()},
        _reaching(plain, 0, limit),
        false_alarms(plain, limit).count,
        calibration.threshold,
        {kind: np.array([clip.logit for clip in clips], np.float32) for kind, clips in settled.items()},
    )


def merit(figures: Figures, views: Views) -> float:
    """What sets are ordered by: the AUC of held-out fakes, and the mean over all compressions of that of the clips that

    calibrate, weighing the same."""
    clips = []
    for kind, scored in views.clips.items():
        rows = [index for index, clip in enumerate(scored) if clip.clip.group in views.choose]
        clips.append(auc([scored[index].clip.label for index in rows], figures.logits[kind][rows]))
    return 0.5 * (figures.held_out + float(np.mean(clips)))


def _columns(clip: ScoredClip, columns: Sequence[int]) -> ScoredClip:
    return replace(clip, members=clip.members[:, list(columns)])


def _auc(clips: Sequence[ScoredClip]) -> Interval:
    labels = [clip.clip.label for clip in clips]
    return grouped_auc(labels, [clip.logit for clip in clips], [clip.clip.group for clip in clips], rounds=200)


def _methods(clips: Sequence[ScoredClip]) -> list[str]:
    """Those of which there are enough groups to say something."""
    groups: dict[str, set[str]] = {}
    for scored in clips:
        if scored.clip.label == 1:
            groups.setdefault(scored.clip.method, set()).add(scored.clip.group)
    return sorted(method for method, names in groups.items() if len(names) >= FEWEST_GROUPS)


def _auc_of_method(clips: Sequence[ScoredClip], method: str) -> float:
    rows = [clip for clip in clips if clip.clip.label == 0 or clip.clip.method == method]
    return auc([clip.clip.label for clip in rows], [clip.logit for clip in rows])


def _reaching(clips: Sequence[ScoredClip], label: int, limit: float) -> tuple[int, int]:
    scores = [clip.logit for clip in clips if clip.clip.label == label]
    return sum(score >= limit for score in scores), len(scores)


def parse_set(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """`A,B'`: looks that are there, none twice."""
    parts = tuple(filter(None, text.split(",")))
    unknown = [part for part in parts if part not in names]
    if not parts or unknown or len(set(parts)) < len(parts):
        raise ConfigError(
            f"sets: {text!r}: {unknown[0] if unknown else 'none, or one twice'}; there are {', '.join(names)}"
        )
    return parts


def sets_of(names: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Every set of so many looks, of which no two are of one network."""
    chosen = itertools.combinations(names, count)
    return [looks for looks in chosen if len({look.rstrip(MIRRORED) for look in looks}) == count]


def table(figures: Sequence[Figures], clips: Sequence[ScoredClip], reference: Figures | None = None) -> str:
    """Markdown. With `reference`, what each set gains over it on all clips, drawn group by group for both at once."""
    kinds = list(figures[0].clips)
    methods = list(figures[0].methods)
    heads = ["set", "held-out", "heavy", *kinds, *methods, "fakes over", "reals over", "false alarms", "threshold"]
    heads += [f"over at {kind}" for kind in kinds[1:]] + (["gain"] if reference else [])
    lines = [_row(heads), _row(["---"] * len(heads))]
    labels, groups = [clip.clip.label for clip in clips], [clip.clip.group for clip in clips]
    for one in figures:
        cells = [", ".join(one.names), f"{one.held_out:.3f}", f"{one.heavy:.3f}"]
        cells += [str(one.clips[kind]) for kind in kinds] + [f"{one.methods[method]:.3f}" for method in methods]
        cells += [f"{count} of {of}" for count, of in (one.over[kinds[0]], one.wrong)]
        cells += [str(one.alarms), f"{one.threshold:.3f}"] + [str(one.over[kind][0]) for kind in kinds[1:]]
        if reference:
            gain = auc_gain(labels, one.logits[kinds[0]], reference.logits[kinds[0]], groups)
            cells.append(str(gain) if one is not reference else "")
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("networks", nargs="+", help="NAME=CHECKPOINT or NAME=DIRECTORY:MEMBER, and @PIXELS")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with faces/ and clips/")
    parser.add_argument("--clips", type=Path, help="other labelled clips: a CSV or a data set's folder")
    parser.add_argument("--half", choices=("calibrate", "all"), default="calibrate", help="clips that are measured on")
    parser.add_argument("--recode", type=int, nargs="*", default=[], metavar="CRF", help="and after x264 at these")
    parser.add_argument(
        "--sets", nargs="*", default=[], help="sets to measure, such as A,B' (the first: what others gain over)"
    )
    parser.add_argument("--of", type=int, default=0, metavar="N", help="also every set of so many looks")
    parser.add_argument("--best", type=int, default=20, help="how many of these are told")
    parser.add_argument("--autoencoders", type=Path, help="folder of auto-encoders for reconstructed fakes")
    parser.add_argument("--pairs", type=int, default=300, help="held-out pairs of a real face and its fake")
    parser.add_argument("--rate", type=float, default=1.0, help="frames per second of the clips")
    parser.add_argument("--false-alarms", type=float, default=0.05, help="share of real examples that may alarm")
    parser.add_argument("--cache", type=Path, help="folder that keeps the clips' faces, and what was said of them")
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.pairs < 1 or args.rate <= 0 or not all(0 <= crf <= 51 for crf in args.recode):
        raise ConfigError("candidates: needs --pairs of at least 1, --rate above 0, and --recode of 0 to 51")
    if not 0 <= args.of <= len(args.networks) or args.best < 1 or not 0 <= args.false_alarms < 1:
        limits = f"--of 0 to {len(args.networks)}, the networks, --best at least 1, --false-alarms 0 to 1"
        raise ConfigError(f"candidates: needs {limits}")
    candidates = [parse_candidate(text) for text in args.networks]
    looks: dict[str, MaskMember] = {}
    for candidate in candidates:
        looks |= open_looks(candidate)
    if len(looks) < 2 * len(candidates):
        raise ConfigError("networks: a name is given twice")
    names = tuple(looks)
    wanted = [parse_set(text, names) for text in args.sets]
    views = _views(args, Scorer(looks, args.cache))
    clips = views.clips[AS_THEY_ARE]
    print(table([measure(views, [name], args.false_alarms) for name in names], clips))
    if wanted:
        sets = [measure(views, one, args.false_alarms) for one in wanted]
        print("\n" + table(sets, clips, sets[0]))
    if args.of:
        sets = [measure(views, one, args.false_alarms) for one in track(sets_of(names, args.of), "sets")]
        sets.sort(key=lambda one: merit(one, views), reverse=True)
        print(f"\nOf {len(sets)} sets, by held-out fakes and the clips that calibrate:\n")
        print(table(sets[: args.best], clips))
    return 0


def _views(args: argparse.Namespace, scorer: Scorer) -> Views:
    place = clips_of(args.data_dir, args.clips)
    if place is None:
        raise ConfigError("candidates: no clips to measure on: give --clips")
    clips = find_clips(place)
    choose, _ = split_groups(clips)
    if args.half == "calibrate":
        clips = [clip for clip in clips if clip.group in choose]
    finder, version = bundled_finder()
    scored: dict[str, list[ScoredClip]] = {}
    for kind, crf in {AS_THEY_ARE: None, **{f"CRF {crf}": crf for crf in args.recode}}.items():
        sampling = Sampling(args.rate, 0, CROP_SIDE, crf)
        scored[kind] = score_faces(scorer, all_clip_faces(clips, finder, sampling, args.cache, version), kind)
    reconstruct = find_reconstruct(args.autoencoders)
    faces = held_out(args.data_dir, args.pairs, CROP_SIDE, reconstruct)
    others = held_out(args.data_dir, args.pairs, CROP_SIDE, reconstruct, CALIBRATION_SEED)
    return Views(
        tuple(scorer.looks),
        scorer.score(others.crops, "calibration"),
        others.labels,
        scorer.score(faces.crops, "held-out"),
        faces.labels,
        np.array(faces.compression) == "heavy",
        scored,
        frozenset(choose),
    )


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    try:
        raise SystemExit(run(_parser.parse_args()))
    except StreamWatchError as _error:
        raise SystemExit(f"candidates: {_error}") from _error
