"""The CPU time of a call: real processes below a worker, in a group and outside of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

WORKER = """
    import os, signal, time
    from skilllab.programs import rlimits, tree
    from skilllab.programs.usage import CallUsage
    rlimits.adopt_orphans()
    go, started = os.pipe()

    def spend(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end: pass

    def children(count, each, forgotten):
        if forgotten:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.read(go, 1)
        for _ in range(count):
            if os.fork() == 0:
                spend(each)
                os._exit(0)
            try:
                os.wait()
            except ChildProcessError:
                continue

    worker = os.fork()
    if worker == 0:
        children(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "forgotten")
        time.sleep(60)
    time.sleep(0.02)
    usage = CallUsage(os.getpid(), worker, tree.cpu_time(worker), None)
    os.write(started, b"x")
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        time.sleep(0.01)
        spent = usage.cpu_time()
        if not tree.children(worker) and tree.cpu_time(worker) and spent > float(sys.argv[4]):
            break
    print(spent, usage.estimated)
    tree.sweep()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("count", "each"), [(200, 0.001), (10, 0.02)])
def test_children_that_were_waited_for_are_counted(run_alone: Callable[..., str], count: int, each: float) -> None:
    """What the system tells of children is taken, and no sample: nothing was forgotten."""
    spent, estimated = run_alone(WORKER, str(count), str(each), "waited", str(0.8 * count * each)).split()
    assert 0.8 * count * each < float(spent) < 3 * count * each  # waited for, it is told in clock ticks, cut off
    assert estimated == "False"


@pytest.mark.slow
@pytest.mark.parametrize(("count", "each"), [(300, 0.001), (15, 0.02)])
def test_children_that_were_forgotten_are_sampled(run_alone: Callable[..., str], count: int, each: float) -> None:
    """Where the system forgets, samples come to about what was spent; so they say that they are estimates."""
    spent, estimated = run_alone(WORKER, str(count), str(each), "forgotten", str(count * each / 2)).split()
    assert count * each / 2 < float(spent) < 3 * count * each
    assert estimated == "True"
