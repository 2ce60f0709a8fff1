"""What a registry takes in memory, and what the usual instruments make of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from skilllab.experiments.queries.made_up import check_count, filled, make_skills

if TYPE_CHECKING:
    import pandas as pd


_FIRST_LOOK = 0.03  # s; %memit looks at once when the work starts, and every 0.1 s from then on


def brief_peak(size: int, duration: float) -> None:
    """Waits 30 ms, takes `size` bytes, holds them for `duration` seconds, and gives them back."""
    time.sleep(_FIRST_LOOK)
    held = b"x" * size  # written to: pages that nobody touched would not be resident
    time.sleep(duration)
    del held


def memory_by_line(profile: Any) -> pd.DataFrame:
    """Returns what memory_profiler.LineProfiler (%mprun -r) saw: each line that ran, and the bytes it added.

    The file's name and the line with the `def`, which stands for all memory there was before, are left out.
    """
    import linecache

    import pandas as pd

    rows = []
    for file, lines in profile.code_map.items():
        measured = [(number, added) for number, found in lines if found for added in found[:1]]
        rows += [(linecache.getline(file, number).strip(), round(added * 2**20)) for number, added in measured[1:]]
    return pd.DataFrame(rows, columns=["line", "added"])


def index_memory(count: int, *, seed: int = 0) -> dict[str, float]:
    """Returns bytes a skill that registering takes, without the definitions: "resident", and "python" as tracemalloc sees it.

    Measured in a fresh process, where nothing freed before could be used again. Raises InvalidValueError for a count
    below 1.
    """
    check_count(count)
    code = (
        f"from skilllab.experiments.queries.memory import _print_index_memory; _print_index_memory({count:d}, {seed:d})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _print_index_memory(count: int, seed: int) -> None:
    import tracemalloc

    from memory_profiler import memory_usage

    skills = make_skills(count, seed=seed)
    first = filled(skills)  # takes what the process had already, and what making the skills left free
    before = memory_usage()[0]
    kept = filled(skills)
    resident = (memory_usage()[0] - before) * 2**20
    tracemalloc.start()
    again = filled(skills)
    python, _ = tracemalloc.get_traced_memory()
    assert len(first) == len(kept) == len(again) == count
    sys.stdout.write(json.dumps({"resident": resident / count, "python": python / count}))
