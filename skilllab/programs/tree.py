"""Trees of processes, seen from outside: who descends from whom, what they use, and how they are ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    """Returns the children of a process; none when it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except OSError:
        return found
    return found


def descendants(pid: int) -> Iterator[int]:
    """Yields the children of a process, theirs, and so on; zombies among them."""
    waiting = children(pid)
    seen = set(waiting)
    while waiting:
        each = waiting.pop()
        yield each
        new = [child for child in children(each) if child not in seen]
        seen.update(new)
        waiting += new


def cpu_time(pid: int) -> float:
    """Returns the seconds that all threads of a process spent on a processor, to the microsecond; 0 when it is gone.

    The clock's number is made of the process's as the kernel does it (include/linux/posix-timers.h).
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def waited_cpu_time(pid: int) -> float:
    """Returns the seconds of those children that a process has waited for, to the clock tick."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / _TICK


def forgets_children(pid: int) -> bool:
    """Tells whether a process ignores SIGCHLD, so that the system forgets what its children spent (wait(2), Notes)."""
    try:
        rows = _read(f"/proc/{pid}/status").splitlines()
    except OSError:
        return False
    ignored = next((int(row.split()[1], 16) for row in rows if row.startswith("SigIgn:")), 0)
    return bool(ignored >> (signal.SIGCHLD - 1) & 1)


def is_running(pid: int) -> bool:
    """Tells whether a process runs, or waits for nothing but a processor."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] == "R"
    except OSError:
        return False


def tree_cpu_time(root: int) -> float:
    """Returns the seconds that the descendants of a process spent on a processor, those that are gone included."""
    spent = waited_cpu_time(root)
    for pid in descendants(root):
        spent += cpu_time(pid) + waited_cpu_time(pid)
    return spent


def memory(pid: int) -> int:
    """Returns the bytes that the descendants of a process hold, what they share counted once; 0 when they are gone.

    What stands in open files of memory (memfd_create, /dev/shm) counts also where nobody has mapped it.
    """
    pids = list(descendants(pid))
    held = resident(pids[0]) if len(pids) == 1 else sum(_proportional(each, "Pss") for each in pids)
    files = sum(_files_of_memory(pids).values())
    return held + max(0, files - sum(_proportional(each, "Pss_Shmem") for each in pids)) if files else held


def resident(pid: int) -> int:
    """Returns the bytes of a process in memory."""
    try:
        return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE
    except OSError:
        return 0


def _proportional(pid: int, what: str) -> int:
    """Returns a process's share of what is mapped: "Pss" is all of it, "Pss_Shmem" that of files of memory."""
    try:
        rows = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    except OSError:  # gone, or a process that lets nobody look: then all that it holds counts
        return resident(pid) if what == "Pss" else 0
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith(f"{what}:"))


def _files_of_memory(pids: Iterable[int]) -> dict[tuple[int, int], int]:
    """Returns the bytes of each open file that stands in memory alone, by device and inode."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    path = f"/proc/{pid}/fd/{name}"
                    if os.readlink(path).startswith(("/memfd:", "/dev/shm/")):
                        state = os.stat(path)
                        found[state.st_dev, state.st_ino] = state.st_blocks * 512
    return found


def kill(pid: int) -> None:
    """Sends SIGKILL; that it is gone already is as good."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Sends SIGKILL to a process that leads a group, and to the group: between two steps of all its members."""
    kill(pid)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def sweep() -> None:
    """Ends every descendant of this process, however fast they fork, and waits for their ends.

    Who calls is a child subreaper or the first process of a namespace, so that no descendant is lost to another parent.
    """
    alone_here = os.getpid() == 1
    while True:
        if alone_here:  # one call of the kernel reaches all others of the namespace, between two of their steps
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            for pid in tuple(descendants(os.getpid())):
                kill(pid)
        if not reap():
            return
        time.sleep(0.0002)


def reap() -> bool:
    """Waits for what has ended; returns whether children are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
