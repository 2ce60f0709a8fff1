"""Layer 2: commands and scripts in sandboxes that are reused, with real processes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, ResourceLimits, command_skill, script_skill
from skilllab.engine import SandboxOptions
from skilllab.engine.sandbox import SandboxRunner
from skilllab.engine.workers.machine import Machine, _say_once, this_machine
from skilllab.engine.workers.supervision import Supervision
from skilllab.errors import (
    HandlerNotRunnableError,
    InvalidDefinitionError,
    InvalidOutputError,
    InvalidParametersError,
    InvalidValueError,
    IsolationError,
    LimitNotEnforceableError,
    SkillFailedError,
)
from tests.engine.workers.conftest import Lab, lab, make_lab  # noqa: F401 - fixtures

COUNTS = "count = 0\ndef run(params):\n    global count\n    count += 1\n    return count"
HAS = "import sys\ndef run(params): return [name in sys.modules for name in ('decimal', 'fractions')]"
LITTERS = (
    "import os\nfrom pathlib import Path\ndef run(params):\n    found = sorted(os.listdir('.'))\n"
    "    Path('file').write_text('x')\n    Path('folder/deep').mkdir(parents=True)\n"
    "    Path('folder/deep/file').write_text('x')\n    os.chmod('folder/deep', 0)\n    return found"
)


def test_a_script_gets_and_gives_json(lab: Lab) -> None:  # noqa: F811
    """Parameters arrive as they were, the output comes back, and the result says what it took and which isolation ran."""
    lab.register(script_skill(id="echo", source="def run(params): return params"))
    params = {"text": "ä\u2028\U0001f600\udc80", "none": None, "deep": [[{"a": [1.5, True]}]], "big": 2**70}
    result = lab.execute("echo", params)
    assert result.output == params
    assert result.metadata.isolation == lab.isolation
    usage = result.metadata.resource_usage
    assert 0 < usage.cpu_time < 1
    assert 0 <= usage.memory_used < 2**20
    assert usage.network_requests == (0 if lab.isolation == "bubblewrap" else None)


def test_memory_and_cpu_time_are_measured(lab: Lab) -> None:  # noqa: F811
    """memory_used is the peak above the resting size, to within half a MiB; cpu_time counts child processes too."""
    grows = "def run(params): return len(bytes(params['n']) + b'x')"
    burns = (
        "import os\ndef run(params):\n    if os.fork() == 0:\n        sum(range(3_000_000))\n        os._exit(0)\n"
        "    os.wait()\n    return None"
    )
    lab.register(script_skill(id="grows", source=grows), script_skill(id="burns", source=burns))
    small = lab.execute("grows", {"n": 1}).metadata.resource_usage.memory_used
    large = lab.execute("grows", {"n": 20 * 2**20}).metadata.resource_usage.memory_used
    after = lab.execute("grows", {"n": 1}).metadata.resource_usage.memory_used
    assert small < 2**20
    assert 19.5 * 2**20 <= large < 45 * 2**20
    assert after < 2**21
    usage = lab.execute("burns").metadata.resource_usage
    assert usage.cpu_time > 0.02
    assert usage.memory_used is None
    assert "processes of its own" in usage.unmeasured["memory_used"]


@pytest.mark.parametrize("isolation", ["bubblewrap", "process"])
def test_warm_and_fresh_state(make_lab: Callable[..., Lab], isolation: str) -> None:  # noqa: F811
    """A reused worker remembers, a fresh one never; the private folder is empty in both, whatever was left in it."""
    for reuse, counts in ((True, [1, 2, 3]), (False, [1, 1, 1])):
        made = make_lab(isolation, reuse_instances=reuse)
        made.register(script_skill(id="counts", source=COUNTS), script_skill(id="litters", source=LITTERS))
        assert [made.execute("counts").output for _ in range(3)] == counts
        first, *others = (made.execute("litters").output for _ in range(3))
        assert not {"file", "folder"} & set(first)  # what is named below the temporary folder has its place there
        assert others == [first, first]


def test_a_worker_is_one_skills_only(make_lab: Callable[..., Lab]) -> None:  # noqa: F811
    """With one place for two skills each call meets its own state or a fresh one, never the other's."""
    made = make_lab("process", max_concurrent=1)
    tells = (
        "import os, sys\ndef run(params):\n    seen = getattr(sys, 'mark', None)\n    sys.mark = 'ID'\n"
        "    return [seen, os.getpid()]"
    )
    made.register(*(script_skill(id=each, source=tells.replace("ID", each)) for each in ("one", "two")))
    first, second, third = (made.execute(each).output for each in ("one", "two", "one"))
    assert [first[0], second[0], third[0]] == [None, None, None]
    assert len({first[1], second[1], third[1]}) == 3


