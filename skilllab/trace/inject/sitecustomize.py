"""Logs what the Python process opens; `skilllab.trace.record` puts this folder on the path of the program it runs.

Python imports a module of this name at start, so worker processes are seen too. Nothing here imports what the
program would not have imported: os, stat, sys and time are in every Python process before the first line runs.
"""

import os
import stat
import sys
import time

LOG = "SKILLLAB_TRACE_LOG"


def _install(log: str) -> None:
    # Everything the hook needs is bound here: modules are taken apart while the interpreter shuts down.
    now, stat_of, decode, encode, path_of = time.monotonic, os.stat, os.fsdecode, os.fsencode, os.fspath
    open_, write, close, join, cwd = os.open, os.write, os.close, os.path.join, os.getcwd
    access_mode, read_only = os.O_ACCMODE, os.O_RDONLY
    append, is_file = os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, stat.S_ISREG

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event != "open":
            return
        try:
            path, _, flags = args
            # An open by descriptor is no new access, and our own log must not log itself.
            if isinstance(path, int) or path == log:
                return
            name = decode(path_of(path))  # type: ignore[call-overload]
            size, mode = 0, "w"
            if flags & access_mode == read_only:  # type: ignore[operator]
                about = stat_of(name)
                if not is_file(about.st_mode):
                    return
                size, mode = about.st_size, "r"
            whole = name if name.startswith("/") else join(cwd(), name)
            record = f"{now():.6f}\t{size}\t{mode}\t{whole}\0"
            # Opened each time: the program may fork, or close every descriptor it did not open itself.
            handle = open_(log, append)
            try:
                write(handle, encode(record))  # one write to a file opened for appending is not torn apart
            finally:
                close(handle)
        except Exception:  # noqa: BLE001 - an error here would make the program's own open fail
            return  # a file that is not there, mostly: its open is about to fail too

    sys.addaudithook(hook)


def _continue_with_the_next() -> None:
    """Lets a sitecustomize that this one hides do its work."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    this = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        sys.modules["sitecustomize"] = this  # type: ignore[assignment]


if __name__ == "sitecustomize" and LOG in os.environ:
    _install(os.environ[LOG])
    _continue_with_the_next()
