"""Trees of processes: real ones, each short-lived and ended by its number."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import time
from collections.abc import Callable

from skilllab.programs import tree


def joined(*sources: str) -> str:
    """One program of several indented parts."""
    return "\n".join(map(textwrap.dedent, sources))


def test_who_descends_from_whom(start_alone: Callable[..., subprocess.Popen[str]]) -> None:
    """Children are those of one process only; descendants are theirs as well, the process itself not among them."""
    source = """
        import os
        for _ in range(2):
            child = os.fork()
            if child:
                break
        print(os.getpid(), flush=True)
        os.read(0, 1)
        child and os.waitpid(child, 0)
    """
    process = start_alone(source)
    pids = {int(process.stdout.readline()) for _ in range(3)} - {process.pid}  # type: ignore[union-attr]
    (child,) = tree.children(process.pid)
    (grandchild,) = tree.children(child)
    assert {child, grandchild} == pids
    assert list(tree.descendants(process.pid)) == [child, grandchild]
    assert tree.children(grandchild) == []


def test_a_child_of_a_thread_is_a_child(run_alone: Callable[..., str]) -> None:
    """A process that a thread started is a child of the thread's process."""
    source = """
        import subprocess, threading
        from skilllab.programs import tree
        def start():
            global child
            child = subprocess.Popen(["sleep", "60"])
            go.set()
            end.wait(10)
        go, end = threading.Event(), threading.Event()
        thread = threading.Thread(target=start)
        thread.start()
        go.wait(10)
        import os
        print(tree.children(os.getpid()) == [child.pid] == list(tree.descendants(os.getpid())))
        child.kill(), child.wait(), end.set(), thread.join()
        print(tree.children(os.getpid()))
    """
    assert run_alone(source).split("\n") == ["True", "[]"]


def test_a_process_that_is_gone_has_nothing() -> None:
    """Whatever is asked of a process that has ended and was waited for, the answer is none, and ending it again is fine."""
    gone = subprocess.Popen(["true"])
    gone.wait(10)
    pid = gone.pid
    assert (tree.children(pid), list(tree.descendants(pid))) == ([], [])
    assert tree.cpu_time(pid) == tree.waited_cpu_time(pid) == tree.tree_cpu_time(pid) == 0.0
    assert tree.memory(pid) == tree.resident(pid) == 0
    tree.kill(pid)
    tree.kill_group(pid)


def test_cpu_time_is_the_clock_of_the_process() -> None:
    """The CPU time seen from outside lies between two readings of the process's own clock."""
    before = time.process_time()
    seen = tree.cpu_time(os.getpid())
    assert before <= seen <= time.process_time()


def test_cpu_time_of_other_processes(run_alone: Callable[..., str]) -> None:
    """What a child burnt is seen while it lives and, once it was waited for, to the clock tick; threads count as well."""
    source = """
        import json, os, threading, time
        from skilllab.programs import tree
        def burn():
            end = time.thread_time() + 0.03
            while time.thread_time() < end:
                pass
        ready, tell = os.pipe()
        go, let = os.pipe()
        child = os.fork()
        if child == 0:
            thread = threading.Thread(target=burn)
            thread.start()
            burn()
            thread.join()
            os.write(tell, str(time.process_time()).encode())
            os.read(go, 1)
            os._exit(0)
        own = float(os.read(ready, 100))
        alive = tree.cpu_time(child)
        of_tree = tree.tree_cpu_time(os.getpid())
        os.write(let, b"x")
        os.waitpid(child, 0)
        print(json.dumps([own, alive, of_tree, tree.waited_cpu_time(os.getpid()), tree.tree_cpu_time(os.getpid())]))
    """
    own, alive, of_tree, waited, of_tree_after = json.loads(run_alone(source))
    assert own >= 0.06
    assert own <= alive < own + 0.02
    assert alive <= of_tree < alive + 0.02
    assert own - 0.02 <= waited < own + 0.03
    assert of_tree_after == waited


