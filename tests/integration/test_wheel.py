"""The wheel, installed outside the checkout, finds its weights, its dashboard and its example configuration."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROBE = """
import pathlib, sys
import streamwatch
here = pathlib.Path(streamwatch.__file__).parent
assert str(here).startswith(sys.argv[1]), here
from streamwatch.config import load
from streamwatch.config import Config
assert load(here / "_data" / "config" / "streamwatch.yaml", {}).streams
from streamwatch.server.static import load as assets
assert any(name.endswith("index.html") for name in assets())
from streamwatch.inference.weights import bundled_directory, find_set, load_tensors
assert str(bundled_directory()).startswith(sys.argv[1])
chosen = find_set("bundled")
for member in chosen.record.members:
    load_tensors(chosen.directory / member.file, member.sha256)
print("fine", len(chosen.record.members))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_stands_alone(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "streamwatch/py.typed" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)

    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True)
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, str(site)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert probe.stdout.startswith("fine 4"), probe.stderr
    command = subprocess.run(
        [
            sys.executable,
            "-m",
            "streamwatch",
            "config",
            "check",
            str(site / "streamwatch/_data/config/streamwatch.yaml"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert command.returncode == 0, command.stderr
