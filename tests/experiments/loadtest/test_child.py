"""Load tests in a process of their own: what travels there, what comes back, and that nothing is left."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from skilllab.define import script_skill, skill
from skilllab.engine import FunctionOptions, GuardOptions, LayeredExecutionEngine
from skilllab.errors import InvalidValueError, SkillNotFoundError, WorkerLostError
from skilllab.experiments.loadtest import Requests, Scenario, Stage, load_test
from skilllab.experiments.loadtest.child import Child, run_in_child
from skilllab.programs.tree import cpu_time, descendants
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeRunner

pytestmark = pytest.mark.slow

HOME = os.getpid()
OFFSET = 40


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def engine_of(*skills: Any, **options: Any) -> AsyncIterator[LayeredExecutionEngine]:
    registry = InMemorySkillRegistry()
    for each in skills:
        await registry.register(each)
    async with LayeredExecutionEngine(registry, **options) as engine:
        yield engine


def scenario(skill_id: str, params: Any = None, *, rate: float = 200.0, duration: float = 0.4, **more: Any) -> Scenario:
    return Scenario(skill_id, {} if params is None else params, (Stage(duration, rate=rate),), **more)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def all_gone(pids: list[int], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.01)
    return not any(map(alive, pids))


@skill(id="elsewhere")
async def elsewhere(number: int, home: int) -> int:
    """Fails where it runs in the process that it came from; reads a global of this module, which nobody can import."""
    if os.getpid() == home:
        raise RuntimeError("not in a process of its own")
    if number % 10 == 3:
        raise KeyError(number)
    return number + OFFSET


@skill(id="stuck")
async def stuck() -> None:
    """Blocks the event loop."""
    time.sleep(60.0)  # noqa: ASYNC251 - that is what it is for


@skill(id="hoarder")
async def hoarder() -> None:
    """Holds the interpreter lock, in C, for longer than anybody waits."""
    re.match(r"(a+)+$", "a" * 60 + "b")


@skill(id="dying")
async def dying(number: int) -> None:
    """Ends its process at the twentieth request."""
    if number == 20:
        await asyncio.sleep(0.3)
        os._exit(7)


@in_loop
async def test_requests_come_back_with_their_errors() -> None:
    """A function of this module runs over there with its globals, and every request is here, by kind of error."""

    def params(number: int) -> dict[str, int]:
        return {"number": number, "home": HOME}

    async with engine_of(elsewhere) as engine:
        result = await load_test(engine, "elsewhere", params, rate=200.0, duration=0.5, seed=2, where="process")
        here = await load_test(engine, "elsewhere", params, rate=200.0, duration=0.5, seed=2)
    over, mine = result.requests.columns(), here.requests.columns()
    assert sorted(over.intended) == pytest.approx(sorted(mine.intended))
    assert not mine.ok.any()
    failed = [number for number in range(len(over.ok)) if number % 10 == 3]
    assert set(over.error[~over.ok]) == {"SkillFailedError"}
    assert len(failed) == (~over.ok).sum() < len(over.ok)
    assert result.ending.reason == "duration"
    assert result.ending.machine is not None
    assert result.ending.apart


def numbered(number: int, home: int) -> dict[str, int]:
    return {"number": number, "home": home + OFFSET - OFFSET}


@in_loop
async def test_parameters_may_be_a_partial() -> None:
    """The function in a partial of this module travels with the globals that it reads."""
    async with engine_of(elsewhere) as engine:
        result = await run_in_child(engine, scenario("elsewhere", functools.partial(numbered, home=HOME)))
    errors = result.requests.columns().error
    assert set(errors[3::10]) == {"SkillFailedError"}
    assert sum(map(bool, errors)) == len(errors[3::10])


@in_loop
async def test_options_travel() -> None:
    """The engine over there has the guards and the options of the one here: a timeout, and three threads."""

    @skill(id="slow")
    async def slow() -> None:
        await asyncio.sleep(5.0)

    under_way: list[int] = []

    @skill(id="threaded")
    def threaded() -> None:
        under_way.append(1)
        crowd = len(under_way)
        time.sleep(0.02)
        under_way.pop()
        if crowd != 3:
            raise RuntimeError(crowd)

    guards = GuardOptions(timeout=0.3, breaker_failures=None)
    threads = Scenario("threaded", {}, (Stage(None, concurrency=8),), count=60)
    async with engine_of(slow, threaded, guards=guards, functions=FunctionOptions(max_threads=3)) as engine:
        timed = await run_in_child(engine, scenario("slow", rate=50.0))
        crowded = await run_in_child(engine, threads)
    assert set(timed.requests.columns().error) == {"ExecutionTimeoutError"}
    assert crowded.requests.columns().ok.mean() > 0.5  # with more threads or fewer it seldom is three


@in_loop
async def test_requests_come_while_it_runs() -> None:
    """Every quarter of a second brings what ended since; at the end all are there."""
    told: list[tuple[float, int]] = []
    requests = Requests()
    async with engine_of(elsewhere) as engine:
        await run_in_child(
            engine,
            scenario("elsewhere", {"number": 1, "home": HOME}, duration=0.9, warmup=0.3),
            requests,
            on_progress=lambda seconds, so_far: told.append((seconds, len(so_far))),
        )
    assert len(told) >= 3
    assert told == sorted(told)
    assert 0 < told[0][1] < told[-1][1] == len(requests)


@in_loop
async def test_a_stop_keeps_what_was_measured_and_ends_the_process() -> None:
    """A stop ends the process; the test says that it was stopped, and when, and what had ended is there."""
    stop = asyncio.Event()
    pids: list[int] = []

    async with engine_of(elsewhere) as engine, Child(engine) as child:
        requests = Requests()

        def on_progress(seconds: float, so_far: Requests) -> None:
            assert child.pid is not None
            pids[:] = [child.pid]
            if len(requests) > 20:
                stop.set()

        test = scenario("elsewhere", {"number": 1, "home": HOME}, duration=60.0)
        ending = await child.run(test, requests, stop=stop, on_progress=on_progress)
        assert child.pid is None
    assert (ending.reason, ending.why) == ("stopped", "")
    assert 0 < ending.seconds < 60
    assert len(requests) > 20
    assert await all_gone(pids, 0.0)


@pytest.mark.parametrize("target", [stuck, hoarder], ids=["blocks the loop", "holds the interpreter lock"])
@in_loop
async def test_a_stop_ends_what_does_not_listen(target: Any) -> None:
    """A skill that holds up its event loop, or all of Python, is killed a tenth of a second later."""
    stop = asyncio.Event()
    async with engine_of(target) as engine, Child(engine) as child:
        run = asyncio.create_task(child.run(scenario(target.definition.id, duration=60.0), Requests(), stop=stop))
        while not child.elapsed:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        pid = child.pid
        stop.set()
        ending = await asyncio.wait_for(run, 20.0)
    assert ending.reason == "stopped"
    assert pid is not None
    assert await all_gone([pid], 0.0)


@in_loop
async def test_a_stop_ends_sandboxed_work() -> None:
    """With the process end its supervisor and every sandbox."""
    stop = asyncio.Event()
    async with engine_of(
        script_skill(id="script", source="import time\ndef run(params):\n    time.sleep(60)")
    ) as engine:
        async with Child(engine) as child:
            run = asyncio.create_task(child.run(scenario("script", duration=60.0, rate=20.0), Requests(), stop=stop))
            pids = await family(lambda: child.pid, 3)
            stop.set()
            await run
        assert await all_gone(pids)


async def family(leader: Callable[[], int | None], least: int) -> list[int]:
    """Returns a process and its descendants, once it has so many: a supervisor, and what sandboxes are."""
    end = time.monotonic() + 30.0
    while time.monotonic() < end:
        pid = leader()
        found = [] if pid is None else [pid, *descendants(pid)]
        if len(found) > least:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"fewer than {least} processes in 30 s: {found}")


@pytest.mark.parametrize("what", ["script", "hoarder"])
@in_loop
async def test_nothing_outlives_the_kernel(what: str) -> None:
    """When the process that asked is killed, all others end: sandboxes, supervisor, and one that hears nothing."""
    program = f"""
