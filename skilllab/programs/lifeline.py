"""A lifeline: has a process that Python code started end when whoever started it is gone, however that ended."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading

_LOOK_UP = 0.25  # s between two looks for the parent: a child of its may hold the pipe open after its end


def die_with(lifeline: int, parent: int) -> None:
    """Has this process killed when its parent is gone: by the system where it can, and by a thread that looks.

    lifeline: the end of a pipe that is read, and that the parent holds the other end of. parent: its process id.
    PR_SET_PDEATHSIG would follow the thread that started it. The system's signal needs no interpreter lock, which code in
    C may hold for ever; a pipe that nobody writes to has no other news than its end (fcntl(2), F_SETSIG).
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        while os.getppid() == parent and not select.select([lifeline], [], [], _LOOK_UP)[0]:
            continue
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="skilllab-lifeline", daemon=True).start()
