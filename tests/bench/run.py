"""Runs every bench script in a process of its own, one after another, and says at the end what was missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    """Runs the scripts whose name contains one of `names` (all without names); returns 1 when one missed a goal."""
    scripts = [
        script for script in sorted(HERE.glob("bench_*.py")) if not names or any(name in script.stem for name in names)
    ]
    missed = []
    for script in scripts:
        print(f"\n{script.stem}", flush=True)
        if subprocess.run([sys.executable, str(script)], check=False).returncode:
            missed.append(script.stem)
    print(
        f"\n{len(scripts) - len(missed)} of {len(scripts)} met all goals"
        + (f"; missed: {', '.join(missed)}" if missed else "")
    )
    return 1 if missed or not scripts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
