"""Machine: what can be held here, found out by trying it once."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from skilllab.errors import InvalidValueError, IsolationError
from skilllab.frozen import FrozenDict
from skilllab.model import ResourceLimits
from skilllab.programs.cgroups import PREFIX, Place, writable

Isolation = Literal["bubblewrap", "process"]
ISOLATIONS: tuple[Isolation, ...] = ("bubblewrap", "process")
NAMESPACES = ("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--as-pid-1")
"""Namespaces of its own for everything, none below them, and an end with whoever started it."""

LEAST: dict[str, Any] = {"max_memory": 2**20, "max_disk": 2**16, "max_cpu_time": 0.001, "max_duration": 0.001}
"""The least that a limit may be, in its unit: with less a worker could not even answer."""

_log = logging.getLogger("skilllab")


def checked_isolation(isolation: object) -> None:
    """Raises InvalidValueError for what is no isolation."""
    if isolation is not None and isolation not in ISOLATIONS:
        raise InvalidValueError(f"isolation={isolation!r} must be one of {', '.join(map(repr, ISOLATIONS))}, or None")


class Machine(NamedTuple):
    """What limits can be held with.

    bubblewrap: the program's path, None where there is none. problem: why it does not work although it is there. places:
    where control groups can be made, by controller. root: whether this user is root, whom some limits do not bind.
    """

    bubblewrap: str | None
    problem: str
    places: Mapping[str, Place]
    root: bool

    def isolation(self, wanted: Isolation | None) -> Isolation:
        """Returns the isolation that there is: what is wanted, else bubblewrap, else process.

        Raises IsolationError when what is wanted cannot be had, and when bubblewrap is there but does not work: only
        who says so gives it up.
        """
        if wanted == "process":
            return "process"
        if self.bubblewrap is None:
            if wanted is None:
                _say_once()
                return "process"
            raise IsolationError(
                "isolation 'bubblewrap' is asked for, and there is no bubblewrap on this machine: on Debian or Ubuntu, "
                "apt-get install bubblewrap"
            )
        if self.problem:
            raise IsolationError(
                f"bubblewrap is installed but does not work here: {self.problem}. Allow user namespaces (sysctl "
                "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces), "
                "or ask for isolation='process', which holds limits but shuts nothing in"
            )
        return "bubblewrap"

    def unheld(self, limits: ResourceLimits, isolation: Isolation) -> dict[str, str]:
        """Returns the limits that cannot be held with this isolation, each with the reason."""
        reasons = {}
        if isolation == "process":
            if limits.max_disk is not None:
                reasons["max_disk"] = "only bubblewrap bounds what all files together take"
            if limits.max_network_requests is not None:
                reasons["max_network_requests"] = "only bubblewrap takes the network away"
        if limits.max_processes is not None and self.root and "pids" not in self.places:
            reasons["max_processes"] = "the system does not count processes of root, and no pids cgroup is writable"
        for name, least in LEAST.items():
            value = getattr(limits, name)
            if value is not None and value < least and name not in reasons:
                reasons[name] = f"a worker at rest needs more: allow {least} or more"
        return reasons


@functools.cache
def this_machine() -> Machine:
    """Returns what this machine can hold; tries it when first asked, which takes some 30 ms."""
    if sys.platform != "linux":
        raise IsolationError(f"worker processes with limits need Linux, and this is {sys.platform}")
    found = shutil.which("bwrap")
    problem = "" if found is None else _problem_of(found)
    places = writable(f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    return Machine(found, problem, FrozenDict(places), os.geteuid() == 0)


def _problem_of(bubblewrap: str) -> str:
    """Returns why bubblewrap does not work, or nothing."""
    argv = [bubblewrap, *NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or f"it ended with {done.returncode}") if done.returncode else ""


@functools.cache
def _say_once() -> None:
    _log.warning(
        "no bubblewrap on this machine: sandboxed tools run with isolation 'process', which holds limits but shuts nothing in"
    )