def test_zombies_are_descendants(run_alone: Callable[..., str]) -> None:
    """A child that has ended and was not waited for is still a descendant, and holds no memory."""
    source = """
        import os
        from skilllab.programs import tree
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        print(list(tree.descendants(os.getpid())) == [child], tree.memory(os.getpid()))
        print(tree.reap(), tree.children(os.getpid()))
    """
    assert run_alone(source).split("\n") == ["True 0", "False []"]


def test_reaping_tells_whether_children_are_left(run_alone: Callable[..., str]) -> None:
    """All that have ended are waited for at once, without waiting for the others."""
    source = """
        import os
        from skilllab.programs import tree
        held, hold = os.pipe()
        children = []
        for wait in (False, True, False):
            children.append(os.fork())
            if not children[-1]:
                os.close(hold)
                wait and os.read(held, 1)
                os._exit(0)
        for number in (0, 2):
            os.waitid(os.P_PID, children[number], os.WEXITED | os.WNOWAIT)
        print(tree.reap(), tree.children(os.getpid()) == [children[1]])
        os.close(hold)
        os.waitid(os.P_PID, children[1], os.WEXITED | os.WNOWAIT)
        print(tree.reap(), tree.children(os.getpid()))
    """
    assert run_alone(source).split("\n") == ["True True", "False []"]


MEMORY = """
    import os, signal
    from skilllab.programs import rlimits, tree
    size = 24 << 20
    def start(work):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                rlimits.end_with_parent()
                work()
                os.write(tell, b"x")
                signal.pause()
            finally:
                os._exit(1)
        os.read(told, 1)
        return child
    def keep(name):
        globals()[name] = b"x" * size
"""


def test_memory_of_one_process(run_alone: Callable[..., str]) -> None:
    """One descendant counts with all that it has in memory, and its parent does not count."""
    source = """
        child = start(lambda: keep("childs"))
        parents = b"y" * 4 * size
        held = tree.memory(os.getpid())
        print(held == tree.resident(child), size <= held < 2 * size)
        tree.sweep()
    """
    assert run_alone(joined(MEMORY, source)) == "True True"


def test_shared_memory_counts_once(run_alone: Callable[..., str]) -> None:
    """What descendants share counts once, and what each has for itself in full."""
    source = """
        def parent():
            keep("shared")
            start(lambda: None)
            start(lambda: keep("own"))
        start(parent)
        print(tree.memory(os.getpid()) / size, sum(map(tree.resident, tree.descendants(os.getpid()))) / size)
        tree.sweep()
    """
    together, added = map(float, run_alone(joined(MEMORY, source)).split())
    assert 2.0 <= together < 2.5
    assert added >= 4.0  # three times what is shared, and once what is not


def test_files_of_memory_count_once(run_alone: Callable[..., str]) -> None:
    """What stands in an open file of memory counts, whether nobody, one or two have mapped it."""
    source = """
        import mmap
        for readers in (0, 1, 2):
            def child():
                file = os.memfd_create("hidden")
                os.truncate(file, size)
                for at in range(0, size, 4096):
                    os.pwrite(file, b"x" * 4096, at)
                global maps
                maps = [mmap.mmap(file, size) for _ in range(readers)]
                for each in maps:
                    each[::4096]
            start(child)
            empty = tree.resident(start(lambda: None))
            print((tree.memory(os.getpid()) - empty) / size)
            tree.sweep()
    """
    assert all(0.7 < float(held) < 1.3 for held in run_alone(joined(MEMORY, source)).split())


def test_who_forgets_children(run_alone: Callable[..., str]) -> None:
    """Of a process that ignores SIGCHLD the system forgets the children; a process that runs is told from one that waits."""
    source = """
        import signal
        def busy():
            if os.fork() == 0:
                while True: pass
        ignores, busy = start(lambda: signal.signal(17, signal.SIG_IGN)), start(busy)
        print(*map(tree.forgets_children, (ignores, busy, 0)))
        while tree.is_running(ignores): pass
        print(*map(tree.is_running, (*tree.children(busy), 0)))
        tree.sweep()
    """
    assert run_alone(joined(MEMORY, source)).split() == ["True", "False", "False", "True", "False"]


