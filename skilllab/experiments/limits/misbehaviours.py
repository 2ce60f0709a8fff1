"""Misbehaviours: for each limit a skill that wants more than it may have, as a function, as a script and as a command.

The function and the script are the same lines. Each takes what it wants in steps, so that it works where it is allowed to,
and says in the end how much it took. A worker imports this module: it needs nothing but the standard library.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

MIB = 2**20
_BLOCK = 2**16  # bytes written at a time
_IMPORTS = "import os, signal, socket, tempfile, time\n_BLOCK = 2**16\n"
_PARTS = 4  # files that together take what is wanted


def fill_memory(want: int) -> int:
    """Fills so many bytes of memory."""
    return len(b"x" * want)


def burn(want: float) -> float:
    """Computes for so many seconds of CPU time."""
    begin = time.process_time()
    while time.process_time() - begin < want:
        pass
    return want


def dawdle(want: float) -> float:
    """Sleeps for so many seconds."""
    time.sleep(want)
    return want


def write_one_file(want: int) -> int:
    """Writes one file of so many bytes."""
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(want // _BLOCK):
            file.write(bytes(_BLOCK))
    return want


def write_many_files(want: int) -> int:
    """Writes files of 64 KiB that together have so many bytes."""
    files = []
    for _ in range(want // _BLOCK):
        files.append(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - it goes when the last of them is closed
        files[-1].write(bytes(_BLOCK))
    return want


def start_processes(want: int) -> int:
    """Starts so many processes, all of which are there at the same time."""
    children = []
    try:
        for _ in range(want):
            child = os.fork()
            if child == 0:
                time.sleep(60.0)
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return want


def open_files(want: int) -> int:
    """Opens so many files at the same time."""
    files = [open(os.devnull) for _ in range(want)]  # noqa: SIM115 - they are to be open together
    for file in files:
        file.close()
    return want


def connect(port: int) -> int:
    """Connects to a server on this machine."""
    socket.create_connection(("127.0.0.1", port), 1.0).close()
    return 1


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """A skill that wants more of one thing than it may have.

    limit: the field of ResourceLimits that is against it. name: what it does, words: with the amount. want, allowed: how much
    of it, in the limit's unit. function: takes `want` (or `port`, of a server here) and returns what it took. argv: the same
    as a command. exit_codes: with which the command says that it got what it wanted.
    """

    limit: str
    name: str
    words: str
    want: float
    allowed: float
    function: Callable[..., float]
    argv: tuple[str, ...]
    exit_codes: tuple[int, ...] = (0,)

    @property
    def parameter(self) -> str:
        """The one parameter of the skill."""
        return "port" if self.limit == "max_network_requests" else "want"

    @property
    def source(self) -> str:
        """The function as a script."""
        name = self.function.__name__
        return f"{_IMPORTS}\n\n{inspect.getsource(self.function)}\n\ndef run(params):\n    return {name}(**params)\n"


def _shell(line: str) -> tuple[str, ...]:
    """Returns the command that runs a line of shell, with what is wanted as $1."""
    return "sh", "-c", line, "sh", "{want}"


_WRITE = ("dd", "if=/dev/zero", "of=file", f"bs={_BLOCK}", "iflag=count_bytes", "count={want}")
_CONNECT = f"""import socket, sys
{inspect.getsource(connect)}
try:
    connect(int(sys.argv[1]))
except OSError as error:
    sys.exit(str(error))
"""

MISBEHAVIOURS: dict[str, Misbehaviour] = {
    each.limit: each
    for each in (
        Misbehaviour(
            "max_memory",
            "fills memory",
            "fills 128 MiB of memory",
            128 * MIB,
            32 * MIB,
            fill_memory,
            ("dd", "if=/dev/zero", "of=/dev/null", "bs={want}", "count=1"),
        ),
        Misbehaviour(
            "max_cpu_time",
            "computes",
            "computes for 2 s",
            2.0,
            0.1,
            burn,
            ("timeout", "{want}", "sh", "-c", "while :; do :; done"),
            (124,),
        ),
        Misbehaviour("max_duration", "sleeps", "sleeps for 2 s", 2.0, 0.1, dawdle, ("sleep", "{want}")),
        Misbehaviour(
            "max_file_size", "writes one file", "writes one file of 8 MiB", 8 * MIB, MIB, write_one_file, _WRITE
        ),
        Misbehaviour(
            "max_disk",
            "writes many files",
            "writes files of 8 MiB together",
            8 * MIB,
            MIB,
            write_many_files,
            _shell(
                f'for part in $(seq {_PARTS}); do head -c $(($1 / {_PARTS})) /dev/zero > "part$part" || exit 1; done'
            ),
        ),
        Misbehaviour(
            "max_processes",
            "starts processes",
            "starts 64 processes",
            64,
            8,
            start_processes,
            _shell('for _ in $(seq "$1"); do sleep 60 & all="$all $!"; done; kill $all'),
        ),
        Misbehaviour(
            "max_open_files",
            "opens files",
            "opens 64 files",
            64,
            16,
            open_files,
            _shell('paste $(yes /dev/null | head -n "$1")'),
        ),
        Misbehaviour(
            "max_network_requests",
            "connects",
            "connects to a server on this machine",
            1,
            0,
            connect,
            (os.path.realpath(sys.executable), "-I", "-S", "-c", _CONNECT, "{port}"),
        ),
    )
}
"""The misbehaviours by the limit that is against them, in the order of ResourceLimits."""
