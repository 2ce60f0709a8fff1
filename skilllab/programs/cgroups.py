"""Control groups, version 1 or 2, where they are writable: what holds the memory and the tasks of a whole tree.

Their clock also counts the CPU time of processes that nobody waits for, which the system forgets otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

CONTROLLERS = ("memory", "pids", "cpu")
PREFIX = "skilllab-"
_FREE = {"1": "-1", "2": "max"}
_NAMES = {"cpuacct": "cpu", "cpu": ""}
"""Of controllers of version 1 that have another name here: there the clock is a controller of its own."""
_CLOCK = {"1": (b"", 1e-9), "2": (b"usage_usec ", 1e-6)}
_FILES = {
    "1": {
        "limit": "memory.limit_in_bytes",
        "swap": "memory.memsw.limit_in_bytes",
        "usage": "memory.usage_in_bytes",
        "peak": "memory.max_usage_in_bytes",
        "kills": "memory.oom_control",
        "clock": "cpuacct.usage",
    },
    "2": {
        "limit": "memory.max",
        "swap": "memory.swap.max",
        "usage": "memory.current",
        "peak": "memory.peak",
        "kills": "memory.events",
        "clock": "cpu.stat",
    },
}


class Place(NamedTuple):
    """A folder of the cgroup file system below which groups of a controller may be made, and its version."""

    folder: str
    version: str


class Cgroup:
    """One group: a folder below each of the `places`, by controller; where both are one folder, one group.

    name: must begin with PREFIX and the number of the process that it belongs to, so that others may clear it away.
    """

    def __init__(self, places: Mapping[str, Place], name: str) -> None:
        self.folders = {controller: os.path.join(place.folder, name) for controller, place in places.items()}
        self._versions = {controller: place.version for controller, place in places.items()}

    def create(self) -> None:
        """Makes the folders; raises OSError when that is not allowed."""
        for folder in dict.fromkeys(self.folders.values()):
            os.mkdir(folder)

    def join(self, pid: int) -> None:
        """Moves a process into the group."""
        for folder in dict.fromkeys(self.folders.values()):
            _write(folder, "cgroup.procs", str(pid))

    def processes(self) -> set[int]:
        """Returns the processes in the group."""
        return {pid for folder in self.folders.values() for pid in processes_in(folder)}

    def remove(self) -> bool:
        """Takes the folders away; returns whether that was possible, which needs all processes to have ended."""
        gone = [_removed(folder) for folder in dict.fromkeys(self.folders.values())]
        return all(gone)

    def hold_memory(self, more: int | None) -> int:
        """Lets the group use `more` bytes than it does now (None: any number); returns what it uses now."""
        version = self._versions["memory"]
        names, folder = _FILES[version], self.folders["memory"]
        usage = int(_read(folder, names["usage"]))
        limit = _FREE[version] if more is None else str(usage + more)
        swap = {"1": limit, "2": "max" if more is None else "0"}[version]
        # Version 1 wants the bound of memory and swap together never below that of memory alone.
        for what, value in (("swap", _FREE[version]), ("limit", limit), ("swap", swap)):
            if what == "limit" or os.path.exists(os.path.join(folder, names["swap"])):
                _write(folder, names[what], value)
        if more is not None and version == "1":
            _write(folder, names["peak"], "0")
        return usage

    def peak(self) -> int | None:
        """Returns the most bytes the group has used, None where the system does not tell."""
        try:
            return int(_read(self.folders["memory"], _FILES[self._versions["memory"]]["peak"]))
        except OSError:
            return None

    def counters(self) -> dict[str, Counter]:
        """Returns counters, by controller: processes killed because memory ran out, tasks refused, CPU seconds."""
        wanted = {name: self._counter(name) for name in self.folders}
        for path, _, _ in wanted.values():
            os.stat(path)  # all or none is opened
        return {name: Counter(*each) for name, each in wanted.items()}

    def clock(self) -> Counter | None:
        """Returns the counter of CPU seconds, None where there is none."""
        return Counter(*self._counter("cpu")) if "cpu" in self.folders else None

    def _counter(self, controller: str) -> tuple[str, bytes, float]:
        files = _FILES[self._versions[controller]]
        name, row, unit = {
            "memory": (files["kills"], b"oom_kill ", 1),
            "pids": ("pids.events", b"max ", 1),
            "cpu": (files["clock"], *_CLOCK[self._versions[controller]]),
        }[controller]
        return os.path.join(self.folders[controller], name), row, unit

    def hold_tasks(self, more: int | None) -> None:
        """Lets the group have `more` tasks (processes and their threads) than now; None takes the bound away."""
        folder = self.folders["pids"]
        bound = "max" if more is None else str(int(_read(folder, "pids.current")) + more)
        _write(folder, "pids.max", bound)

    def refuse_tasks(self) -> None:
        """Refuses every further process and thread, so that what is about to be ended cannot multiply."""
        if "pids" in self.folders:
            _write(self.folders["pids"], "pids.max", "0")


class Counter:
    """A number that a group counts, in a file that stays open: what follows `name`, which stands there once, times `unit`."""

    def __init__(self, path: str, name: bytes, unit: float = 1) -> None:
        self._name = name
        self._unit = unit
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> float:
        """Returns the number as it is now; 0 when the group is gone."""
        try:
            text = os.pread(self._descriptor, 4096, 0)
        except OSError:
            return 0
        begin = text.find(self._name) + len(self._name)
        return int(text[begin : text.find(b"\n", begin)]) * self._unit

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def processes_in(folder: str) -> list[int]:
    """Returns the processes in the folder of a group, none when it is gone."""
    try:
        return list(map(int, _read(folder, "cgroup.procs").split()))
    except OSError:
        return []


def candidates() -> dict[str, list[Place]]:
    """Returns, by controller, the folders below which this process might make groups, the nearest first."""
    found: dict[str, list[Place]] = {controller: [] for controller in CONTROLLERS}
    own = dict(_own_paths())
    for mount, root, kind, options in _mounts():
        if kind == "cgroup":
            for named in options.split(","):
                controller = _NAMES.get(named, named)
                if controller in found:
                    found[controller].append(Place(_inside(mount, root, own.get(named, "/")), "1"))
        elif kind == "cgroup2":
            folder = _inside(mount, root, own.get("", "/"))
            while f"{folder}/".startswith(f"{mount}/") and folder != "/":
                for controller in {*_words(folder, "cgroup.subtree_control"), "cpu"}:  # every group has a clock
                    if controller in found:
                        found[controller].append(Place(folder, "2"))
                folder = os.path.dirname(folder)
    return found


def writable(name: str) -> dict[str, Place]:
    """Returns the places, by controller, where a group can be made, entered and bounded: each was tried just now.

    name: of the group that it is tried with.
    """
    places: dict[str, Place] = {}
    for controller, options in candidates().items():
        for place in options:
            # In version 2 a process is in one group, so that all controllers must be had in the same place.
            elsewhere = any(other.version == place.version == "2" and other != place for other in places.values())
            if not elsewhere and _works(controller, place, name):
                places[controller] = place
                break
    return places


def is_stale(name: str, mine: str) -> bool:
    """Tells whether what has this name was left behind: its owner's process is gone, or it begins with `mine`."""
    if name.startswith(mine):
        return True
    owner = name.removeprefix(PREFIX).partition("-")[0]
    return name.startswith(PREFIX) and owner.isdigit() and not os.path.exists(f"/proc/{owner}")


