"""First calls: cold, preloaded and warm."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from skilllab.errors import ExecutionError, InvalidValueError, SkillFailedError
from skilllab.experiments import first_calls as module
from skilllab.experiments.first_calls import STATES, first_calls, measure, sample_calls
from skilllab.settings import data_folder
from skilllab.skills import BUILT_IN, builtin

CATALOGUE = str(data_folder() / "catalogue.json")


def test_every_built_in_skill_has_a_call() -> None:
    """The sample calls are those of the built-in skills, all of them."""
    assert set(sample_calls()) == set(builtin())


@pytest.mark.parametrize("preload", [False, True])
def test_every_call_succeeds_on_the_sample_files(preload: bool) -> None:
    """Each skill's first call and the median of the later ones are measured, preloaded or not."""
    times = asyncio.run(measure(CATALOGUE, sample_calls(), preload=preload, warm_rounds=1))
    assert set(times) == set(builtin())
    assert all(first > 0 and warm > 0 for first, warm in times.values())


def test_a_failed_call_is_no_fast_one() -> None:
    """A skill that fails ends the measurement with its error."""
    with pytest.raises(SkillFailedError, match="file-reader-v1"):
        asyncio.run(measure(CATALOGUE, {"file-reader-v1": {"path": "no such file"}}, preload=False, warm_rounds=1))


def test_the_program_imports_no_skill_before_it_measures() -> None:
    """What a skill would import is not there yet in a process that has only loaded the program: cold is cold."""
    modules = ", ".join(repr(f"skilllab.skills.{name}") for name in BUILT_IN)
    check = f"import sys, skilllab.experiments.first_calls; print({{{modules}, 'numpy', 'jmespath', 'regex'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_row_for_each_state_process_and_skill() -> None:
    """One sample of each state takes two processes, and gives a row for each skill; progress counts the processes."""
    seen: list[tuple[int, int]] = []
    frame = first_calls(1, 1, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert sorted(zip(frame["state"], frame["skill"], strict=True)) == sorted(
        (state, skill) for state in STATES for skill in builtin()
    )
    total = frame.groupby("state")["seconds"].sum()
    assert total["cold"] > total["warm"] > 0


def test_a_process_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that fails raises ExecutionError with its last words, not a number."""
    monkeypatch.setattr(module, "sample_calls", lambda folder: {"no-such-skill": {}})
    with pytest.raises(ExecutionError, match="no-such-skill"):
        first_calls(1, 1)


@pytest.mark.parametrize(("processes", "rounds"), [(0, 1), (1, 0)])
def test_counts_below_one_are_refused(processes: int, rounds: int) -> None:
    """Nothing starts for a count below 1."""
    with pytest.raises(InvalidValueError, match="must be at least 1"):
        first_calls(processes, rounds)


def test_sample_calls_of_another_folder(tmp_path: Path) -> None:
    """A folder without samples is an error that names the missing file."""
    with pytest.raises(FileNotFoundError, match=r"orders\.json"):
        sample_calls(tmp_path)