def test_a_worker_has_no_descriptors_of_others(lab: Lab) -> None:  # noqa: F811
    """A script finds its standard three descriptors, its socket and the one that it lists them with."""
    lab.register(script_skill(id="lists", source="import os\ndef run(params): return len(os.listdir('/proc/self/fd'))"))
    assert lab.execute("lists").output == 5


def test_calls_wait_for_a_place(make_lab: Callable[..., Lab]) -> None:  # noqa: F811
    """At most max_concurrent sandboxes run at once; the wait for one is queue time and no time of the skill."""
    made = make_lab("process", max_concurrent=2)
    made.register(script_skill(id="sleeps", source="import time\ndef run(params): time.sleep(0.1)"))
    results = made.run(made.engine.execute_many([("sleeps", {})] * 6, limit=6))
    assert all(result.success for result in results)
    assert max(result.metadata.queue_time for result in results) > 0.15
    assert all(result.metadata.duration >= 0.1 for result in results)


def test_async_and_streaming_scripts(lab: Lab) -> None:  # noqa: F811
    """An async run is awaited; a generator, async or not, streams, one chunk ahead of its reader, and can be left early."""
    lab.register(
        script_skill(
            id="later", source="import asyncio\nasync def run(params):\n    await asyncio.sleep(0)\n    return 7"
        ),
        script_skill(id="yields", source="def run(params):\n    for n in range(params['n']): yield n", streaming=True),
        script_skill(
            id="ayields", source="async def run(params):\n    for n in range(params['n']): yield n", streaming=True
        ),
        script_skill(id="breaks", source="def run(params):\n    yield 1\n    raise ValueError('over')", streaming=True),
    )

    async def chunks(skill_id: str, most: int = 10**6, **options: Any) -> list[Any]:
        found = []
        stream = lab.engine.stream(skill_id, {"n": 1000}, **options)
        async for chunk in stream:
            found.append(chunk)
            if len(found) == most:
                break
        await stream.aclose()
        return found

    assert lab.execute("later").output == 7
    assert lab.run(chunks("yields")) == list(range(1000))
    assert lab.run(chunks("ayields")) == list(range(1000))
    assert lab.run(chunks("yields", most=3)) == [0, 1, 2]
    with pytest.raises(SkillFailedError, match="over"):
        lab.run(chunks("breaks"))


def test_a_slow_reader_is_no_time_of_the_skill(lab: Lab) -> None:  # noqa: F811
    """The time that the reader of a stream takes does not count against max_duration."""
    lab.register(
        script_skill(id="three", source="def run(params):\n    yield 1\n    yield 2\n    yield 3", streaming=True)
    )

    async def read() -> list[int]:
        found = []
        async for chunk in lab.engine.stream("three", resource_limits=ResourceLimits(max_duration=0.3)):
            await asyncio.sleep(0.2)
            found.append(chunk)
        return found

    assert lab.run(read()) == [1, 2, 3]


def test_a_blocked_loop_is_no_time_of_the_skill(lab: Lab) -> None:  # noqa: F811
    """A script that answered in time is not held to have taken long because the event loop stood still."""
    lab.register(
        script_skill(id="naps", source="import time\ndef run(params):\n    time.sleep(0.05)\n    return 'in time'")
    )
    assert lab.execute("naps").output == "in time"

    async def run() -> Any:
        call = asyncio.create_task(lab.engine.execute("naps", resource_limits=ResourceLimits(max_duration=0.5)))
        await asyncio.sleep(0.02)
        time.sleep(0.8)  # noqa: ASYNC251 - whatever else holds up the loop
        return await call

    for _ in range(2):
        assert lab.run(run()).output == "in time"


