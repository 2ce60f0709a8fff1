"""Hard cases: what skills, threads, kernels and operators do to workers, with real processes and under load."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, ResourceLimits, script_skill
from skilllab.engine import SandboxOptions
from skilllab.errors import (
    ExecutionCancelledError,
    ExecutionTimeoutError,
    LimitExceededError,
    SkillFailedError,
    WorkerLostError,
)
from skilllab.programs import tree
from skilllab.programs.cgroups import PREFIX

from .conftest import ISOLATIONS, Lab, left_behind

pytestmark = pytest.mark.slow
LIMITS = ResourceLimits(
    max_duration=1.0, max_cpu_time=0.5, max_memory=64 * 2**20, max_open_files=100, max_file_size=2**20
)
FORK_BOMB = "import os\ndef run(params):\n    while True:\n        try: os.fork()\n        except OSError: pass"
COMET = (
    "import os\ndef run(params):\n    if os.fork(): os._exit(0)\n    while True:\n"
    "        if os.fork(): os._exit(0)\n        os.setsid()"
)
CATCHES = (
    "def run(params):\n    while True:\n        try:\n            bytearray(10**9)\n"
    "            open('f', 'wb').write(bytes(10**8))\n        except BaseException: continue"
)
LIFTS = (
    "import resource\ndef run(params):\n    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):\n"
    "        try: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
    "        except (ValueError, OSError): pass\n    open('f', 'wb').write(bytes(10**7))"
)
GARBAGE = (
    "import os\ndef run(params):\n    for number in range(3, 30):\n        try: os.write(number, b'garbage ' * 10)\n"
    "        except OSError: pass\n    return 1"
)
FORGED = (
    "import os, struct\ndef run(params):\n    for number in range(3, 30):\n"
    "        try: os.write(number, struct.pack('<2sBxIQddd', b'sk', 12, 1, 1 << 50, 0.0, 0.0, 0.0))\n"
    "        except OSError: pass\n    return 1"
)
DAEMON = (
    "import os, time\ndef run(params):\n    if os.fork() == 0:\n        os.setsid()\n"
    "        if os.fork() == 0: time.sleep(60)\n        os._exit(0)\n    os.wait()\n    return 1"
)
SPINS = (
    "import threading\ndef spin():\n    while True: pass\n"
    "def run(params):\n    threading.Thread(target=spin, daemon=True).start()\n    return 1"
)
IGNORES = "import signal\ndef run(params):\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while True: pass"
HIDDEN = (
    "import os, time\ndef run(params):\n    for _ in range(90):\n"
    "        os.write(os.memfd_create('hidden'), bytes(10**6))\n    time.sleep(5)"
)
MISBEHAVIOURS = {
    "catches every exception": (CATCHES, LimitExceededError, "stopped at max_"),
    "ignores SIGTERM": (IGNORES, LimitExceededError, "stopped at max_"),
    "forks in a loop": (FORK_BOMB, LimitExceededError, "stopped at max_"),
    "forks and leaves": (COMET, WorkerLostError, "exit code 0"),
    "lifts its soft limits": (LIFTS, LimitExceededError, "max_file_size"),
    "closes the pipe": ("import os\ndef run(params): os.closerange(3, 300)", WorkerLostError, "closed the pipe"),
    "writes garbage into it": (GARBAGE, WorkerLostError, "what is no answer"),
    "forges an endless answer": (FORGED, WorkerLostError, "an answer of"),
    "returns 1 GB": ("def run(params): return 'x' * 10**9", LimitExceededError, "max_memory"),
    "hides memory in files": (HIDDEN, LimitExceededError, "max_memory"),
    "returns more than may be sent": ("def run(params): return 'x' * (11 * 2**20)", LimitExceededError, "max_output"),
    "ends its process": ("import os\ndef run(params): os._exit(3)", WorkerLostError, "exit code 3"),
    "crashes": ("import ctypes\ndef run(params): ctypes.string_at(0)", WorkerLostError, "signal 11"),
    "raises SystemExit": ("def run(params): raise SystemExit(5)", SkillFailedError, "SystemExit: 5"),
    "returns no JSON": ("def run(params): return {1, 2}", SkillFailedError, "no JSON"),
    "never defines what it says": ("if 0: run = None", SkillFailedError, "KeyError"),
}


def ready(lab: Lab) -> bool:
    made = len(lab.engine._seats["sandboxes"]._seats)
    return lab.engine.workers()["sandboxes"].ready == made


async def full_again(lab: Lab, within: float) -> float:
    """Waits until every seat has a worker; returns the seconds that it took."""
    begin = time.monotonic()
    while not ready(lab):
        assert time.monotonic() - begin < within
        await asyncio.sleep(0.001)
    return time.monotonic() - begin


@pytest.mark.parametrize("what", MISBEHAVIOURS)
def test_misbehaviour_is_contained_and_named(lab: Lab, what: str) -> None:
    """Whatever a script does ends within its limits, with an error that says what it was, and the next call works."""
    source, kind, words = MISBEHAVIOURS[what]
    skill_id = what.replace(" ", "-")
    lab.register(script_skill(id=skill_id, source=source), script_skill(id="good", source="def run(params): return 1"))
    begin = time.monotonic()
    error = lab.execute(skill_id, resource_limits=LIMITS).error
    assert time.monotonic() - begin < 5
    assert isinstance(error, kind), error
    assert words in str(error)
    lab.run(full_again(lab, 5.0))
    assert lab.execute("good").output == 1
    assert len(processes_of_workers(lab)) <= 4 * 5


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_pool_is_full_again_soon(make_lab: Callable[..., Lab], isolation: str) -> None:
    """A lost worker is replaced within 200 ms: the quickest of five losses shows it on a busy machine too."""
    lab = make_lab(isolation)
    lab.register(script_skill(id="exits", source="import os\ndef run(params): os._exit(3)"))
    waits = []
    for _ in range(5):
        assert isinstance(lab.execute("exits").error, WorkerLostError)
        waits.append(lab.run(full_again(lab, 5.0)))
    assert min(waits) < 0.2


def test_what_a_finished_call_leaves_is_ended(lab: Lab) -> None:
    """A daemon that a call leaves behind is gone soon; a thread that spins on takes its worker with it."""
    lab.register(script_skill(id="leaves", source=DAEMON), script_skill(id="spins", source=SPINS))
    assert lab.execute("leaves").output == 1
    soon(lambda: not strays(lab))
    lab.execute("spins")
    worker = spinning(lab)
    lab.run(until(lambda: not runs(worker)))
    lab.execute("spins")
    assert spinning(lab) != worker


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_thousand_kills_leave_nothing(make_lab: Callable[..., Lab], isolation: str) -> None:
    """1,000 executions that a limit kills leave no process, descriptor, control group or file, and no memory behind."""
    lab = make_lab(isolation)
    lab.register(script_skill(id="sleeps", source="import time\ndef run(params): time.sleep(30)"))
    calls = [("sleeps", {})] * 100
    limits = ResourceLimits(max_duration=0.005)
    seen = []
    for _ in range(10):
        results = lab.run(lab.engine.execute_many(calls, limit=5, resource_limits=limits, timeout=60.0))
        assert [result.error for result in results if not isinstance(result.error, LimitExceededError)] == []
        del results
        lab.run(full_again(lab, 5.0))
        gc.collect()
        seen.append((len(os.listdir("/proc/self/fd")), tree.resident(os.getpid())))
    assert seen[-1][0] == seen[1][0]
    assert seen[-1][1] - seen[1][1] < 4 * 2**20
    instances = 5 if isolation == "process" else 10  # bwrap stays beside what it started
    assert len(processes_of_workers(lab)) == 1 + 5 + instances


KERNEL = """
import asyncio, os, sys
from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, script_skill
from skilllab.engine import SandboxOptions
from skilllab.programs import tree