import asyncio, re
from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, script_skill, skill
from skilllab.experiments.loadtest import load_test

@skill(id="hoarder")
async def hoarder() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")

async def main():
    registry = InMemorySkillRegistry()
    await registry.register(hoarder)
    await registry.register(script_skill(id="script", source="import time\\ndef run(params):\\n    time.sleep(60)"))
    async with LayeredExecutionEngine(registry) as engine:
        await load_test(engine, {what!r}, rate=20.0, duration=60.0, where="process")

asyncio.run(main())
"""
    kernel = subprocess.Popen([sys.executable, "-c", program])  # noqa: ASYNC220 - the test is about its end
    try:
        pids = await family(lambda: kernel.pid, 4 if what == "script" else 1)
        if what == "hoarder":
            await busy(pids[1])
    finally:
        kernel.send_signal(signal.SIGKILL)
        kernel.wait()
    try:
        assert await all_gone(pids)
    finally:
        for pid in pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def busy(pid: int) -> None:
    """Returns when a process has spent two seconds on a processor: its start takes less, so that its skill runs."""
    while cpu_time(pid) < 2.0:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.05)


@in_loop
async def test_a_process_that_ends_by_itself_is_named() -> None:
    """A skill that ends the process aborts the test, which says so and keeps what came before; without any it raises."""
    async with engine_of(dying) as engine:
        result = await run_in_child(engine, scenario("dying", lambda number: {"number": number}, duration=5.0))
        assert result.ending.reason == "aborted"
        assert "status 7" in result.ending.why
        assert len(result.requests) > 10
        with pytest.raises(WorkerLostError, match="status 7") as raised:
            await run_in_child(engine, scenario("dying", {"number": 20}, duration=5.0))
    assert raised.value.status == 7


@in_loop
async def test_errors_over_there_come_back_typed() -> None:
    """What a function of parameters raises is raised here, as is that the skill is not known."""
    async with engine_of(elsewhere) as engine:
        with pytest.raises(ZeroDivisionError):
            await run_in_child(
                engine, scenario("elsewhere", lambda number: {"number": 1 // (number - 2), "home": HOME})
            )
        with pytest.raises(SkillNotFoundError, match="nobody"):
            await run_in_child(engine, scenario("nobody"))


@in_loop
async def test_what_cannot_travel_is_refused() -> None:
    """Runners of one's own, and what cannot be pickled, are refused before a process starts."""
    lock = threading.Lock()

    @skill(id="holder")
    async def holder() -> bool:
        return lock.locked()

    async with engine_of(holder, runners={"http": FakeRunner()}) as engine:
        with pytest.raises(InvalidValueError, match=r"own runners \(http\)"):
            await run_in_child(engine, scenario("holder"))
    async with engine_of(holder) as engine:
        with pytest.raises(InvalidValueError, match=r"holder: where=.process. takes what can be pickled"):
            await run_in_child(engine, scenario("holder"))


