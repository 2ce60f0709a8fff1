"""A guard for a server that ends neither with its pipes nor when asked: it ends the server when this program is killed."""

from __future__ import annotations

import subprocess

_GRACE = 2.0  # s, as long as the SDK waits
_WATCH = (
    'born() { sed "s/.*) //" "/proc/$1/stat" | cut -d " " -f 20; }; was=$(born "$1"); '
    'read -r _; sleep "$2"; test -n "$was" && test "$(born "$1")" = "$was" && kill -s KILL -- "-$1"'
)
"""Waits for the end of its input, gives the server some time, and ends it with all of its group.

The time of its start tells the server from another process that got its number since.
"""


class Guard:
    """A small process beside the server `pid`, which leads a group of its own; `close` ends the guard and nothing else.

    Its input is a pipe of this process: the system closes it whatever ends this process. The signal that the system sends
    for a dead parent (PR_SET_PDEATHSIG) takes a program of ours in the server's place, and is lost on the server's children.
    """

    def __init__(self, pid: int) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", str(pid), f"{_GRACE:g}"],
            stdin=subprocess.PIPE,
            stdout=quiet,
            stderr=quiet,
            cwd="/",
            start_new_session=True,
        )

    def close(self) -> None:
        """Ends the guard; the server goes on."""
        self._process.kill()
        self._process.communicate()
