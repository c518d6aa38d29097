"""All benchmarks, one after another: `make bench`. Each prints its hardware; ratios count, absolute times are noise."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("pipeline", "detector", "ensemble", "ingest", "alerts", "websockets", "scan", "dashboard")


def main() -> int:
    failed = 0
    for name in BENCHMARKS:
        print(f"\n== {name} ==", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
