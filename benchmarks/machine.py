"""What a figure was measured on: printed above every result."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe() -> str:
    """`2026-11-22, AMD EPYC, 2 cores, AVX2, 24 GB, Linux x86_64, Python 3.11.7, torch 2.15.0`"""
    memory = psutil.virtual_memory().total / 1e9
    parts = [
        datetime.now(UTC).date().isoformat(),
        processor(),
        f"{len(psutil.Process().cpu_affinity())} cores" if hasattr(psutil.Process(), "cpu_affinity") else "",
        torch.backends.cpu.get_cpu_capability(),
        f"{memory:.0f} GB",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"load {psutil.getloadavg()[0]:.1f}",
    ]
    return ", ".join(part for part in parts if part)