SOURCE = "import os, time\\ndef run(params):\\n    if os.fork() == 0: os.setsid()\\n    time.sleep(60)"

async def main():
    registry = InMemorySkillRegistry()
    await registry.register(script_skill(id="sleeps", source=SOURCE))
    engine = LayeredExecutionEngine(registry, sandbox=SandboxOptions(isolation=sys.argv[1], max_concurrent=10))
    calls = [asyncio.create_task(engine.execute("sleeps", timeout=60)) for _ in range(10)]
    while len(list(tree.descendants(os.getpid()))) < int(sys.argv[2]):
        await asyncio.sleep(0.01)
    print("running", flush=True)
    await asyncio.wait(calls)

asyncio.run(main())
"""


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_killed_kernel_leaves_nothing(needs: Callable[[str], str], isolation: str) -> None:
    """A kernel killed with SIGKILL in the middle of ten calls leaves no process, folder or group after a second."""
    if isolation == "bubblewrap":
        needs("bwrap")
    each = {"process": 3, "bubblewrap": 4}[isolation]  # warm parent, worker, what it forked; and bwrap
    argv = [sys.executable, "-c", KERNEL, isolation, str(1 + 10 * each)]
    kernel = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "running\n"
        pids = set(tree.descendants(kernel.pid))
    finally:
        kernel.kill()
        kernel.wait()
        kernel.stdout.close()  # type: ignore[union-attr]
    soon(lambda: not any(map(runs, pids)), within=1.0)
    assert left_behind(f"{PREFIX}{kernel.pid}-") == []


def test_a_lost_supervisor_is_reported_and_repaired(lab: Lab) -> None:
    """When the supervisor is killed the running call says so, nothing of it runs on, and the next call works."""
    source = "import os, time\ndef run(params):\n    if os.fork() == 0: os.setsid()\n    time.sleep(60)"
    lab.register(script_skill(id="sleeps", source=source), script_skill(id="one", source="def run(params): return 1"))

    async def run() -> Any:
        call = asyncio.create_task(lab.engine.execute("sleeps"))
        await until(lambda: bool(lab.engine.active) and lab.engine.active[0].state == "running")
        await asyncio.sleep(0.1)
        pids = processes_of_workers(lab)
        os.kill(lab.engine._supervision.pid or 0, signal.SIGKILL)
        error = (await call).error
        await until(lambda: not any(map(runs, pids)))
        return error

    error = lab.run(run())
    assert isinstance(error, WorkerLostError)
    assert "supervisor" in str(error)
    assert lab.execute("one").output == 1


def test_a_lost_instance_is_reported_and_replaced(lab: Lab) -> None:
    """When a warm parent is killed from outside the call says that its worker was lost, and the next one works."""
    lab.register(script_skill(id="waits", source="import time\ndef run(params): time.sleep(params['for']); return 1"))
    assert lab.execute("waits", {"for": 0}).output == 1

    async def run() -> Any:
        call = asyncio.create_task(lab.engine.execute("waits", {"for": 60}))
        await asyncio.sleep(0.1)
        parents = [pid for pid in processes_of_workers(lab) if warm_parent(pid)]
        for pid in parents:
            os.kill(pid, signal.SIGKILL)
        return (await call).error

    assert isinstance(lab.run(run()), WorkerLostError)
    assert lab.execute("waits", {"for": 0}).output == 1


def test_cancelling_ends_the_work(lab: Lab) -> None:
    """A cancelled caller, engine.cancel and a timeout each end the work: when the call returns its process is gone."""
    source = (
        "import os, time\ndef run(params):\n    open(params['to'], 'w').write('x') if 0 else None\n    time.sleep(60)"
    )
    lab.register(script_skill(id="long", source=source))

    async def begun(**options: Any) -> tuple[asyncio.Task[Any], int]:
        task = asyncio.create_task(lab.engine.execute("long", {}, **options))
        await until(lambda: bool(lab.engine.active) and busy_worker(lab) > 0)
        return task, busy_worker(lab)

    async def run() -> None:
        task, pid = await begun()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not runs(pid)
        task, pid = await begun()
        assert lab.engine.cancel(lab.engine.active[0].execution_id)
        assert isinstance((await task).error, ExecutionCancelledError)
        assert not runs(pid)
        task, pid = await begun(timeout=1.0)
        assert isinstance((await task).error, ExecutionTimeoutError)
        assert not runs(pid)

    lab.run(run())
    assert lab.engine.left_behind == 0


def test_a_stream_that_is_left_is_closed_by_its_worker(lab: Lab) -> None:
    """A generator whose reader leaves runs its `finally`, and its worker serves the next; one that hangs there is killed."""
    closes = (
        "import time\nclosed = 0\ndef run(params):\n    global closed\n    try:\n        while True: yield closed\n"
        "    finally:\n        closed += 1\n        time.sleep(params['for'])"
    )
    lab.register(script_skill(id="closes", source=closes, streaming=True))
    limits = ResourceLimits(max_duration=30.0)

    async def first(seconds: float) -> int:
        async with aclosing(lab.engine.stream("closes", {"for": seconds}, resource_limits=limits)) as chunks:
            found: int = await anext(chunks)
            await until(lambda: waits_to_be_asked(lab))
        return found

    assert [lab.run(first(0)) for _ in range(3)] == [0, 1, 2]
    begin = time.monotonic()
    assert lab.run(first(20)) == 3
    assert time.monotonic() - begin < 5
    assert lab.run(first(0)) == 0


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_thread_that_started_it_may_end(needs: Callable[[str], str], isolation: str) -> None:
    """Workers that were started from a thread outlive it: the same worker answers a call from the next thread."""
    if isolation == "bubblewrap":
        needs("bwrap")
    loop = asyncio.new_event_loop()
    registry = InMemorySkillRegistry()
    engine = LayeredExecutionEngine(registry, sandbox=SandboxOptions(isolation=isolation))  # type: ignore[arg-type]
    answers: list[Any] = []

    def in_thread(work: Any) -> None:
        thread = threading.Thread(target=lambda: answers.append(loop.run_until_complete(work)))
        thread.start()
        thread.join()

    source = "import os\ncount = 0\ndef run(params):\n    global count\n    count += 1\n    return count"
    in_thread(registry.register(script_skill(id="counts", source=source)))
    in_thread(engine.call("counts"))
    time.sleep(0.2)
    in_thread(engine.call("counts"))
    assert answers[1:] == [1, 2]
    in_thread(engine.aclose())
    loop.close()


def test_a_forgotten_engine_ends_its_workers() -> None:
    """An engine that nobody holds any more takes its supervisor with it, although it was never closed."""

    async def run() -> None:
        registry = InMemorySkillRegistry()
        await registry.register(script_skill(id="one", source="def run(params): return 1"))
        engine = LayeredExecutionEngine(registry)
        assert await engine.call("one") == 1
        pid = engine._supervision.pid
        del engine
        gc.collect()
        await until(lambda: not runs(pid))

    asyncio.run(run())


# helpers


def processes_of_workers(lab: Lab) -> list[int]:
    """The supervisor of a lab and all below it."""
    supervisor = lab.engine._supervision.pid
    return [] if supervisor is None else [supervisor, *tree.descendants(supervisor)]


def runs(pid: int | None) -> bool:
    """Whether the process is there; one that has ended and that nobody has asked after is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def warm_parent(pid: int) -> bool:
    """Whether the process has a child that shares its command: a worker."""
    try:
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"programs.warm" in own and b"bwrap" not in own[:40] and bool(tree.children(pid))
    except OSError:
        return False


