"""What scoring faces costs, and what folding the networks saves: `python -m benchmarks.ensemble [--weights SET ...]`.

Milliseconds a face of each member of a weight set, by faces in a batch: as trained, with its norms folded, with its
paddings folded too, and with its convolutions packed, as float32 is served on a CPU. Then many faces in one call and in
several, as they are served. In turns, so that the ratios hold on a busy machine. Of several sets the first is taken
apart, and all are compared. Under two minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.machine import describe
from streamwatch.inference.ensemble import load_ensemble, probe_crops
from streamwatch.inference.folding import STEPS, folded, packed
from streamwatch.inference.weights import find_set
from streamwatch.training.bundle import load_bundled

ROUNDS = 9
MANY = 32


def in_turns(works: Sequence[Callable[[], object]]) -> list[float]:
    """Median milliseconds of each."""
    times: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for _ in range(ROUNDS):
        for work, taken in zip(works, times, strict=True):
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
    return [1000 * statistics.median(taken) for taken in times]


def main(threads: int, sets: Sequence[str], batches: Sequence[int]) -> None:
    torch.set_num_threads(threads)
    print(f"{describe()}; {threads} thread(s)")
    chosen = find_set(sets[0])
    whole = load_ensemble(chosen)
    whole.choose_dtype("float32")
    for batch in batches:
        totals = [0.0, 0.0, 0.0, 0.0]
        for member in whole.members:
            stored = load_bundled(Path(chosen.directory), member.name).eval().requires_grad_(False)
            pixels = torch.from_numpy(probe_crops(batch, member.input_size)).permute(0, 3, 1, 2) / 255
            x = pixels.contiguous(memory_format=torch.channels_last)
            ways = [stored, folded(stored, x[:1], STEPS[:1]), folded(stored, x[:1])]
            ways = [way.to(memory_format=torch.channels_last) for way in ways]
            with torch.inference_mode():
                ways.append(packed(ways[-1], x))
                times = in_turns([lambda way=way, x=x: way(x) for way in ways])  # type: ignore[misc]
            totals = [total + taken / batch for total, taken in zip(totals, times, strict=True)]
            print(f"{batch:2d} face(s) {member.name:9}" + _told([taken / batch for taken in times]))
        crops = torch.from_numpy(probe_crops(batch, whole.crop_size))
        (score,) = in_turns([lambda crops=crops: whole.score(crops)])  # type: ignore[misc]
        print(f"{batch:2d} face(s) together {_told(totals)}; Ensemble.score {score / batch:.1f} ms a face")
    compare(sets)
    crops = torch.from_numpy(probe_crops(MANY, whole.crop_size))
    with torch.inference_mode():
        once, served = in_turns([lambda: whole._views(crops), lambda: whole.score(crops)])
    print(f"{MANY} faces in one call {once / MANY:.1f} ms a face, as served {served / MANY:.1f} ({served / once:.2f})")


def compare(sets: Sequence[str], batch: int = 8) -> None:
    """What a face costs with each set."""
    loaded = [(find_set(name).record.version, load_ensemble(find_set(name))) for name in sets]
    for _, ensemble in loaded:
        ensemble.choose_dtype("float32")
    works = [lambda e=e: e.score(torch.from_numpy(probe_crops(batch, e.crop_size))) for _, e in loaded]
    times = in_turns(works)
    for (version, _), taken in zip(loaded, times, strict=True):
        print(f"{batch:2d} face(s) {version}: {taken / batch:.1f} ms a face ({taken / times[0]:.2f} of the first)")


def _told(times: Sequence[float]) -> str:
    trained, norms, paddings, served = times
    return (
        f" as trained {trained:5.1f} ms a face, norms folded {norms:5.1f} ({norms / trained:.2f}), "
        f"paddings too {paddings:5.1f} ({paddings / trained:.2f}), packed {served:5.1f} ({served / trained:.2f})"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", nargs="+", default=["bundled"], help="sets, by name or directory")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    given = parser.parse_args()
    main(given.threads, given.weights, given.batches)
