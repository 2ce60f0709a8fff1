"""Machine: which isolation there is and which limits can be held, for every kind of machine."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skilllab.engine.workers import machine as module
from skilllab.engine.workers.machine import LEAST, Machine, checked_isolation, this_machine
from skilllab.errors import InvalidValueError, IsolationError
from skilllab.model import ResourceLimits
from skilllab.programs.cgroups import Place

THERE, ABSENT, BROKEN = ("/usr/bin/bwrap", ""), (None, ""), ("/usr/bin/bwrap", "setting up uid map: Permission denied")
PIDS = {"pids": Place("/sys/fs/cgroup/pids", "1")}
MEMORY = {"memory": Place("/sys/fs/cgroup/memory", "1")}
ENOUGH = {
    "max_memory": 2**20,
    "max_cpu_time": 0.001,
    "max_duration": 0.001,
    "max_network_requests": 0,
    "max_file_size": 1,
    "max_disk": 2**16,
    "max_processes": 1,
    "max_open_files": 1,
}


def machine(bubblewrap: tuple[str | None, str] = THERE, places: Any = PIDS, root: bool = False) -> Machine:
    return Machine(*bubblewrap, places, root)


@pytest.fixture(autouse=True)
def unsaid() -> Iterator[None]:
    """The warning that is given once may be given again."""
    module._say_once.cache_clear()
    yield
    module._say_once.cache_clear()


# isolation


@pytest.mark.parametrize(("root", "places"), list(itertools.product([False, True], [PIDS, {}])))
@pytest.mark.parametrize(
    ("bubblewrap", "wanted", "got"),
    [
        (THERE, None, "bubblewrap"),
        (THERE, "bubblewrap", "bubblewrap"),
        (THERE, "process", "process"),
        (ABSENT, None, "process"),
        (ABSENT, "bubblewrap", "apt-get install bubblewrap"),
        (ABSENT, "process", "process"),
        (BROKEN, None, "does not work here: setting up uid map: Permission denied"),
        (BROKEN, "bubblewrap", "or ask for isolation='process'"),
        (BROKEN, "process", "process"),
    ],
)
def test_isolation(bubblewrap: Any, wanted: Any, got: str, root: bool, places: Any) -> None:
    """What is wanted is given or refused with what to do; unasked it is bubblewrap, less only where there is none."""
    there = machine(bubblewrap, places, root)
    if got in ("bubblewrap", "process"):
        assert there.isolation(wanted) == got
        return
    with pytest.raises(IsolationError) as caught:
        there.isolation(wanted)
    assert got in str(caught.value)


def test_a_missing_bubblewrap_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where sandboxed tools run without bubblewrap unasked, a warning says so, and says it once."""
    with caplog.at_level(logging.INFO, logger="skilllab"):
        for wanted in ("process", None, None, "process"):
            machine(ABSENT).isolation(wanted)  # type: ignore[arg-type]
        machine(ABSENT, {}, True).isolation(None)
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "skilllab")
    assert "no bubblewrap on this machine" in record.message


def test_nothing_is_said_where_it_was_asked_for_or_is_there(caplog: pytest.LogCaptureFixture) -> None:
    """Who asks for isolation 'process', or has bubblewrap, is told nothing."""
    for bubblewrap in (THERE, ABSENT, BROKEN):
        machine(bubblewrap).isolation("process")
    machine(THERE).isolation(None)
    assert caplog.records == []


@pytest.mark.parametrize("isolation", ["Process", "docker", "", True, 0, ["process"]])
def test_what_is_no_isolation_is_refused(isolation: object) -> None:
    """The error shows the value and what may stand there."""
    with pytest.raises(InvalidValueError, match="'bubblewrap', 'process'") as caught:
        checked_isolation(isolation)
    assert repr(isolation) in str(caught.value)


@pytest.mark.parametrize("isolation", [None, "process", "bubblewrap"])
def test_isolations_pass(isolation: object) -> None:
    """Both isolations, and None for what there is."""
    checked_isolation(isolation)


# limits


