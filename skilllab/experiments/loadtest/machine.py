"""The machine during a test: how busy its processors were, and with what; read from /proc, nothing where there is none."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skilllab.programs.tree import tree_cpu_time

_TICK = os.sysconf("SC_CLK_TCK")
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the processors did meanwhile, in shares of all of them (0 to 1); None where the system does not say.

    load: processes that wanted to run in the minute before the begin, for each processor. busy: all work. steal: what the
    host gave to others. generator: the process that sends, in shares of one processor. others: work of processes that
    this one did not start.
    """

    cpus: int
    generator: float
    load: float | None = None
    busy: float | None = None
    steal: float | None = None
    others: float | None = None


class _Ticks(NamedTuple):
    """Seconds of all processors since the start of the machine."""

    all: float
    idle: float
    steal: float


class Meter:
    """Reads the counters when it is made, and what they gained since whenever it is read."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._ticks, self._own, self._tree, self._at = _ticks(), time.process_time(), _tree(), time.perf_counter()

    def read(self) -> Machine:
        """Returns what the machine did since the meter was made."""
        cpus = os.cpu_count() or 1
        own, tree = time.process_time() - self._own, _tree() - self._tree
        generator = own / max(1e-9, time.perf_counter() - self._at)
        load = None if self._load is None else self._load / cpus
        now = _ticks()
        if now is None or self._ticks is None or now.all <= self._ticks.all:
            return Machine(cpus, generator, load)
        gone, idle, steal = (after - before for after, before in zip(now, self._ticks, strict=True))
        busy = max(0.0, gone - idle - steal)
        others = max(0.0, busy - own - tree)
        return Machine(cpus, generator, load, busy / gone, max(0.0, steal) / gone, others / gone)


def _ticks() -> _Ticks | None:
    try:
        fields = [int(field) / _TICK for field in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return _Ticks(sum(fields), fields[3] + fields[4], fields[7])


def _tree() -> float:
    """Returns the seconds of processor time that the descendants of this process spent."""
    return tree_cpu_time(os.getpid())
