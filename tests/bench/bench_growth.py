"""What a million executions leave behind: nothing that grows with their number, the garbage collector off."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from harness import Row, report

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from growth import grown

CALLS = 1_000_000
GOAL = 1e-3  # an execution


def main() -> None:
    counts = asyncio.run(grown(CALLS, kinds=("fake",)))
    shares = [count / CALLS for count in counts]
    report(
        [
            Row(
                "objects and memory blocks left an execution",
                "none",
                max(shares),
                min(shares),
                max(shares),
                "at most",
                GOAL,
            )
        ]
    )


if __name__ == "__main__":
    main()
