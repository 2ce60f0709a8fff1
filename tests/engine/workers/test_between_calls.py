"""Between calls: what one call does is not charged to the next, and what is lost meanwhile is made good."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from skilllab import ResourceLimits, command_skill, script_skill
from skilllab.engine.workers.machine import this_machine
from skilllab.errors import HandlerNotRunnableError, LimitExceededError, SkillFailedError, WorkerLostError

from .conftest import Lab

pytestmark = pytest.mark.slow
LEAVES = """
import os, subprocess, time
def run(params):
    code = subprocess.run(["sh", "-c", "sleep 0.002"]).returncode
    if os.fork() == 0:
        os.setsid()
        time.sleep(30)
    return code
"""
COPES = """
import os, time
def run(params):
    if params["fail"]:
        raise ValueError("of another kind")
    pids = []
    try:
        for _ in range(10):
            pids.append(os.fork())
            if pids[-1] == 0:
                time.sleep(5)
                os._exit(0)
    except OSError:
        pass
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return len(pids)
"""
HIDES = """
import ctypes, os, signal, time
def forget(how):
    if how == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    else:  # SA_NOCLDWAIT, which nobody sees from outside
        action = (ctypes.c_byte * 152)()
        ctypes.cast(action, ctypes.POINTER(ctypes.c_int))[34] = 2
        assert ctypes.CDLL(None).sigaction(17, action, None) == 0
def run(params):
    forget(params["how"])
    for _ in range(params["times"]):
        if os.fork() == 0:
            end = time.process_time() + params["each"]
            while time.process_time() < end: pass
            os._exit(0)
        time.sleep(params["each"])
    try:
        os.wait()  # the end of the last of them, of which it hears nothing
    except ChildProcessError:
        return
"""


def test_the_next_calls_children_live(lab: Lab) -> None:
    """What a call leaves is ended, and never the children of the call that comes next, however soon it comes."""
    lab.register(
        script_skill(id="leaves", source=LEAVES), command_skill(id="short", argv=["sh", "-c", "sleep 0.002; echo ok"])
    )

    async def run(skill_id: str) -> set[Any]:
        found = set()
        for number in range(80):
            result = await lab.engine.execute(skill_id)
            found.add(str(result.error or result.output))
            await asyncio.sleep(0.001 * (number % 7))
        return found

    assert lab.run(run("leaves")) == {"0"}
    assert lab.run(run("short")) == {"ok\n"}


def test_a_limit_that_was_coped_with_is_not_charged_to_the_next_call(lab: Lab) -> None:
    """A script that met its limit and went on succeeds; the next call's own error is told as its own."""
    lab.register(script_skill(id="copes", source=COPES))
    limits = ResourceLimits(max_processes=3) if lab.isolation == "bubblewrap" or os.geteuid() else None
    if limits is not None:
        assert lab.execute("copes", {"fail": False}, resource_limits=limits).output == 2
    error = lab.execute("copes", {"fail": True}, resource_limits=limits).error
    assert isinstance(error, SkillFailedError)
    assert "of another kind" in str(error)


@pytest.mark.parametrize("how", ["ignored", "not waited for"])
@pytest.mark.parametrize("each", [0.002, 0.05])
def test_children_that_nobody_waits_for_count(lab: Lab, how: str, each: float) -> None:
    """The CPU time of children counts also where a script has the system forget it, however short they live."""
    lab.register(script_skill(id="hides", source=HIDES))
    limits = ResourceLimits(max_cpu_time=0.3, max_duration=10.0)
    begin = time.monotonic()
    error = lab.execute("hides", {"how": how, "each": each, "times": 100_000}, resource_limits=limits).error
    assert isinstance(error, LimitExceededError)
    assert error.limit == "max_cpu_time"
    assert time.monotonic() - begin < 5.0


def test_cpu_time_that_was_forgotten_is_told_or_none(lab: Lab) -> None:
    """The CPU time of a call whose children the system forgot is what its group counted, or None with the reason."""
    lab.register(script_skill(id="hides", source=HIDES))
    usage = lab.execute("hides", {"how": "ignored", "each": 0.03, "times": 5}).metadata.resource_usage
    if "cpu" in this_machine().places:
        assert 0.12 < usage.cpu_time < 0.5
    else:
        assert usage.cpu_time is None
        assert "did not wait" in usage.unmeasured["cpu_time"]


def test_an_idle_worker_that_is_lost_is_replaced(lab: Lab) -> None:
    """A worker that is killed while it waits is replaced before anybody calls."""
    lab.register(script_skill(id="one", source="def run(params): return 1"))
    assert lab.execute("one").output == 1

    async def run() -> None:
        before = lab.engine.workers()["sandboxes"]
        seats = lab.engine._seats["sandboxes"]._seats
        killed = next(seat.worker for seat in seats if seat.worker is not None and seat.worker.job.skill_id == "one")
        os.kill(killed.pid, signal.SIGKILL)
        ends = time.monotonic() + 5
        while (now := lab.engine.workers()["sandboxes"]).replaced == before.replaced or now.ready < before.ready:
            assert time.monotonic() < ends
            await asyncio.sleep(0.002)

    lab.run(run())
    assert lab.execute("one").output == 1


@pytest.mark.parametrize("isolation", ["bubblewrap", "process"])
def test_what_cannot_be_told_to_a_worker_spoils_nothing(make_lab: Callable[..., Lab], isolation: str) -> None:
    """An environment too large to send fails the call at once, each time, and the engine still closes."""
    lab = make_lab(isolation)
    large = {f"NAME_{number}": "x" * 1000 for number in range(1500)}
    lab.register(script_skill(id="large", source="def run(params): return 1", env=large))
    for _ in range(2):
        begin = time.monotonic()
        assert isinstance(lab.execute("large").error, HandlerNotRunnableError)
        assert time.monotonic() - begin < 5
    lab.register(script_skill(id="one", source="def run(params): return 1"))
    assert lab.execute("one").output == 1


def test_a_supervisor_lost_unheard_spoils_nothing(lab: Lab) -> None:
    """Calls that begin before the loss of the supervisor is heard fail at once or work; the next one works."""
    lab.register(*(script_skill(id=f"each-{n}", source="def run(params): return 1") for n in range(3)))
    assert lab.execute("each-0").output == 1

    async def run() -> list[Any]:
        os.kill(lab.engine._supervision.pid or 0, signal.SIGKILL)
        time.sleep(0.2)  # noqa: ASYNC251 - so that nothing of it is heard
        return await asyncio.gather(*(lab.engine.execute(f"each-{n}", timeout=10) for n in range(3)))

    for result in lab.run(run()):
        assert result.success or isinstance(result.error, WorkerLostError), result.error
    assert lab.execute("each-1").output == 1


def test_large_parameters_arrive(lab: Lab) -> None:
    """Parameters of 20 MB reach a script, and an answer of 9 MB comes back."""
    lab.register(
        script_skill(id="large", source="def run(params): return [len(params['text']), params['text'][:9000000]]")
    )
    found = lab.execute("large", {"text": "x" * 20_000_000})
    assert found.error is None
    assert (found.output[0], len(found.output[1])) == (20_000_000, 9_000_000)