@pytest.mark.parametrize("bubblewrap", [THERE, ABSENT, BROKEN])
@pytest.mark.parametrize(
    ("isolation", "root", "places", "unheld"),
    [
        ("bubblewrap", False, PIDS, set()),
        ("bubblewrap", False, {}, set()),
        ("bubblewrap", True, PIDS, set()),
        ("bubblewrap", True, {}, {"max_processes"}),
        ("bubblewrap", True, MEMORY, {"max_processes"}),
        ("process", False, PIDS, {"max_disk", "max_network_requests"}),
        ("process", False, {}, {"max_disk", "max_network_requests"}),
        ("process", True, PIDS, {"max_disk", "max_network_requests"}),
        ("process", True, {}, {"max_disk", "max_network_requests", "max_processes"}),
        ("process", True, MEMORY, {"max_disk", "max_network_requests", "max_processes"}),
    ],
)
def test_unheld(isolation: Any, root: bool, places: Any, unheld: set[str], bubblewrap: Any) -> None:
    """Files together and network need bubblewrap, processes of root a pids group; all others are always held."""
    there = machine(bubblewrap, places, root)
    assert set(there.unheld(ResourceLimits(**ENOUGH), isolation)) == unheld
    for name, value in ENOUGH.items():
        reasons = there.unheld(ResourceLimits(**{name: value}), isolation)
        assert set(reasons) == unheld & {name}
        assert all(len(reason) > 20 for reason in reasons.values())


@pytest.mark.parametrize("isolation", ["bubblewrap", "process"])
def test_no_limits_are_held_everywhere(isolation: Any) -> None:
    """What asks for nothing needs nothing."""
    assert machine(ABSENT, {}, True).unheld(ResourceLimits(), isolation) == {}


@pytest.mark.parametrize("name", LEAST)
def test_a_limit_below_the_least_is_refused(name: str) -> None:
    """A limit with which a worker could not even answer is refused, and the reason says how much it takes."""
    least = LEAST[name]
    below = least - 1 if isinstance(least, int) else least * 0.999
    reasons = machine().unheld(ResourceLimits(**{name: below}), "bubblewrap")
    assert list(reasons) == [name]
    assert str(least) in reasons[name]
    assert machine().unheld(ResourceLimits(**{name: least}), "bubblewrap") == {}


def test_a_limit_that_is_held_nowhere_is_not_called_too_small() -> None:
    """Where a limit cannot be held whatever its size, raising it is no advice."""
    reasons = machine().unheld(ResourceLimits(max_disk=1), "process")
    assert "only bubblewrap" in reasons["max_disk"]


# this machine


def script(folder: Path, text: str, mode: int = 0o755) -> str:
    """The path of a program that stands for bubblewrap."""
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("exit 0", ""),
        ("echo warning >&2", ""),
        ("echo bwrap: no namespaces >&2; exit 1", "bwrap: no namespaces"),
        ("exit 7", "it ended with 7"),
        ("kill -9 $$", "it ended with -9"),
        (r'for each in "$@"; do last=$each; done; exec "$last"', ""),
    ],
)
def test_why_bubblewrap_does_not_work(tmp_path: Path, text: str, problem: str) -> None:
    """It is tried with the namespaces that sandboxes get; what it says when it fails is the problem."""
    assert module._problem_of(script(tmp_path, text)) == problem


def test_a_bubblewrap_that_cannot_be_started(tmp_path: Path) -> None:
    """What is no program is a problem like any other."""
    path = tmp_path / "bwrap"
    path.write_text("no program")
    path.chmod(0o755)
    assert "Exec format error" in module._problem_of(str(path))


def test_this_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out is kept, and fits this process."""
    found = this_machine()
    assert this_machine() is found
    assert found.root == (os.geteuid() == 0)
    assert set(found.places) <= {"memory", "pids", "cpu"}
    assert found.bubblewrap is None or os.access(found.bubblewrap, os.X_OK)
    assert not (found.bubblewrap is None and found.problem)


def test_a_machine_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The bubblewrap that is found first is the one that is tried; without one there is no problem to tell."""
    monkeypatch.setattr(module, "writable", lambda name: {})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_machine.__wrapped__() == Machine(None, "", {}, os.geteuid() == 0)
    path = script(tmp_path, "exit 7")
    assert this_machine.__wrapped__() == Machine(path, "it ended with 7", {}, os.geteuid() == 0)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_workers_need_linux(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """Elsewhere nothing is tried, and the error names the system."""
    monkeypatch.setattr("sys.platform", platform)
    with pytest.raises(IsolationError, match=f"need Linux, and this is {platform}"):
        this_machine.__wrapped__()
