"""From a key press on a slider to the new picture in a real browser: CachePanel against `interactive_output`.

Both stand in one JupyterLab session and draw the same curve; moves alternate. Needs Chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness import report, row

from skilllab import format as fmt
from skilllab.stats import quantile

sys.path.insert(0, str(Path(__file__).parent.parent / "browser"))
from latency import measure

MOVES = 20


def main() -> None:
    seconds = measure(moves=MOVES)
    panel, peer = seconds["panel"], seconds["interactive_output"]
    count = min(len(panel), len(peer))
    note = f"medians {fmt.duration(quantile(panel, 0.5))} and {fmt.duration(quantile(peer, 0.5))}"
    report(
        [row("slider to new plot", "interactive_output, inline", panel[:count], peer[:count], at_most=1 / 3, note=note)]
    )


if __name__ == "__main__":
    main()
