"""Usage: the CPU time of one call with all that it starts, as far as it can be known from outside."""

from __future__ import annotations

import os
import time

from skilllab.programs import tree
from skilllab.programs.cgroups import Counter

_CORES = os.cpu_count() or 1
_ROUNDING = 0.05  # s, more than what clock ticks cut off the times of children that were waited for


class CallUsage:
    """The CPU time of one call.

    Of children that nobody waits for (SIGCHLD ignored) the system forgets what they spent. Where no group counts it, it
    is estimated from samples, as clocks of old did: a process that is new and running stands for the time since the last
    look. That is used only once something was forgotten: on a busy machine it is too much.

    warm, worker: processes, seen from here. before: CPU seconds of the worker when the call began. group: the clock of the
    group they are in, if there is one. estimated: whether `cpu_time` is, so far.
    """

    def __init__(self, warm: int, worker: int, before: float, group: Counter | None) -> None:
        self._warm, self._worker, self._group = warm, worker, group
        self._worker_before = before
        self._looked = time.monotonic()
        self._last: dict[int, float] = {}
        self._seen = self._sampled = 0.0
        self.estimated = False
        # What was spent since the call began and before this first look is the call's as well.
        self._tree_before = self._tree() - self._own()

    def cpu_time(self) -> float:
        """Returns the seconds that were spent so far."""
        if self._group is not None:
            return self._tree() - self._tree_before
        self._look_below()
        own = self._own()
        counted = self._tree() - self._tree_before
        if not self.estimated and self._seen:
            forgotten = self._seen - (counted - own)
            self.estimated = forgotten > _ROUNDING or tree.forgets_children(self._worker)
        return max(counted, own + (self._sampled if self.estimated else self._seen))

    def _own(self) -> float:
        return max(0.0, tree.cpu_time(self._worker) - self._worker_before)

    def _tree(self) -> float:
        if self._group is not None:  # exact, whoever waits for whom
            return self._group.read() - tree.cpu_time(self._warm)
        return tree.tree_cpu_time(self._warm)

    def _look_below(self) -> None:
        """Adds what each process below the worker has spent since the last look."""
        now = time.monotonic()
        spent = {pid: tree.cpu_time(pid) for pid in tree.descendants(self._worker)}
        new = spent.keys() - self._last.keys()
        running = set(filter(tree.is_running, new))
        sample = (now - self._looked) * min(1.0, _CORES / max(1, len(running)))
        for pid, seconds in spent.items():
            more = max(0.0, seconds - self._last.get(pid, 0.0))
            self._seen += more
            self._sampled += max(more, sample) if pid in running else more
        self._last, self._looked = spent, now