def workers(lab: Lab) -> Iterator[Any]:
    for seat in lab.engine._seats["sandboxes"]._seats:
        if seat.worker is not None and seat.worker.alive:
            yield seat.worker


def busy_worker(lab: Lab) -> int:
    board = lab.engine._supervision.board
    assert board is not None
    notes = ((worker.pid, board.note(worker.seat.number)) for worker in workers(lab))
    return next((pid for pid, note in notes if note is not None and note.busy), 0)


def waits_to_be_asked(lab: Lab) -> bool:
    """Whether a stream with a max_duration has made a chunk that nobody has read: its reader's time has no bound."""
    board = lab.engine._supervision.board
    assert board is not None
    notes = (board.note(worker.seat.number) for worker in workers(lab))
    return any(note is not None and note.busy and note.deadline == math.inf for note in notes)


def spinning(lab: Lab) -> int:
    return next(worker.pid for worker in workers(lab) if worker.job.skill_id == "spins")


def strays(lab: Lab) -> list[int]:
    """What workers that wait for a call have started, and orphans beside them."""
    found = []
    for worker in workers(lab):
        parent = int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1])
        found += [pid for pid in tree.descendants(parent) if pid != worker.pid]
    return found


async def until(holds: Callable[[], bool], within: float = 5.0) -> None:
    ends = time.monotonic() + within
    while not holds():
        assert time.monotonic() < ends
        await asyncio.sleep(0.005)


def soon(holds: Callable[[], bool], within: float = 2.0) -> None:
    ends = time.monotonic() + within
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)