@in_loop
async def test_a_process_serves_one_scenario_after_another() -> None:
    """The second scenario finds the process, and the engine in it with what its skill has kept; closing ends it."""
    called: list[int] = []

    @skill(id="novice")
    async def novice() -> None:
        called.append(1)
        if len(called) > 10:
            raise RuntimeError("called before")

    ten = Scenario("novice", {}, (Stage(None, concurrency=1),), count=10)
    async with engine_of(novice) as engine, Child(engine) as child:
        first, second = Requests(), Requests()
        await child.run(ten, first)
        pid = child.pid
        await child.run(ten, second)
        assert pid is not None
        assert child.pid == pid
    assert first.columns().ok.all()
    assert not second.columns().ok.any()
    assert await all_gone([pid], 0.0)


@skill(id="at-once")
async def at_once() -> int:
    """Returns at once."""
    return 1


@in_loop
async def test_scenarios_may_follow_one_another_at_once() -> None:
    """A hundred short scenarios in one process all come back, though each is sent as soon as the last has its end."""
    short = Scenario("at-once", {}, (Stage(None, concurrency=1),), count=2)
    async with engine_of(at_once) as engine, Child(engine) as child:
        for _ in range(100):
            requests = Requests()
            async with asyncio.timeout(60):
                await child.run(short, requests)
            assert len(requests) == 2
