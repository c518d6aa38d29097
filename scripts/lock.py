"""Writes requirements.lock (what the service needs) and requirements-dev.lock (what its tests need besides) from the
environment that runs this: plain version pins, with the platform markers that the packages themselves give.

    python scripts/lock.py

A package that only one platform needs (torch's CUDA libraries) is pinned for that platform alone, so that the same lock
installs on macOS and on ARM.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# What no requirement names: hatchling builds the editable install without its own environment.
TOOLS = ["editables"]


def closure(roots: list[str]) -> dict[str, set[str]]:
    """Package -> the markers under which something asks for it ("" for always)."""
    found: dict[str, set[str]] = {}
    todo = [(Requirement(root), "") for root in roots]
    seen: set[tuple[str, str, frozenset[str]]] = set()
    while todo:
        requirement, inherited = todo.pop()
        name = canonicalize_name(requirement.name)
        key = (name, inherited, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform or Python: its own marker keeps it out here
        found.setdefault(name, set()).add(inherited)
        for text in distribution.requires or []:
            child = Requirement(text)
            extras = requirement.extras or {""}
            if child.marker and not any(child.marker.evaluate({"extra": extra}) for extra in {*extras, ""}):
                continue
            todo.append((child, inherited or platform_marker(child)))
    return found


def platform_marker(requirement: Requirement) -> str:
    """The part of a requirement's marker that speaks of the platform."""
    text = str(requirement.marker) if requirement.marker else ""
    for variable in ("platform_system", "sys_platform"):
        if variable in text:
            parts = (part.strip(" ()") for part in text.split(" and "))
            return next((part for part in parts if variable in part and " or " not in part), "")
    return ""


def pins(packages: dict[str, set[str]], known: dict[str, str]) -> dict[str, str]:
    lines = {}
    for name, markers in sorted(packages.items()):
        if name in known or name == "streamwatch":
            continue
        version = metadata.version(name).partition("+")[0]
        marker = "" if "" in markers else " or ".join(sorted(markers))
        lines[name] = f"{name}=={version}" + (f" ; {marker}" if marker else "")
    return lines


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = pins(closure(project["dependencies"]), {})
    everything = [*project["dependencies"], *(line for group in extras.values() for line in group), *TOOLS]
    dev = pins(closure(everything), runtime)
    header = "# Written by scripts/lock.py; do not edit.\n"
    (ROOT / "requirements.lock").write_text(header + "\n".join(runtime.values()) + "\n")
    (ROOT / "requirements-dev.lock").write_text(header + "-r requirements.lock\n" + "\n".join(dev.values()) + "\n")


if __name__ == "__main__":
    main()