def test_what_may_not_be_read_counts_in_full(run_alone: Callable[..., str]) -> None:
    """A process that has the system hide its memory from its own user is counted all the same."""
    source = """
        tree.memory(os.getpid())  # which imports what another user may not
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        rlimits.hide_memory(False)
        start(lambda: None)
        start(lambda: (keep("hidden"), rlimits.hide_memory(True)))
        print(tree.memory(os.getpid()) / size)
        tree.sweep()
    """
    assert float(run_alone(joined(MEMORY, source))) >= 1.0


def test_a_group_ends_together() -> None:
    """Ending a group ends its leader and every member, though the leader is not their parent any more."""
    script = "sleep 60 & echo $!; (sleep 60 & echo $!); wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    pids = [int(process.stdout.readline()) for _ in range(2)]  # type: ignore[union-attr]
    tree.kill_group(process.pid)
    assert process.communicate(timeout=10) == ("", None)  # the end of the pipe, which both held
    assert process.returncode == -9
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def alive(pid: int) -> bool:
    """Whether the process runs: an orphan may be a zombie until its new parent looks."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SWEEP = """
    import os, signal, time
    from skilllab.programs import rlimits, tree
    rlimits.adopt_orphans()
    told, tell = os.pipe()
    deadline = time.monotonic() + 10  # by which all of this ends by itself, if it must
    def wait():
        os.write(tell, f"{os.getpid()} ".encode())
        while time.monotonic() < deadline:
            time.sleep(0.1)
        os._exit(0)
    def gone(pids):
        return not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    def hear(count):
        text = b""
        while text.count(b" ") < count:
            text += os.read(told, 4096)
        return [int(pid) for pid in text.split()]
"""


def test_orphans_come_to_the_one_who_adopts(run_alone: Callable[..., str]) -> None:
    """Where a process adopts orphans, a daemon whose parents ended, in a session of its own, is still its descendant."""
    source = """
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.setsid()
            wait()
        os.waitpid(child, 0)
        (daemon,) = hear(1)
        print(list(tree.descendants(os.getpid())) == [daemon])
        tree.sweep()
        print(gone([daemon]), tree.children(os.getpid()))
    """
    assert run_alone(joined(SWEEP, source)).split("\n") == ["True", "True []"]


def test_a_sweep_ends_a_tree(run_alone: Callable[..., str]) -> None:
    """Every descendant ends, those in other sessions, stopped ones and those that ignore signals included."""
    source = """
        for way in ("plain", "session", "ignores", "stopped"):
            if os.fork() == 0:
                way == "session" and os.setsid()
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    way == "ignores" and signal.signal(number, signal.SIG_IGN)
                os.fork()
                if way == "stopped":
                    os.write(tell, f"{os.getpid()} ".encode())
                    os.kill(os.getpid(), signal.SIGSTOP)
                wait()
        pids = hear(8)
        tree.sweep()
        print(len(set(pids)), gone(pids), tree.children(os.getpid()))
    """
    assert run_alone(joined(SWEEP, source)) == "8 True []"


def test_a_sweep_ends_what_forks_on(run_alone: Callable[..., str]) -> None:
    """A process that flees, each time into a new child in a new session, is caught."""
    source = """
        if os.fork() == 0:
            os.write(tell, b"1 ")
            while time.monotonic() < deadline:
                if os.fork():
                    os._exit(0)
                os.setsid()
            os._exit(0)
        hear(1)
        tree.sweep()
        print(time.monotonic() < deadline - 1, tree.children(os.getpid()))
    """
    assert run_alone(joined(SWEEP, source)) == "True []"


def test_a_sweep_of_nothing(run_alone: Callable[..., str]) -> None:
    """Without descendants a sweep is over at once."""
    assert run_alone(joined(SWEEP, "tree.sweep()\nprint(tree.reap())")) == "False"