def test_an_error_of_its_own_keeps_the_worker(lab: Lab) -> None:  # noqa: F811
    """A script that raises fails its call only: the worker that it ran in serves the next one."""
    raises = COUNTS.replace("return", "if count < 3: raise ValueError(count)\n    return")
    lab.register(script_skill(id="raises", source=raises))
    assert [lab.execute("raises").output for _ in range(3)] == [None, None, 3]


def test_commands(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    """A command gets its arguments as they are, and its input; output is text, lines or JSON; other exit codes fail."""
    lab.register(
        command_skill(id="printf", argv=["printf", "%s|", "{a}", "{b}"]),
        command_skill(id="lines", argv=["cat"], stdin="{text}", output="lines"),
        command_skill(id="json", argv=["cat"], stdin="{text}", output="json"),
        command_skill(id="grep", argv=["grep", "-c", "--regexp={what}"], stdin="{text}", exit_codes=[0, 1]),
        command_skill(id="fails", argv=["sh", "-c", "echo why >&2; exit 3"]),
        command_skill(id="where", argv=["pwd"], cwd=str(tmp_path), paths=[str(tmp_path)]),
    )
    assert lab.execute("printf", {"a": "$(id); *", "b": "-"}).error is not None  # it could be taken for an option
    assert lab.execute("printf", {"a": "$(id); *", "b": "ü 'x'"}).output == "$(id); *|ü 'x'|"
    assert lab.execute("lines", {"text": "a\nb\n"}).output == ["a", "b"]
    assert lab.execute("json", {"text": '{"a": [1]}'}).output == {"a": [1]}
    assert isinstance(lab.execute("json", {"text": "{"}).error, InvalidOutputError)
    assert lab.execute("grep", {"what": "x", "text": "y"}).output == "0\n"
    failure = lab.execute("fails").error
    assert isinstance(failure, SkillFailedError)
    assert "exit code 3" in str(failure)
    assert "why" in str(failure)
    assert lab.execute("where").output == f"{tmp_path}\n"


def test_memory_of_a_command(lab: Lab) -> None:  # noqa: F811
    """A command's peak is told where it is above what the process held that started it; else that it is not known."""
    lab.register(
        command_skill(id="small", argv=["true"]),
        command_skill(id="large", argv=["dd", "if=/dev/zero", "of=/dev/null", "bs=50M", "count=1"]),
    )
    small = lab.execute("small").metadata.resource_usage
    assert small.memory_used is None
    assert "stayed below" in small.unmeasured["memory_used"]
    assert 50 * 2**20 <= lab.execute("large").metadata.resource_usage.memory_used < 70 * 2**20


def test_preloaded_modules_are_there(make_lab: Callable[..., Lab]) -> None:  # noqa: F811
    """A module that is asked for is imported before the first call; one that cannot be imported is named."""
    made = make_lab("process", preload=("decimal",))
    made.register(
        script_skill(id="has", source=HAS, preload=["fractions"]),
        script_skill(id="lacks", source="def run(params): return 1", preload=["no_such_module"]),
    )
    assert made.execute("has").output == [True, True]
    failure = made.execute("lacks").error
    assert isinstance(failure, HandlerNotRunnableError)
    assert "no_such_module" in str(failure)


# bad input: each before anything starts


def refusals(*, machine: Machine | None = None, **options: Any) -> Callable[..., Any]:
    def run(definition: Any, params: dict[str, Any] | None = None, **call: Any) -> Any:
        async def work() -> Any:
            registry = InMemorySkillRegistry()
            await registry.register(definition)
            supervision = Supervision((lambda: machine) if machine is not None else this_machine)
            runner = SandboxRunner(SandboxOptions(**options), supervision)
            async with LayeredExecutionEngine(registry, runners={"script": runner, "command": runner}) as engine:
                result = await engine.execute(definition.id, params or {}, **call)
            assert supervision.pid is None  # nothing was started
            return result.error

        return asyncio.run(work())

    return run


ONE = script_skill(id="one", source="def run(params): return 1")
BARE = Machine(None, "", {}, root=True)
BROKEN = Machine("/usr/bin/bwrap", "No permissions to create new namespace", {}, root=False)


def test_what_is_not_there_is_named() -> None:
    """A program, a working folder and a path that are not there fail the call before anything starts."""
    refused = refusals(isolation="process")
    error = refused(command_skill(id="a", argv=["no-such-program"]))
    assert isinstance(error, HandlerNotRunnableError)
    assert "no program 'no-such-program'" in str(error)
    error = refused(command_skill(id="a", argv=["true"], cwd="/no/such/folder"))
    assert isinstance(error, HandlerNotRunnableError)
    assert "/no/such/folder" in str(error)
    error = refused(script_skill(id="a", source="def run(params): return 1", paths=["/no/such/file"]))
    assert isinstance(error, HandlerNotRunnableError)
    assert "/no/such/file" in str(error)


def test_parameters_that_cannot_travel() -> None:
    """A missing placeholder, and parameters that are no JSON, fail the call before anything starts."""
    refused = refusals(isolation="process")
    assert isinstance(refused(command_skill(id="a", argv=["echo", "{what}"])), InvalidParametersError)
    assert isinstance(refused(ONE, {"x": object()}), InvalidParametersError)
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    with pytest.raises(InvalidDefinitionError, match="what"):
        command_skill(id="a", argv=["echo", "{what}"], input_schema=schema)


def test_limits_below_what_rests() -> None:
    """A limit of nothing is no limit, and one below what a worker needs at rest is refused with the least that works."""
    for name in ("max_memory", "max_duration", "max_cpu_time", "max_disk"):
        with pytest.raises(InvalidDefinitionError, match=name):
            ResourceLimits(**{name: 0})
    refused = refusals(isolation="process")
    error = refused(ONE, resource_limits=ResourceLimits(max_memory=1))
    assert isinstance(error, LimitNotEnforceableError)
    assert "allow 1048576 or more" in str(error)


def test_isolation_is_had_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Without bubblewrap sandboxes say once that they shut nothing in; where it is asked for, or broken, calls are refused."""
    demands = ONE.model_copy(update={"isolation": "bubblewrap"})
    error = refusals(machine=BARE)(demands)
    assert isinstance(error, IsolationError)
    assert "apt-get install bubblewrap" in str(error)
    for asked in (ONE, demands):
        error = refusals(machine=BROKEN)(asked)
        assert isinstance(error, IsolationError)
        assert "No permissions" in str(error)
        assert "isolation='process'" in str(error)
    _say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "skilllab"):
        assert [BARE.isolation(None), BARE.isolation(None)] == ["process", "process"]
    assert len(caplog.records) == 1
    error = refusals(machine=BARE, isolation="process")(ONE, resource_limits=ResourceLimits(max_processes=5))
    assert isinstance(error, LimitNotEnforceableError)
    assert "root" in str(error)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"disk": -1}, "disk"),
        ({"max_output": 1.5}, "max_output"),
        ({"isolation": "docker"}, "docker"),
        ({"paths": ["relative"]}, "relative"),
        ({"paths": "/tmp"}, "paths"),
        ({"preload": [1]}, "preload"),
        ({"cache_ttl": math.nan}, "cache_ttl"),
        ({"resource_limits": {"max_memory": 1}}, "resource_limits"),
    ],
)
def test_options_are_checked(options: dict[str, Any], named: str) -> None:
    """An option without a meaning is an error that shows it."""
    with pytest.raises(InvalidValueError, match=named):
        SandboxOptions(**options)


def test_the_folder_is_emptied_however_fast_calls_follow(lab: Lab) -> None:  # noqa: F811
    """Of calls that follow one another within a tick of the clock, none finds what another one has made."""
    makes = "import os\ndef run(params):\n    found = 'file' in os.listdir('.')\n    open('file', 'w').close()\n    return found"
    lab.register(script_skill(id="makes", source=makes))

    async def run() -> set[Any]:
        return {(await lab.engine.execute("makes")).output for _ in range(300)}

    assert lab.run(run()) == {False}