def clear_stale(places: Mapping[str, Place], mine: str) -> None:
    """Ends what is left in groups that were left behind, and takes the groups away; see is_stale."""
    for folder in {place.folder for place in places.values()}:
        for name in os.listdir(folder):
            if is_stale(name, mine):
                stale = os.path.join(folder, name)
                for pid in processes_in(stale):
                    try:
                        os.kill(pid, 9)
                    except OSError:
                        continue
                _removed(stale)


_TRIALS: dict[str, Callable[[Cgroup], object]] = {
    "memory": lambda group: group.hold_memory(1 << 30),
    "pids": lambda group: group.hold_tasks(8),
    "cpu": lambda group: group.counters()["cpu"].close(),
}


def _works(controller: str, place: Place, name: str) -> bool:
    group = Cgroup({controller: place}, name)
    try:
        group.create()
    except OSError:
        return False
    import subprocess  # the supervisor, which asks nothing of this kind, starts the sooner

    # Not a fork: who asks may have threads.
    visitor = subprocess.Popen(["sleep", "10"], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        group.join(visitor.pid)
        _TRIALS[controller](group)
    except OSError:
        return False
    finally:
        visitor.kill()
        visitor.wait()
        group.remove()
    return True


def _own_paths() -> Iterator[tuple[str, str]]:
    for row in _read("/proc/self", "cgroup").splitlines():
        _, controllers, path = row.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts() -> Iterator[tuple[str, str, str, str]]:
    """Yields mount point, root inside the file system, kind and options of every cgroup file system."""
    for row in _read("/proc/self", "mountinfo").splitlines():
        before, _, after = row.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield before.split()[4], before.split()[3], kind, options


def _inside(mount: str, root: str, path: str) -> str:
    inside = os.path.relpath(path, root) if f"{path}/".startswith(f"{root.rstrip('/')}/") else "."
    return os.path.normpath(os.path.join(mount, inside))


def _words(folder: str, name: str) -> list[str]:
    try:
        return _read(folder, name).split()
    except OSError:
        return []


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="ascii") as file:
        return file.read()


def _write(folder: str, name: str, value: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="ascii") as file:
        file.write(value)
