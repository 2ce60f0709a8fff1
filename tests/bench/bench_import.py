"""`import skilllab` against `import pandas`, each in a fresh interpreter, in turns."""

from __future__ import annotations

import random
import subprocess
import sys
import time

from harness import report, row

ROUNDS = 15


def seconds(statement: str) -> float:
    """Returns how long a fresh interpreter takes for the statement, its own start included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    statements = ["import skilllab; skilllab.InMemorySkillRegistry", "import pandas", "pass"]
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for statement in statements:
        seconds(statement)
    order = random.Random(0)
    for _ in range(ROUNDS):
        for statement in order.sample(statements, len(statements)):
            times[statement].append(seconds(statement))
    ours, pandas, nothing = (times[statement] for statement in statements)
    without_start = [
        row(
            "import skilllab and its registry, without the interpreter's start",
            "import pandas",
            [max(a - c, 1e-6) for a, c in zip(ours, nothing, strict=True)],
            [max(b - c, 1e-6) for b, c in zip(pandas, nothing, strict=True)],
            at_most=0.75,
        )
    ]
    report(without_start)


if __name__ == "__main__":
    main()
