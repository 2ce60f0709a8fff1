"""The machine during a test: how busy its processors were, and with what; read from /proc, nothing where there is none."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skilllab.programs.tree import cpu_time, tree_cpu_time

_TICK = os.sysconf("SC_CLK_TCK")
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the processors did meanwhile, in shares of all of them (0 to 1); None where the system does not say.

    load: processes that wanted to run in the minute before the begin, for each processor. busy: all work. steal: what the
    host gave to others. generator: the process that sends, in shares of one processor. others: work of processes outside
    the tree of the one that asked for the test; a server that it did not start is among them, also when it is what is tested.
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
    """Reads the counters when it is made, and what they gained since whenever it is read.

    home: the process whose work, with that of all its descendants, is no work of others; this one unless given.
    """

    def __init__(self, home: int | None = None) -> None:
        self._home = os.getpid() if home is None else home
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._ticks, self._own, self._at = _ticks(), time.process_time(), time.perf_counter()
        self._ours = self._spent()

    def read(self) -> Machine:
        """Returns what the machine did since the meter was made."""
        cpus = os.cpu_count() or 1
        ours = self._spent() - self._ours
        generator = (time.process_time() - self._own) / max(1e-9, time.perf_counter() - self._at)
        load = None if self._load is None else self._load / cpus
        now = _ticks()
        if now is None or self._ticks is None or now.all <= self._ticks.all:
            return Machine(cpus, generator, load)
        gone, idle, steal = (after - before for after, before in zip(now, self._ticks, strict=True))
        busy = max(0.0, gone - idle - steal)
        others = max(0.0, busy - ours)
        return Machine(cpus, generator, load, busy / gone, max(0.0, steal) / gone, others / gone)

    def _spent(self) -> float:
        """Returns the seconds of processor time that the home process and its descendants spent."""
        return cpu_time(self._home) + tree_cpu_time(self._home)


def _ticks() -> _Ticks | None:
    try:
        fields = [int(field) / _TICK for field in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return _Ticks(sum(fields), fields[3] + fields[4], fields[7])
