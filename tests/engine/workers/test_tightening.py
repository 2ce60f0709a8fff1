"""Tightening: what a worker sets on itself, by what the machine holds otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from skilllab.engine.workers.machine import Machine
from skilllab.engine.workers.tightening import limits_to_set, more_tasks
from skilllab.model import ResourceLimits
from skilllab.programs.cgroups import Place
from skilllab.settings import WORKER_BACKSTOP_TASKS

MIB = 2**20
EVERY = ResourceLimits(
    max_memory=64 * MIB,
    max_cpu_time=1.0,
    max_duration=2.0,
    max_network_requests=0,
    max_file_size=3 * MIB,
    max_disk=4 * MIB,
    max_processes=5,
    max_open_files=6,
)
FILES = {"file_size": 3 * MIB, "open_files": 6}
MEMORY = {"address_space": 64 * MIB}


def machine(*controllers: str, root: bool = False) -> Machine:
    return Machine("/usr/bin/bwrap", "", {name: Place(f"/sys/fs/cgroup/{name}", "1") for name in controllers}, root)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (machine(), {**FILES, **MEMORY, "more_processes": 4}),
        (machine("memory"), {**FILES, "more_processes": 4}),
        (machine("pids"), {**FILES, **MEMORY}),
        (machine("memory", "pids"), FILES),
        (machine(root=True), {**FILES, **MEMORY}),
        (machine("memory", root=True), FILES),
        (machine("pids", root=True), {**FILES, **MEMORY}),
        (machine("memory", "pids", root=True), FILES),
    ],
)
def test_a_worker_sets_what_no_group_holds(there: Machine, found: dict[str, Any]) -> None:
    """Memory and processes are a group's where there is one, processes of root nobody's else; files are always the worker's."""
    assert limits_to_set(EVERY, there) == found


def test_limits_that_were_not_asked_for_are_not_set() -> None:
    """Without a limit nothing is set, but for a bound on a fork bomb where no group holds one."""
    for there in (machine("pids"), machine("memory", "pids"), machine(root=True)):
        assert limits_to_set(ResourceLimits(), there) == {}
    for there in (machine(), machine("memory")):
        assert limits_to_set(ResourceLimits(), there) == {"more_processes": WORKER_BACKSTOP_TASKS}


@pytest.mark.parametrize("name", ["max_cpu_time", "max_duration", "max_network_requests", "max_disk"])
def test_what_others_hold_is_not_set(name: str) -> None:
    """Times are the supervisor's to hold, network and files together the sandbox's."""
    assert limits_to_set(ResourceLimits(**{name: 1}), machine("pids")) == {}


def test_a_worker_is_one_of_its_skills_processes() -> None:
    """Of a function's or script's processes the worker is the first, a command's come on top; unasked, many may."""
    assert [more_tasks(5, command=False), more_tasks(5, command=True)] == [4, 5]
    assert more_tasks(1, command=False) == 0
    assert {more_tasks(None, command) for command in (False, True)} == {WORKER_BACKSTOP_TASKS}
    assert limits_to_set(EVERY, machine(), command=True)["more_processes"] == 5
