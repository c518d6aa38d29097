"""How a figure was asked for: it goes into manifests and cards, so that anyone can ask again."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def source_commit() -> str:
    """The commit of this package's source, with `-dirty` where it was changed since; '' where it is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def as_asked(*program: str, words: Sequence[str] | None = None) -> str:
    """The command line of this process (or `words`), without the places of this machine. `program` are its first words,

    such as streamwatch, calibrate."""
    given = list(sys.argv[1:] if words is None else words)
    for word in program[1:]:
        if given[:1] == [word]:
            del given[0]
    return shlex.join([*program, *(Path(w).name if w.startswith(("/", ".", "~")) else w for w in given)])
