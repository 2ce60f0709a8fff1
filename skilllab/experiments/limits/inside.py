"""Inside a bubblewrap sandbox: what a script tries to reach of the machine, and how far a fork bomb gets."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from skilllab.define import script_skill
from skilllab.engine import LayeredExecutionEngine, SandboxOptions
from skilllab.engine.workers.machine import Isolation
from skilllab.errors import LimitNotEnforceableError, SkilllabError
from skilllab.experiments.failures import registry_of
from skilllab.experiments.limits.loopback import Door
from skilllab.experiments.limits.ways import here
from skilllab.model import ResourceLimits
from skilllab.programs import tree

if TYPE_CHECKING:
    import pandas as pd

_TRIES = """
import ctypes, os, socket

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def find(secret):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if secret.encode() in read(f"/proc/{pid}/environ"):
                return
        except OSError:
            pass
    raise OSError("it is in no process that can be seen")


def write(folder):
    with open(os.path.join(folder, "skilllab-was-here"), "w"):
        pass


TRIES = {
    "read a file of yours": lambda params: read(params["file"]),
    "find your environment": lambda params: find(params["secret"]),
    "connect to a server here": lambda params: socket.create_connection(("127.0.0.1", params["port"]), 1.0),
    "connect to the internet": lambda params: socket.socket(type=socket.SOCK_DGRAM).connect(("192.0.2.1", 9)),
    "write to the system": lambda params: write("/usr"),
    "change the kernel": lambda params: open("/proc/sys/kernel/hostname", "w"),
    "trace its parent": lambda params: checked(libc.ptrace(16, os.getppid(), 0, 0)),
    "mount a file system": lambda params: checked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, 0)),
}


def run(params):
    said = {}
    for what, attempt in TRIES.items():
        try:
            attempt(params)
            said[what] = None
        except OSError as error:
            said[what] = error.strerror or str(error)
    return said
"""
_BOMB = """
import os, time


def run(params):
    end = time.monotonic() + params["seconds"]
    while time.monotonic() < end:
        try:
            os.fork()
        except OSError:
            pass
"""
_TRYING = script_skill(id="curious-v1", source=_TRIES)
_BURSTING = script_skill(id="fork-bomb-v1", source=_BOMB)
_VARIABLE = "SKILLLAB_SECRET_OF_THIS_PROCESS"
_LOOK = 0.01  # s between two counts of processes


class Tried(NamedTuple):
    """What a script tried, and what the system said to it; None when it worked."""

    what: str
    refusal: str | None


async def shut_out() -> list[Tried]:
    """Has a script in a bubblewrap sandbox try to reach what is outside; raises IsolationError where there is none.

    What it looks for is made for it: a file, a variable, a server on 127.0.0.1. The address on the internet is one of
    those that lead nowhere (RFC 5737), and to "connect" there sends nothing.
    """
    secret = secrets.token_hex(16)
    options = SandboxOptions(isolation="bubblewrap")
    os.environ[_VARIABLE] = secret
    try:
        with tempfile.NamedTemporaryFile() as file, Door() as at:
            asked = {"file": file.name, "secret": secret, "port": at.port}
            async with LayeredExecutionEngine(registry_of(_TRYING), sandbox=options) as engine:
                said = await engine.call(_TRYING.id, asked)
    finally:
        del os.environ[_VARIABLE]
    return [Tried(what, refusal) for what, refusal in said.items()]


def shut_out_table(tried: Iterable[Tried]) -> pd.DataFrame:
    """Returns one row a try: what was tried, what the system said."""
    import pandas as pd

    rows = [(what, refusal or "it worked") for what, refusal in tried]
    return pd.DataFrame(rows, columns=["tried inside", "what the system said"])


class Bomb(NamedTuple):
    """How far a fork bomb got: how it ended, the most processes seen in its sandbox at once, and those left afterwards."""

    error: SkilllabError | None
    most: int
    left: int


async def fork_bomb(limits: ResourceLimits, *, isolation: Isolation | None = None, seconds: float = 5.0) -> Bomb:
    """Runs a script that forks for ever, and counts the processes of its engine while it runs and after it was stopped.

    isolation: the strongest of this machine when None. seconds: after which it would end by itself.
    """
    options = SandboxOptions(isolation=isolation or here()[0], max_concurrent=1)
    before = _started()
    async with LayeredExecutionEngine(registry_of(_BURSTING), sandbox=options) as engine:
        await engine.execute(_BURSTING.id, {"seconds": 0.0}, resource_limits=limits)
        resting = _started()
        call = asyncio.create_task(engine.execute(_BURSTING.id, {"seconds": seconds}, resource_limits=limits))
        most = 0
        while not call.done():
            most = max(most, _started() - resting + 1)  # it is one of those at rest
            await asyncio.wait([call], timeout=_LOOK)
    error = call.result().error
    return Bomb(error, 0 if isinstance(error, LimitNotEnforceableError) else most, _started() - before)


def _started() -> int:
    """Returns how many processes this one has below it."""
    return sum(1 for _ in tree.descendants(os.getpid()))
