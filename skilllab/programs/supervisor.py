"""Supervisor: the process that starts every instance, watches every call, and ends everything when its engine is gone.

Started by the engine as `supervisor.main()` with two descriptors as arguments: the socket to the engine and the board. It
does everything from its main thread, since a sandbox ends with the thread that started it, and has the system hand it
every descendant whose parent ends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from typing import Any

from skilllab.programs import rlimits, tree, wire
from skilllab.programs.board import LOOK, Board, Note
from skilllab.programs.cgroups import Cgroup, Place
from skilllab.programs.clearing import clear
from skilllab.programs.instances import Instance, started

_CORES = os.cpu_count() or 1
_PATIENCE = 0.1  # s that a warm parent may take to end its worker before it is ended itself
_DROWSY = 0.2  # s without a call before the supervisor sleeps
_NAP = 1.0  # s between two looks while no call runs, at what idle workers do
_IDLE_CPU = 0.05  # s that an idle worker may spend before it is ended for running on
_TOLD = 4096  # bytes of what an instance wrote to its standard error
_INFINITY = float("inf")


def main() -> None:
    """Runs until the engine is gone."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rlimits.adopt_orphans()
    engine, owner = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[3])
    board = Board(int(sys.argv[2]))
    for descriptor in (engine.fileno(), board.descriptor):
        os.set_inheritable(descriptor, False)
    supervisor = Supervisor(engine, board, owner)
    try:
        supervisor.run()
    finally:
        supervisor.close()


