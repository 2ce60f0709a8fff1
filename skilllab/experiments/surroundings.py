"""What a measurement depends on beside its parameters: machine, versions, the commit of the working folder.

Nothing here tells who runs it: no host name, no user, no environment variable, no path.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from skilllab.settings import GIT_TIMEOUT

PACKAGES = ("skilllab", "aiohttp", "cachetools", "cloudpickle", "jsonschema-rs", "mcp", "numba", "numpy", "pydantic")
"""Packages whose versions can change what is measured."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit that a folder is at, and whether files that git knows have been changed since."""

    id: str
    dirty: bool


@functools.cache
def machine() -> dict[str, str | int]:
    """Returns the model of the processor, the cores that this process may use, the kernel and the Python."""
    return {
        "cpu": _cpu(Path("/proc/cpuinfo")),
        "cores": _cores(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of those of PACKAGES that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path | None = None, *, timeout: float = GIT_TIMEOUT) -> Commit | None:
    """Returns the commit of a folder (None: the working folder), or None where there is none or git does not say in time.

    timeout: seconds.
    """
    # Neither a file system monitor of the repository's choice is started nor its index written.
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks"]
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode(errors="replace").splitlines()
    (found,) = [line.rpartition(" ")[2] for line in lines if line.startswith("# branch.oid ")] or [""]
    dirty = any(not line.startswith("#") for line in lines)
    return Commit(found, dirty) if found.isalnum() else None  # "(initial)" before the first


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS binds no process to processors
        return os.cpu_count() or 1


def _cpu(cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.machine()
