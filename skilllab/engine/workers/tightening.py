"""Tightening: limits as the system takes them, by what this machine holds them with."""

from __future__ import annotations

import os

from skilllab.engine.workers.machine import Isolation, Machine
from skilllab.model import ResourceLimits
from skilllab.settings import WORKER_BACKSTOP_TASKS

_TO_SET = {
    "max_memory": "address_space",
    "max_file_size": "file_size",
    "max_open_files": "open_files",
    "max_processes": "processes",
}


def limits_to_set(limits: ResourceLimits, machine: Machine, isolation: Isolation) -> dict[str, int]:
    """Returns what a worker sets on itself, by the names of skilllab.programs.rlimits."""
    found = {inner: getattr(limits, name) for name, inner in _TO_SET.items() if getattr(limits, name) is not None}
    if "memory" in machine.places:
        found.pop("address_space", None)
    if "pids" in machine.places or machine.root:
        found.pop("processes", None)
    elif isolation == "bubblewrap":
        # Counted within the sandbox: the warm parent is there as well.
        found["processes"] = (limits.max_processes or WORKER_BACKSTOP_TASKS) + 1
    elif "processes" in found:
        found["processes"] += _tasks_of_user() + 1
    return found


def _tasks_of_user() -> int:
    """Returns how many tasks this user has."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    total += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return total
