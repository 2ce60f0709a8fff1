"""Facts about pyperf's JSON: its command line works on what we write, and we compare what it writes."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyperf
import pytest

from skilllab.errors import InvalidValueError
from skilllab.experiments.benchmark import BenchmarkResult, benchmark, read_pyperf

from .machines import Machine, run


def measured(seconds: float, names: str = "ab", **options: Any) -> BenchmarkResult:
    """Returns a seeded benchmark of arms that all take so many seconds."""
    machine = Machine(7)
    arms = {name: machine.arm(seconds, 0.02) for name in names}
    result: BenchmarkResult = run(benchmark(arms, timer=machine, iterations=20, budget=None, **options))
    return result


def saved(result: BenchmarkResult, path: Path) -> Path:
    result.save_pyperf(path)
    return path


def foreign(path: Path, change: Callable[[dict[str, Any]], object] = lambda values: None) -> Path:
    """Writes a file as pyperf does: five processes of three values, for two arms that are 10 % apart."""
    runs = {
        name: [
            pyperf.Run(
                [(1 + number / 1000 + value / 500) * times for value in range(3)], [(1, 2.0)], {"name": name}, False
            )
            for number in range(5)
        ]
        for name, times in (("a", 1.0), ("b", 1.1))
    }
    pyperf.BenchmarkSuite([pyperf.Benchmark(each) for each in runs.values()]).dump(str(path))
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.mark.slow
def test_pyperfs_command_line_compares_our_files(tmp_path: Path) -> None:
    """`python -m pyperf compare_to before.json after.json` finds what became twice as slow, as a real process."""
    before, after = saved(measured(1e-3), tmp_path / "before.json"), saved(measured(2e-3), tmp_path / "after.json")
    command = [sys.executable, "-m", "pyperf", "compare_to", str(before), str(after)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = dict(re.findall(r"^(\w): Mean .*: (\d\.\d\d)x slower$", done.stdout, re.MULTILINE))
    assert {name: float(times) for name, times in found.items()} == {name: pytest.approx(2, abs=0.2) for name in "ab"}


def test_pyperf_reads_values_warm_up_and_loops(tmp_path: Path) -> None:
    """What pyperf itself reads from our file are the samples, the warm-up beside them, and the calls of a sample."""
    result = measured(1e-6)
    read = pyperf.BenchmarkSuite.load(str(saved(result, tmp_path / "ours.json"))).get_benchmark("b")
    (times,) = result.times("b")
    assert list(read.get_values()) == times.samples.tolist()
    assert read.get_loops() == times.calls > 1
    assert read.get_runs()[0].warmups == times.warmup
    assert read.get_unit() == "second"


def test_our_own_file_comes_back_whole(tmp_path: Path) -> None:
    """A file of ours keeps rounds, single calls and design: the result that is read says what the saved one said."""
    result = measured(1e-6)
    read = read_pyperf(saved(result, tmp_path / "ours.json"))
    assert read.to_json() == result.to_json()
    assert str(read) == str(result)


def test_arms_of_pyperfs_own_file_are_compared_without_pairing(tmp_path: Path) -> None:
    """Values of another program are no rounds: a 10 % difference is found, and the words say that they were apart."""
    result = read_pyperf(foreign(tmp_path / "theirs.json"))
    found = result.compare("a", "b")
    assert result.names == ("a", "b")
    assert len(result.runs) == 5
    assert found.ratio == pytest.approx(1.1)
    assert found.low < 1.1 < found.high
    assert (found.verdict, found.side_by_side) == ("slower", False)
    assert "not measured side by side" in str(found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda values: values.update(version="2.0"), "version"),
        (lambda values: values.update(benchmarks=[]), "holds no benchmark"),
        (lambda values: values.pop("benchmarks"), "not pyperf's JSON"),
        (lambda values: values["benchmarks"][0]["runs"].clear(), "holds no values"),
        (lambda values: values["benchmarks"][0].setdefault("metadata", {}).update(unit="byte"), "only seconds"),
    ],
)
def test_a_file_that_cannot_be_compared_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    """Other versions, empty files and other units than seconds are refused, with the file's name."""
    with pytest.raises(InvalidValueError, match=says):
        read_pyperf(foreign(tmp_path / "theirs.json", change))


@pytest.mark.parametrize("change", [{"loops": "many"}, {"loops": None}])
def test_values_that_are_none_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """A number that is none is met with the file's name, not with the error of its conversion."""
    with pytest.raises(InvalidValueError, match=r"theirs\.json is not pyperf's JSON"):
        read_pyperf(foreign(tmp_path / "theirs.json", lambda values: values.update(metadata=change)))


def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A file that is not there, a folder and what is no text are named with their path and what to do."""
    (tmp_path / "packed.json.gz").write_bytes(b"\x1f\x8b\xff")
    for path, says in ((tmp_path / "missing.json", "No such file"), (tmp_path, "directory")):
        with pytest.raises(InvalidValueError, match=rf"{path} cannot be read: .*{says}.*: name a file"):
            read_pyperf(path)
    with pytest.raises(InvalidValueError, match=r"packed\.json\.gz is not pyperf's JSON: .* unpack it"):
        read_pyperf(tmp_path / "packed.json.gz")


def test_a_path_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there is refused with the path; a write that fails half way leaves the old file, and no other."""
    result = measured(1e-6, "a")
    with pytest.raises(InvalidValueError, match=r"missing/x\.json cannot be written: .*; nothing was changed"):
        result.save_pyperf(tmp_path / "missing" / "x.json")
    path = saved(result, tmp_path / "x.json")
    before = path.read_bytes()

    def half(self: Path, text: str, **_: Any) -> int:
        self.write_bytes(text[:100].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(InvalidValueError, match="No space left"):
        result.save_pyperf(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    """Text that is no JSON is named as such, not met with a decoder's error."""
    path = tmp_path / "x.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"x\.json is not pyperf's JSON"):
        read_pyperf(path)
