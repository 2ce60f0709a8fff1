"""The limit matrix: every limit, every way to run, both isolations: enforced, or refused with the reason, never ignored."""

from __future__ import annotations

import socket
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from skilllab import ResourceLimits, command_skill, script_skill, skill
from skilllab.engine.workers.machine import this_machine
from skilllab.errors import LimitExceededError, LimitNotEnforceableError, SkillFailedError
from skilllab.outcome import ExecutionResult

MIB = 2**20
WAYS = ("function", "warm sandbox", "fresh sandbox", "command")
ISOLATIONS = ("bubblewrap", "process")
LIMITS = {
    "max_memory": ResourceLimits(max_memory=32 * MIB, max_duration=10.0),
    "max_cpu_time": ResourceLimits(max_cpu_time=0.1, max_duration=10.0),
    "max_duration": ResourceLimits(max_duration=0.1),
    "max_file_size": ResourceLimits(max_file_size=1000, max_duration=10.0),
    "max_disk": ResourceLimits(max_disk=MIB, max_duration=10.0),
    "max_processes": ResourceLimits(max_processes=3, max_duration=10.0),
    "max_open_files": ResourceLimits(max_open_files=5, max_duration=10.0),
    "max_network_requests": ResourceLimits(max_network_requests=3, max_duration=10.0),
}
PYTHON = {
    "max_memory": "return len(bytearray(256 * 2**20))",
    "max_cpu_time": "while True: pass",
    "max_duration": "import time; time.sleep(30)",
    "max_file_size": "import tempfile; tempfile.TemporaryFile().write(bytes(100_000))",
    "max_disk": "for n in range(30): open(f'f{n}', 'wb').write(bytes(100_000))",
    "max_processes": "import os, time\nfor n in range(10):\n    if os.fork() == 0:\n        time.sleep(10)\n        os._exit(0)",
    "max_open_files": "kept = [open('/dev/null') for n in range(20)]",
    "max_network_requests": "import socket; socket.create_connection(('127.0.0.1', params['port']), 5).close()",
}
SHELL = {
    "max_memory": "exec dd if=/dev/zero of=/dev/null bs=256M count=1",
    "max_cpu_time": "while :; do :; done",
    "max_duration": "exec sleep 30",
    "max_file_size": "exec dd if=/dev/zero of=f bs=1000 count=100",
    "max_disk": "for n in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=f$n bs=200000 count=1 || exit 1; done",
    "max_processes": "for n in 1 2 3 4 5 6 7 8 9; do sleep 10 & done; wait",
    "max_open_files": "exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null 9</dev/null; :",
    "max_network_requests": "exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'",
}


def function_of(name: str) -> Any:
    """The misbehaviour as a function of this process, which travels by value."""
    space: dict[str, Any] = {}
    exec(f"def misbehave(port: int):\n    params = dict(port=port)\n{textwrap.indent(PYTHON[name], '    ')}", space)
    return skill(id=f"function-{name}", name=f"function {name}", check_output=False)(space["misbehave"])


def skills() -> Iterator[Any]:
    for name in LIMITS:
        yield function_of(name)
        source = f"def run(params):\n{textwrap.indent(PYTHON[name], '    ')}"
        yield script_skill(id=f"sandbox-{name}", source=source)
        yield command_skill(
            id=f"command-{name}", argv=["sh", "-c", SHELL[name].replace("{port}", "$1"), "sh", "{port}"]
        )


@pytest.fixture(scope="module")
def run(make_lab: Callable[..., Any]) -> Callable[..., ExecutionResult]:
    labs: dict[Any, Any] = {}

    def run(way: str, isolation: str, name: str, limits: ResourceLimits, port: int = 9) -> ExecutionResult:
        reuse = way != "fresh sandbox"
        if (isolation, reuse) not in labs:
            labs[isolation, reuse] = make_lab(isolation, reuse_instances=reuse)
            labs[isolation, reuse].register(*skills())
        skill_id = f"{'sandbox' if 'sandbox' in way else way}-{name}"
        result: ExecutionResult = labs[isolation, reuse].execute(skill_id, {"port": port}, resource_limits=limits)
        return result

    return run


def refused(name: str, isolation: str) -> bool:
    """Whether the design says that this machine cannot hold the limit."""
    machine = this_machine()
    if name == "max_processes":
        return machine.root and "pids" not in machine.places
    return isolation == "process" and name in ("max_disk", "max_network_requests")


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("way", WAYS)
def test_cell(run: Callable[..., ExecutionResult], way: str, isolation: str, name: str) -> None:
    """The limit stops the work and is named with what was allowed and used, or the call is refused before it starts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = run(way, isolation, name, LIMITS[name], server.getsockname()[1])
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    error = result.error
    if refused(name, isolation):
        assert isinstance(error, LimitNotEnforceableError), error
        assert error.limits == (name,)
        assert "cannot be held" in str(error)
        assert result.metadata.duration is None
        return
    assert result.metadata.isolation == isolation
    if name == "max_network_requests":  # nobody listens in the sandbox's own loopback
        assert isinstance(error, SkillFailedError | LimitExceededError), error
        assert result.metadata.resource_usage.network_requests == 0
        return
    assert isinstance(error, LimitExceededError), error
    allowed = getattr(LIMITS[name], name)
    assert (error.limit, error.allowed) == (name, allowed)
    assert f"stopped at {name}" in str(error)
    if name not in ("max_memory", "max_processes") or way != "command":
        assert error.used is not None


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("way", WAYS)
def test_overshoot(run: Callable[..., ExecutionResult], way: str, isolation: str) -> None:
    """What a skill uses beyond its limit is small: 50 ms of time; of CPU time 100 ms or a fifth, whichever is more."""
    for _ in range(3):
        late = run(way, isolation, "max_duration", ResourceLimits(max_duration=0.1)).error
        assert isinstance(late, LimitExceededError)
        assert late.used is not None
        greedy = run(way, isolation, "max_cpu_time", ResourceLimits(max_cpu_time=0.2)).error
        assert isinstance(greedy, LimitExceededError)
        assert greedy.used is not None
        if late.used <= 0.15 and greedy.used <= 0.3:
            return  # a machine that stood still in between says nothing of us
    pytest.fail(f"three times late: {late} {greedy}")
