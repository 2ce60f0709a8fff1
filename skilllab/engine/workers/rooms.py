"""Room: what an instance is made of; it turns into the command that starts a warm parent in it."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skilllab.engine.workers.machine import NAMESPACES, Isolation
from skilllab.errors import InvalidValueError

PACKAGE = Path(__file__).resolve().parents[2]
FOLDER = "/tmp"
_SHARED = 2**16  # bytes of shared memory for semaphores, as a part of the private folder's bound
_OWN = (FOLDER, "/proc", "/dev")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FROM_ETC = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "passwd",
    "group",
)
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_BOOT = "import sys; sys.path.insert(0, {!r}); from skilllab.programs.warm import main; main()"
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Room:
    """What an instance is made of: equal rooms can take each other's workers.

    isolation: what stands around it. own_folder: whether it begins in a private temporary folder with little of this
    process's environment, or as this process does. disk: bytes of that folder, in bubblewrap. paths: what can be read besides
    the system and the interpreter. env: variables besides the usual. cwd: where it begins; None is the private folder.
    preload: modules that the warm parent imports, that which runs this kind of skill first. path: where Python finds modules.
    """

    isolation: Isolation
    own_folder: bool
    disk: int
    paths: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    preload: tuple[str, ...] = ()
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in self.paths if self.isolation == "bubblewrap" else ():
            if _covers_own(path):
                raise InvalidValueError(
                    f"paths: {path!r} would cover what a sandbox has of its own ({', '.join(_OWN)}): name what is needed in it"
                )

    def opening(self, bubblewrap: str | None) -> dict[str, Any]:
        """Returns what the supervisor is told to open the room."""
        inside = self.isolation == "bubblewrap"
        python = [_interpreter(), "-I", "-S", "-c", _BOOT.format(str(PACKAGE.parent))]
        return {
            "argv": [*self._bubblewrap(bubblewrap or ""), *python] if inside else python,
            "env": self._environment(),
            "cwd": "/" if inside else self.cwd if self.own_folder else (self.cwd or os.getcwd()),
            "folder": self.own_folder and not inside,
            "settings": {
                "path": list(dict.fromkeys((str(PACKAGE.parent), *self.path))),
                "preload": self.preload,
                "folder": FOLDER if inside else None,
            },
        }

    def _environment(self) -> dict[str, str]:
        if self.isolation == "process" and not self.own_folder:
            env = dict(os.environ)
        else:
            env = {"PATH": _PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HOME": FOLDER, "TMPDIR": FOLDER}
            env |= {"PYTHONDONTWRITEBYTECODE": "1"}
        for name in _ONE_THREAD:  # more threads take address space that counts, and one core is what a skill gets
            env.setdefault(name, "1")
        return env | dict(self.env)

    def _bubblewrap(self, program: str) -> list[str]:
        """Returns the command that shuts in: everything read-only, but for one private folder of bounded size.

        The file systems of the kernel are mounted read-only as well: root in a sandbox is root to /proc/sys.
        """
        shared = min(_SHARED, self.disk // 2)
        argv = [program, *NAMESPACES, "--cap-drop", "ALL", "--hostname", "sandbox"]
        argv += [part for path in _SYSTEM for part in _system(path)]
        for name in _FROM_ETC:
            argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        argv += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
        argv += ["--size", str(shared), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
        argv += ["--size", str(self.disk - shared), "--tmpfs", FOLDER]
        wanted = (*_interpreter_folders(), str(PACKAGE), *self.path, *self.paths, self.cwd or "/")
        for path in _without_inner(path for path in wanted if os.path.exists(path) and not _covers_own(path)):
            argv += ["--ro-bind", path, path]
        return [*argv, "--chdir", self.cwd or FOLDER, "--remount-ro", "/"]


COMMANDS, PYTHON = "skilllab.programs.commands", "skilllab.programs.kinds"
"""What runs commands, and what runs Python: the first module of a room's preload."""


def checked_texts(name: str, texts: Any) -> tuple[str, ...]:
    """Returns the texts; raises InvalidValueError for what is no list of them, and for paths that are not absolute."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InvalidValueError(f"{name}={texts!r} must be a list of texts")
    for path in texts if name == "paths" else ():
        if not os.path.isabs(path):
            raise InvalidValueError(f"paths: {path!r} must be absolute: a worker need not begin in the current folder")
    return tuple(texts)


def library_path() -> tuple[str, ...]:
    """Returns where the standard library and the installed packages of this interpreter are."""
    scheme = sysconfig.get_paths()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    standard = (scheme["stdlib"], os.path.join(sys.base_prefix, sys.platlibdir, version, "lib-dynload"))
    packages = [scheme["purelib"], scheme["platlib"], *site.getsitepackages()]
    archive = os.path.join(sys.base_prefix, sys.platlibdir, version.replace(".", "") + ".zip")
    return tuple(dict.fromkeys((archive, *standard, *(path for path in packages if os.path.isdir(path)))))


def current_path() -> tuple[str, ...]:
    """Returns where this process finds modules, with the current folder by its name."""
    return tuple(dict.fromkeys(os.path.abspath(path) if path else os.getcwd() for path in sys.path))


def _interpreter() -> str:
    """Returns the interpreter itself: a virtual environment's is a link, which needs what stands around it."""
    return os.path.realpath(sys.executable)


def _interpreter_folders() -> tuple[str, ...]:
    return (sys.base_prefix, sys.prefix, os.path.dirname(os.path.dirname(_interpreter())))


def _covers_own(path: str) -> bool:
    """Tells whether a path is, or is above, a folder that a sandbox has of its own."""
    place = os.path.realpath(path).rstrip("/")
    return any(own == place or own.startswith(f"{place}/") for own in _OWN) or place.startswith(("/proc/", "/dev/"))


def _system(path: str) -> list[str]:
    if os.path.islink(path):
        return ["--symlink", os.readlink(path), path]
    return ["--ro-bind", path, path] if os.path.isdir(path) else []


def _without_inner(paths: Iterable[str]) -> Iterator[str]:
    """Yields the absolute paths that are in no other one and in no system folder, outer ones first."""
    kept: list[str] = ["/usr"]
    for path in sorted({os.path.abspath(path) for path in paths}, key=lambda path: (len(path), path)):
        if not any(path == outer or path.startswith(f"{outer}/") for outer in kept):
            kept.append(path)
            yield path
