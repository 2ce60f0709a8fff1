"""Tightening: limits as the system takes them, by what this machine holds them with."""

from __future__ import annotations

from skilllab.engine.workers.machine import Machine
from skilllab.model import ResourceLimits
from skilllab.settings import WORKER_BACKSTOP_TASKS

_TO_SET = {
    "max_memory": "address_space",
    "max_file_size": "file_size",
    "max_open_files": "open_files",
}


def limits_to_set(limits: ResourceLimits, machine: Machine, command: bool = False) -> dict[str, int]:
    """Returns what a worker sets on itself, by the names of skilllab.programs.rlimits."""
    found = {inner: getattr(limits, name) for name, inner in _TO_SET.items() if getattr(limits, name) is not None}
    if "memory" in machine.places:
        found.pop("address_space", None)
    if "pids" not in machine.places and not machine.root:
        # Counted by the system for the whole user, or, in bubblewrap, for the sandbox: what is there already comes on top.
        found["more_processes"] = more_tasks(limits.max_processes, command)
    return found


def more_tasks(max_processes: int | None, command: bool) -> int:
    """Returns how many tasks may come on top of those at rest: a worker is one of its skill's, but for a command."""
    if max_processes is None:
        return WORKER_BACKSTOP_TASKS
    return max_processes if command else max_processes - 1
