"""Instance: a warm parent and its worker, as the supervisor started and sees them."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

from skilllab.programs import rlimits, wire
from skilllab.programs.cgroups import Cgroup
from skilllab.programs.usage import CallUsage

_INFINITY = float("inf")


class Instance:
    """A warm parent and its worker.

    process: what was started, bwrap or the warm parent itself. warm: the warm parent as seen from here, 0 until it has
    spoken. worker, pid: number and process of the worker, 0 without one. memory: bytes that its
    tree may hold where nothing else bounds that. turn, look_next, idle_cpu: what was noted of its call. usage: what it spends.
    verdict: why it was ended; kill_by: when the whole instance goes if it has not ended by then; doomed: it was
    killed, and what it says until its end counts no more.
    """

    def __init__(self, seat: int, process: int, sock: socket.socket, stderr: int, opened: dict[str, Any]) -> None:
        self.seat = seat
        self.process = process
        self.sock = sock
        self.stderr = stderr
        self.told = b""
        self.folder: str | None = opened.get("made_folder")
        self.cgroup: Cgroup | None = opened.get("made_cgroup")
        self.clock = self.cgroup.clock() if self.cgroup is not None else None
        self.warm = self.worker = self.pid = 0
        self.memory: int | None = None
        self.resting = 0
        self.turn = 0
        self.look_next = 0.0
        self.idle_cpu = 0.0
        self.usage: CallUsage | None = None
        self.verdict: dict[str, Any] = {}
        self.kill_by = _INFINITY
        self.doomed = False

    def begin(self, before: float) -> None:
        """Begins to measure a call, in which the worker had spent `before` CPU seconds when it began."""
        self.usage = CallUsage(self.warm, self.pid, before, self.clock)

    def close(self) -> None:
        """Closes what it was heard and measured through."""
        self.sock.close()
        os.close(self.stderr)
        if self.clock is not None:
            self.clock.close()


def started(said: dict[str, Any]) -> Instance:
    """Starts an instance as the engine says, in the folder and the group that were made for it."""
    own, theirs = wire.pair("message")
    wire.tell_sender(own)
    read, write = os.pipe2(os.O_CLOEXEC)
    folder: str | None = said.get("made_folder")
    argv = [*said["argv"], json.dumps({**said["settings"], "folder": folder or said["settings"]["folder"]})]
    environment = dict(said["env"])
    if folder is not None:
        environment.update(dict.fromkeys(("TMPDIR", "HOME"), folder))
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()  # a skill that signals its group reaches nobody else
            rlimits.leave_keyring()
            cgroup = said.get("made_cgroup")
            if cgroup is not None:
                cgroup.join(os.getpid())
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            os.dup2(write, 2)
            os.dup2(theirs.fileno(), 3)
            os.set_inheritable(3, True)
            os.closerange(4, 1 << 20)  # whatever else is open here is nothing for a sandbox
            os.chdir(said["cwd"] or folder or "/")
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.execve(argv[0], argv, environment)
        except BaseException as error:  # noqa: BLE001 - this is another process now, and its end is its answer
            os.write(2, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(127)
    theirs.close()
    os.close(write)
    return Instance(said["seat"], pid, own, read, said)
