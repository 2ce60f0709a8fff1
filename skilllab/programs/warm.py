"""Warm parent: forks one worker at a time from a process that has everything imported, and ends what a worker leaves.

Started by the supervisor as `warm.main()` with its settings as JSON in the last argument; its end of the socket to the
supervisor is descriptor 3. In bubblewrap it is the first process of a namespace of its own; elsewhere a child subreaper.
It runs no code of a skill but the imports that were asked for. When the supervisor is gone, it ends everything and itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

from skilllab.programs import rlimits, tree, wire, worker
from skilllab.programs.folder import empty

SUPERVISOR = 3


def main() -> None:
    """Runs until the supervisor is gone."""
    settings = json.loads(sys.argv[-1])
    sys.path[:] = settings["path"]
    warm = Warm(socket.socket(fileno=SUPERVISOR), settings.get("folder"))
    try:
        problem = _imported(settings["preload"])
        wire.send_message(warm.supervisor, {"is": "failed", "why": problem} if problem else {"is": "warm"})
        if not problem:
            warm.run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is left to tell
    finally:
        tree.sweep()
        os._exit(0)


def _imported(modules: list[str]) -> str:
    """Imports the modules; returns why one of them cannot be, or nothing."""
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - foreign code runs when a module is imported
            return f"{name} cannot be imported: {type(error).__name__}: {error}"
    return ""


class Warm:
    """The warm parent's state: the socket to the supervisor, the private folder (None without), the worker."""

    def __init__(self, supervisor: socket.socket, folder: str | None) -> None:
        self.supervisor = supervisor
        self.folder = folder
        self.mounted = set() if folder is None else set(os.listdir(folder))
        self.pipe: tuple[int, ...] = ()
        self.pid = 0
        self.number = 0
        rlimits.hide_memory(True)
        if os.getpid() != 1:
            rlimits.adopt_orphans()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.register_at_fork(after_in_child=gc.enable)
        gc.disable()
        gc.freeze()

    def run(self) -> None:
        """Does what the supervisor says; tells when a worker has ended and nothing of it is left."""
        self.pipe = woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self.supervisor, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == woken:
                    os.read(woken, 4096)
                    self.reap()
                else:
                    self.obey(wire.receive_message(self.supervisor))

    def obey(self, message: wire.Message | None) -> None:
        """Does one thing; raises EOFError when the supervisor is gone."""
        if message is None:
            raise EOFError
        if message.said["do"] == "fork":
            self.fork(message)
        elif message.said["do"] == "end" and self.pid:
            tree.kill(self.pid)

    def reap(self) -> None:
        """Waits for the children that have ended: orphans of the worker, or the worker itself."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid == self.pid:
                self.bury()
            else:
                os.waitpid(ended.si_pid, 0)

    def fork(self, message: wire.Message) -> None:
        """Forks the worker, which gets the descriptor that came with the message."""
        self.number = message.said["worker"]
        (descriptor,) = message.descriptors
        gc.freeze()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                rlimits.end_with_parent()
                rlimits.hide_memory(False)
                signal.set_wakeup_fd(-1)
                for end in self.pipe:
                    os.close(end)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                wire.send_message(self.supervisor, {"is": "born", "worker": self.number})
                self.supervisor.close()
                status = worker.serve(socket.socket(fileno=descriptor), self.folder)
            finally:
                os._exit(status)
        os.close(descriptor)

    def bury(self) -> None:
        """Waits for the worker that has ended, ends what it started, empties its folder, and tells how it ended."""
        tree.kill_group(self.pid)  # while its number cannot be another's yet
        _, status, usage = os.wait4(self.pid, 0)
        tree.sweep()
        if self.folder is not None:
            empty(self.folder)
            if not set(os.listdir(self.folder)) <= self.mounted:
                raise EOFError  # a skill has made what cannot be removed: the whole instance goes
        said = {"is": "ended", "worker": self.number, "status": status, "cpu": usage.ru_utime + usage.ru_stime}
        self.pid = 0
        wire.send_message(self.supervisor, said)