class Supervisor:
    """The supervisor's state. engine: the socket to the engine. owner: the engine's process. name: of what is made begins so."""

    def __init__(self, engine: socket.socket, board: Board, owner: int) -> None:
        self.engine = engine
        self.board = board
        self.instances: dict[int, Instance] = {}
        self.handlers: dict[int, Any] = {engine.fileno(): self.obey}
        self.poll = select.poll()
        self.poll.register(engine, select.POLLIN)
        self.places: dict[str, Place] = {}
        self.name = self.base = ""
        self.awake_until = 0.0
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminated)
        self._watch(woken, lambda: self.reap(os.read(woken, 4096)))
        # The socket alone does not tell: what the engine's process has forked holds its other end as well.
        self._watch(os.pidfd_open(owner), self._terminated)
        wire.make_room(engine)

    def run(self) -> None:
        """Obeys, watches and reaps until the engine is gone."""
        try:
            while True:
                for descriptor, _ in self.poll.poll(self._rest()):
                    handler = self.handlers.get(descriptor)
                    if handler is not None:
                        handler()
                self.look()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    def close(self) -> None:
        """Ends everything that was started and removes everything that was made."""
        for instance in self.instances.values():
            tree.kill(instance.process)
            tree.kill(instance.warm or instance.process)
        tree.sweep()
        for instance in self.instances.values():
            self._remove(instance)
        if self.base:
            shutil.rmtree(self.base, ignore_errors=True)

    # what the engine says

    def obey(self) -> None:
        """Does one thing that the engine says; raises EOFError when it is gone."""
        message = wire.receive_message(self.engine)
        if message is None:
            raise EOFError
        said = message.said
        do = said["do"]
        if do == "begin":
            self.places = {name: Place(*place) for name, place in said["places"].items()}
            self.name = said["name"]
            clear(self.places, self.name)
        elif do == "open":
            self.open(said)
        elif do == "fork":
            self.fork(said, message.descriptors)
        elif do == "kill":
            self.end(said["seat"], said["worker"], {"reason": "killed"})
        elif do == "close":
            self.drop(said["seat"])
        elif do == "watch":
            self.awake_until = time.monotonic() + _DROWSY

    def open(self, said: dict[str, Any]) -> None:
        """Starts an instance for a seat; what goes wrong is told as the seat's loss."""
        seat = said["seat"]
        try:
            if said["folder"]:
                said["made_folder"] = self._folder(seat)
            if said["cgroup"]:
                cgroup = Cgroup({name: self.places[name] for name in said["cgroup"]}, said["cgroup_name"])
                cgroup.create()
                said["made_cgroup"] = cgroup
            instance = started(said)
        except OSError as error:
            self.tell(
                {"is": "lost", "seat": seat, "why": f"it could not be started: {error}", "worker": 0, "verdict": {}}
            )
            return
        self.instances[seat] = instance
        self._watch(instance.sock.fileno(), lambda: self.hear(instance))
        self._watch(instance.stderr, lambda: self.listen(instance))

    def fork(self, said: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        """Has the warm parent of a seat fork a worker that serves the socket behind the descriptor."""
        instance = self.instances.get(said["seat"])
        try:
            if instance is None:  # it was lost just now
                self.tell({"is": "lost", "seat": said["seat"], "why": "", "worker": said["worker"], "verdict": {}})
            else:
                instance.worker, instance.memory = said["worker"], said["memory"]
                instance.verdict, instance.kill_by = {}, _INFINITY
                wire.send_message(instance.sock, {"do": "fork", "worker": said["worker"]}, descriptors)
        except OSError:
            pass  # the warm parent is gone, which is told when it is reaped
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def end(self, seat: int, worker: int, verdict: dict[str, Any]) -> None:
        """Kills the worker, if it is still the seat's, and notes why."""
        instance = self.instances.get(seat)
        if instance is None or instance.worker != worker or instance.verdict:
            return
        instance.verdict = verdict
        instance.kill_by = time.monotonic() + _PATIENCE
        if instance.cgroup is not None:
            instance.cgroup.refuse_tasks()
        if instance.pid:
            tree.kill_group(instance.pid)
            return
        try:
            wire.send_message(instance.sock, {"do": "end"})
        except OSError:
            return  # as above

    def drop(self, seat: int) -> None:
        """Ends an instance that the engine no longer wants."""
        instance = self.instances.get(seat)
        if instance is not None:
            self._kill_instance(instance)

    # what instances say

    def hear(self, instance: Instance) -> None:
        """Takes a message of a warm parent or of a worker that was just born, and passes it on."""
        try:
            message = wire.receive_message(instance.sock)
        except OSError:
            message = None
        if message is None:
            self._unwatch(instance.sock.fileno())
            return
        if instance.doomed:
            return  # it is told with the loss of the instance, before which nothing may begin there
        said = message.said
        what = said.get("is")
        if what == "warm":
            instance.warm = message.pid
        elif what == "born" and said.get("worker") == instance.worker and message.pid != instance.warm:
            instance.pid = message.pid
            note = self.board.note(instance.seat)
            instance.turn, instance.idle_cpu = note.turn if note is not None else 0, _INFINITY
            _first_to_go(message.pid)
            if instance.verdict:  # it was to end before it was born
                tree.kill_group(message.pid)
            self.tell({"is": "born", "seat": instance.seat, "worker": instance.worker, "pid": message.pid})
        elif what == "ended":
            self.over(instance, said["status"], said["cpu"])
        elif what == "failed":
            self.tell({"is": "failed", "seat": instance.seat, "why": said["why"]})

    def over(self, instance: Instance, status: int, cpu: float) -> None:
        """Tells the engine that a worker has ended, and why if it was ended."""
        if instance.worker:
            said = {"is": "ended", "seat": instance.seat, "worker": instance.worker, "status": status, "cpu": cpu}
            self.tell({**said, "verdict": instance.verdict})
        instance.worker = instance.pid = 0
        instance.verdict, instance.kill_by = {}, _INFINITY

    def listen(self, instance: Instance) -> None:
        """Keeps the end of what an instance writes to its standard error."""
        data = os.read(instance.stderr, 1 << 16)
        if not data:
            self._unwatch(instance.stderr)
        instance.told = (instance.told + data)[-_TOLD:]

    def reap(self, _: bytes = b"") -> None:
        """Waits for what has ended: an instance, which is told, or an orphan of one."""
        by_process = {instance.process: instance for instance in self.instances.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            instance = by_process.get(pid)
            if instance is not None:
                self.lose(instance, status)

    def lose(self, instance: Instance, status: int) -> None:
        """Takes a lost instance off the books, with everything that it left."""
        self.hear_rest(instance)
        known = {each.process for each in self.instances.values()}
        while strays := [pid for pid in tree.children(os.getpid()) if pid not in known]:
            for stray in strays:  # orphans of this instance: those of others belong to their warm parents
                for pid in (*tree.descendants(stray), stray):
                    tree.kill(pid)
                os.waitpid(stray, 0)
        worker, verdict = instance.worker, instance.verdict
        del self.instances[instance.seat]
        for descriptor in (instance.sock.fileno(), instance.stderr):
            self._unwatch(descriptor)
        instance.close()
        self._remove(instance)
        text = instance.told.decode(errors="replace").strip()
        why = f"its process ended with status {os.waitstatus_to_exitcode(status)}{': ' if text else ''}{text}"
        self.tell({"is": "lost", "seat": instance.seat, "why": why, "worker": worker, "verdict": verdict})

    def hear_rest(self, instance: Instance) -> None:
        """Takes what an instance had still said and written."""
        instance.sock.setblocking(False)
        while instance.sock.fileno() in self.handlers:
            self.hear(instance)
        os.set_blocking(instance.stderr, False)
        try:
            self.listen(instance)
        except OSError:
            return

    # watching calls

    def look(self) -> None:
        """Ends every call that is over one of its limits, and what finished calls have left."""
        now = time.monotonic()
        for instance in tuple(self.instances.values()):
            if now > instance.kill_by:
                self._kill_instance(instance)
                continue
            if not instance.pid or instance.verdict:
                continue
            note = self.board.note(instance.seat)
            if note is None:
                continue
            if note.busy:
                self.awake_until = now + _DROWSY
                self._look_at_call(instance, note, now)
            elif note.turn != instance.turn:
                self._look_at_rest(instance, note)
            elif tree.cpu_time(instance.pid) - instance.idle_cpu > _IDLE_CPU:
                self.end(instance.seat, instance.worker, {"reason": "ran_on"})

    def _look_at_call(self, instance: Instance, note: Note, now: float) -> None:
        if note.turn != instance.turn:
            instance.turn, instance.look_next = note.turn, now
            instance.begin(note.cpu_before)
            instance.resting = instance.resting or tree.memory(instance.warm)
        if now >= note.deadline:
            self.end(instance.seat, instance.worker, {"reason": "max_duration"})
        elif now >= instance.look_next:
            self._look_at_usage(instance, now, note.cpu_limit)

    def _look_at_usage(self, instance: Instance, now: float, cpu_limit: float) -> None:
        soonest, usage = 1.0, instance.usage
        if cpu_limit < _INFINITY and usage is not None:
            used = usage.cpu_time()
            if used > cpu_limit:
                verdict = {"reason": "max_cpu_time", "used": used, "estimated": usage.estimated}
                self.end(instance.seat, instance.worker, verdict)
                return
            # What nobody counts is only seen while it is there.
            soonest = LOOK if instance.clock is None else (cpu_limit - used) / _CORES
        if instance.memory is not None:  # nothing else holds that of a whole tree
            soonest = min(soonest, 0.05)
            held = tree.memory(instance.warm) - instance.resting
            if held > instance.memory:
                self.end(instance.seat, instance.worker, {"reason": "max_memory", "used": held})
                return
        instance.look_next = now + max(soonest, 0.005)

    def _look_at_rest(self, instance: Instance, note: Note) -> None:
        """Ends the processes that a finished call has left; looks again until none is there."""
        idle_cpu = tree.cpu_time(instance.pid)
        strays = [pid for pid in tree.descendants(instance.warm) if pid != instance.pid]
        if self.board.note(instance.seat) != note:
            return  # the next call has begun meanwhile, and these may be its own
        for pid in strays:
            tree.kill(pid)
        if not strays:
            instance.turn, instance.idle_cpu = note.turn, idle_cpu

    def _rest(self) -> float | None:
        """Returns the milliseconds until the next look; None while nothing can happen unasked."""
        waiting = any(instance.kill_by < _INFINITY for instance in self.instances.values())
        if waiting or time.monotonic() < self.awake_until:
            if self.board.asleep:
                self.board.sleep(False)
            return LOOK * 1000
        if self.board.asleep:
            return _NAP * 1000 if self.instances else None
        self.board.sleep(True)
        return LOOK * 1000  # one more look, for what was noted before the engine could see that it must wake

    # starting and removing

    def _folder(self, seat: int) -> str:
        if not self.base:
            self.base = tempfile.mkdtemp(prefix=self.name)
        return tempfile.mkdtemp(prefix=f"{seat}-", dir=self.base)

    def _kill_instance(self, instance: Instance) -> None:
        instance.kill_by, instance.doomed = _INFINITY, True
        tree.kill(instance.process)

    def _remove(self, instance: Instance) -> None:
        if instance.folder is not None:
            shutil.rmtree(instance.folder, ignore_errors=True)
        if instance.cgroup is not None:
            _cleared(instance.cgroup)

    def tell(self, said: dict[str, Any]) -> None:
        """Tells the engine."""
        wire.send_message(self.engine, said)

    def _watch(self, descriptor: int, handler: Any) -> None:
        self.handlers[descriptor] = handler
        self.poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if self.handlers.pop(descriptor, None) is not None:
            self.poll.unregister(descriptor)

    def _terminated(self, *_: object) -> None:
        raise EOFError


def _first_to_go(pid: int) -> None:
    """Makes a worker, and all that it starts, what the system ends first when the memory of its group runs out."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        return  # it is gone already


def _cleared(cgroup: Cgroup) -> None:
    for _ in range(100):
        for pid in cgroup.processes():
            tree.kill(pid)
        if cgroup.remove():
            return
        time.sleep(0.002)
