"""The history of runs: what goes in comes out, and nothing that happens to the file or the program loses it."""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skilllab.errors import HistoryError, InvalidValueError
from skilllab.experiments import history as module
from skilllab.experiments.history import KINDS, History, Kind
from skilllab.experiments.surroundings import Commit, commit, machine, versions
from skilllab.monitor.figures import SkillFigures
from skilllab.monitor.report import PerformanceReport
from skilllab.stats import Interval

sys.path.insert(0, str(Path(__file__).parent))
from keeper import Kept

KEEPER = Path(__file__).parent / "keeper.py"
KERNELS = ("Linux 6.1", "Linux 6.8")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of result that is cheap to make, and a checkout that does not change under the tests."""
    monkeypatch.setitem(KINDS, "Kept", Kind("keeper", ("plan",)))
    monkeypatch.setattr(module, "commit", lambda: Commit("a" * 40, dirty=False))


@pytest.fixture
def history(tmp_path: Path) -> History:
    """An empty history whose clock starts at 0 and moves an hour with each run."""
    hours = iter(range(1000))
    return History(tmp_path / "runs.sqlite", clock=lambda: 3600.0 * next(hours))


def on_kernel(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    monkeypatch.setattr(module, "machine", lambda: machine() | {"kernel": kernel})


def keeper(*arguments: object, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, KEEPER, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# what goes in comes out


def test_a_result_comes_back(history: History) -> None:
    """A result is loaded as it was saved."""
    run = history.save(Kept(7, ballast=10))
    loaded = history.load(run)
    assert (type(loaded), loaded.to_json()) == (Kept, Kept(7, ballast=10).to_json())


def test_list_has_all_a_run_depends_on(history: History) -> None:
    """A row holds parameters, seed, versions, machine, commit and the time in UTC; the newest comes first."""
    history.save(Kept(1))
    run = history.save(Kept(2), "after", rate=100.0, seed=3)
    first = history.list().iloc[0]
    assert (first.run, first.kind, first.label, first.seed) == (run, "Kept", "after", 3)
    assert (str(first["at"]), first.parameters) == ("1970-01-01 01:00:00+00:00", {"rate": 100.0, "seed": 3})
    assert (first.versions, first.machine) == (versions(), machine())
    assert (first.commit, first.dirty) == ("a" * 40, False)


def test_what_a_result_says_of_itself_counts_as_parameters(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a result's own JSON says of how it was measured is kept as parameters, its seed too, and compared part by part."""
    plain = Kept.to_json
    for rate in (100, 200):
        plan = {"stages": [{"rate": rate, "duration": 9.0}], "seed": 4, "slo": None}
        monkeypatch.setattr(Kept, "to_json", lambda self, plan=plan: plain(self) | {"plan": plan})
        history.save(Kept(1), host="a")
    first = history.list().iloc[0]
    assert first.seed == 4
    assert first.parameters == {"stages": [{"rate": 200, "duration": 9.0}], "seed": 4, "host": "a"}
    assert history.compare(1, 2).differences == ("stages.0.rate 100 → 200",)


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), 2**63, 2**128 - 1, -(2**70), 10**19])
def test_a_seed_of_any_size_comes_back(history: History, seed: int) -> None:
    """A seed of 128 bits, as `secrets.randbits` gives it, is listed as it was, also beside runs that have none."""
    history.save(Kept(1))
    history.save(Kept(2), seed=seed)
    frame = history.list()
    assert frame["seed"].tolist()[0] == seed
    assert frame["seed"].isna().tolist() == [False, True]
    assert frame["parameters"].iloc[0] == {"seed": seed}
    assert history.compare(1, 2).differences == (f"seed none → {seed}",)


def test_a_seed_that_is_none_hides_no_run(history: History) -> None:
    """A file that was given a text for a seed, as earlier versions allowed, is listed whole."""
    history.save(Kept(1), seed=3)
    history.save(Kept(2))
    execute(history.path, """UPDATE runs SET seed = 'abc', parameters = '{"seed": "abc"}' WHERE run = 2""")
    assert history.list()["seed"].isna().tolist() == [True, False]


def test_list_narrows(history: History) -> None:
    """A kind, a label and a limit narrow the list; a limit of None lists all."""
    for label in ("odd", "even"):
        history.save(Kept(1), label)
    rest = "at, kind, label, seed, parameters, versions, machine, 'commit', dirty, result"
    for _ in range(5):
        execute(history.path, f"INSERT INTO runs SELECT NULL, {rest} FROM runs ORDER BY run")
    assert history.list()["run"].tolist() == list(range(64, 14, -1))
    assert len(history.list(limit=None)) == 64
    assert history.list(label="odd", limit=2)["run"].tolist() == [63, 61]
    assert history.list(kind="TrialResult").empty


def test_an_empty_history_makes_no_file(history: History) -> None:
    """Looking into a history that was never written lists nothing, with the same columns, and creates nothing."""
    empty = history.list()
    assert not history.path.exists()
    history.save(Kept(1))
    assert empty.dtypes.to_dict() == history.list().dtypes.to_dict()


def test_an_empty_history_has_nothing_to_follow(history: History) -> None:
    """Loading, comparing and following in a history without runs say that there is none, and create nothing."""
    for ask in (lambda: history.load(1), lambda: history.compare(1, 2)):
        with pytest.raises(InvalidValueError, match=r"run\(=1\) is not in '.*': it holds none yet"):
            ask()
    with pytest.raises(InvalidValueError, match=r"metric\(='p95'\) is in no run: such a run has no metric"):
        history.trend("p95")
    with pytest.raises(InvalidValueError, match=r"kind\(='Nope'\) is none: there are BenchmarkResult, CapacityResult"):
        history.trend("p95", kind="Nope")
    assert not history.path.exists()


def test_numbers_of_any_library_name_a_run(history: History) -> None:
    """A run's number as pandas gives it is as good as Python's."""
    history.save(Kept(7))
    number = history.list(limit=np.int64(3))["run"].iloc[0]
    assert type(number) is np.int64
    assert history.load(number).number == 7
    assert history.compare(number, number).differences == ()


def test_a_report_of_the_monitor_comes_back(history: History) -> None:
    """A PerformanceReport is kept as any other result, with whether it is of the window, and can be followed."""
    figures = SkillFigures("search", 1, succeeded=3, failed=1)
    report = PerformanceReport(elapsed=2.0, window=True, skills=(figures,))
    run = history.save(report)
    assert history.load(run) == report
    assert history.list()["parameters"].tolist() == [{"window": True}]
    assert history.trend("search errors")["value"].tolist() == [0.25]


def test_outside_of_git_the_commit_is_missing(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkout commit and dirty are missing, not false."""
    monkeypatch.setattr(module, "commit", lambda: None)
    history.save(Kept(1))
    assert history.list()[["commit", "dirty"]].isna().all(axis=None)


def test_pandas_reads_the_file(history: History) -> None:
    """The file is plain SQLite that pandas reads without this package."""
    import pandas as pd

    history.save(Kept(7), "a")
    with sqlite3.connect(history.path) as db:
        frame = pd.read_sql("SELECT label, metric, value FROM metrics JOIN runs USING (run)", db)
    db.close()
    assert frame.values.tolist() == [["a", "p50", 7.0], ["a", "p95", 14.0], ["a", "calls", 100.0]]


def test_nothing_tells_who_ran_it(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has neither the home folder nor the host's name nor environment variables; longer names are left alone."""
    monkeypatch.setenv("HOME", "/elsewhere/somebody")
    monkeypatch.setenv("SKILLLAB_PASSWORD", "xyzzy")
    paths = ["/elsewhere/somebody/x", 'in "/elsewhere/somebody"', "a\n/elsewhere/somebody/x", "/elsewhere/somebody-2/x"]
    run = history.save(Kept(1), paths=paths, file=Path("/elsewhere/somebody/x"))
    (parameters,) = history.list()["parameters"]
    assert parameters == {"paths": ["~/x", 'in "~"', "a\n~/x", "/elsewhere/somebody-2/x"], "file": "~/x"}
    held = history.path.read_bytes()
    assert run == 1
    assert not [word for word in ("xyzzy", "somebody/", platform.node()) if word.encode() in held]


def test_a_function_is_kept_by_name(history: History) -> None:
    """Parameters that are functions are kept by name, without an address that no other run shares."""
    history.save(Kept(1), params=test_a_function_is_kept_by_name)
    (parameters,) = history.list()["parameters"]
    assert parameters["params"].endswith(".test_a_function_is_kept_by_name")


def test_the_file_lies_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a path the file lies in XDG_STATE_HOME, or in ~/.local/state where that is none; others may not enter."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    kept = History()
    kept.save(Kept(1))
    assert kept.path == tmp_path / "state" / "skilllab" / "history.sqlite"
    assert kept.path.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    for none in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", none)
        assert History().path == tmp_path / ".local" / "state" / "skilllab" / "history.sqlite"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_follows_the_protocol(name: str) -> None:
    """Each kind is where the table says, and has what saving, loading, comparing and following need."""
    kind = getattr(importlib.import_module(KINDS[name].module), name)
    assert kind.__name__ == name
    assert all(callable(getattr(kind, method)) for method in ("to_json", "from_json", "metrics", "frame"))


def test_history_imports_no_kind_before_it_is_used() -> None:
    """Opening a history loads neither a kind of result nor pandas."""
    code = "import sys; from skilllab import History; History('x'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()).isdisjoint({*(kind.module for kind in KINDS.values()), "pandas"})


# two runs, and many


def test_compare(history: History) -> None:
    """Metrics differ where the intervals lie apart, are inconclusive where they overlap or one is missing; ratio is b / a."""
    a, b = history.save(Kept(10)), history.save(Kept(12))
    frame = history.compare(a, b).frame().set_index("metric")
    assert frame["verdict"].to_dict() == {"p50": "inconclusive", "p95": "higher", "calls": "inconclusive"}
    assert frame["ratio"].tolist() == [1.2, 1.2, 1.0]
    assert frame.loc["p95", ["a_low", "a_high", "b_low", "b_high"]].tolist() == [19, 21, 23, 25]
    assert history.compare(b, a).frame()["verdict"].tolist() == ["inconclusive", "lower", "inconclusive"]
    text = str(history.compare(a, b))
    assert text.startswith("Run 2 against run 1 (Kept): p95 1.20× (higher).")
    assert "Warning" not in text


def test_compare_names_a_metric_that_one_run_lacks(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that one run has not, or has as NaN, was not measured: no ratio, no verdict."""
    a = history.save(Kept(10))
    monkeypatch.setattr(Kept, "metrics", lambda self: {"p50": (math.nan, None), "p99": (3.0, Interval(2, 4, 0.95))})
    frame = history.compare(a, history.save(Kept(10))).frame().set_index("metric")
    assert set(frame["verdict"]) == {"not measured"}
    assert frame["ratio"].isna().all()
    assert frame.index.tolist() == ["p50", "p95", "calls", "p99"]


def test_two_runs_without_metrics(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither run has a metric, the comparison says so and has no rows."""
    monkeypatch.setattr(Kept, "metrics", lambda self: {})
    compared = history.compare(history.save(Kept(1)), history.save(Kept(2)))
    assert "Run 2 against run 1 (Kept): neither has a metric." in str(compared)
    assert compared.frame().empty


def test_compare_warns(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is not the same in two runs is named with both values: parameters, machine, versions, seed, commit."""
    on_kernel(monkeypatch, KERNELS[0])
    a = history.save(Kept(10), rate=100, seed=1)
    on_kernel(monkeypatch, KERNELS[1])
    monkeypatch.setattr(module, "versions", lambda: versions() | {"numpy": "9.9"})
    monkeypatch.setattr(module, "commit", lambda: Commit("a" * 40, dirty=True))
    compared = history.compare(a, history.save(Kept(10), rate=200, seed=1))
    assert compared.differences == (
        "rate 100 → 200",
        "kernel Linux 6.1 → Linux 6.8",
        f"numpy {versions()['numpy']} → 9.9",
        "commit aaaaaaaaaaaa → aaaaaaaaaaaa with changes",
    )
    assert "Warning, these were not the same: rate 100 → 200; kernel" in str(compared)
    assert "Linux 6.8" in compared._repr_html_()


def test_trend(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric over time has a row a run, the oldest first, and says where the machine changed between two rows."""
    on_kernel(monkeypatch, KERNELS[0])
    for number in (10, 12):
        history.save(Kept(number), "nightly")
    history.save(Kept(99), "other")
    on_kernel(monkeypatch, KERNELS[1])
    history.save(Kept(11), "nightly")
    frame = history.trend("p95", kind="Kept", label="nightly")
    assert frame[["run", "value", "low", "high"]].values.tolist() == [[1, 20, 19, 21], [2, 24, 23, 25], [4, 22, 21, 23]]
    assert frame["changed"].tolist() == ["", "", "kernel Linux 6.1 → Linux 6.8"]
    assert frame["at"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda history: history.load(9), r"run\(=9\) is not in .*: it holds runs from 1 to 2, list\(\) shows them"),
        (lambda history: history.load("9"), r"run\(='9'\) must be a whole number"),
        (lambda history: history.load(2**70), r"run\(=1180591620717411303424\) is not in"),
        (lambda history: history.compare(1, 9), r"run\(=9\) is not in"),
        (lambda history: history.compare(1, 2), "runs 1 and 2 are a Kept and a Other: compare two of one kind"),
        (lambda history: history.trend("p96"), r"metric\(='p96'\) is in no run: there are calls, p50, p95"),
        (lambda history: history.trend("p95", label="x"), r"is in no run with label 'x': such a run has no metric"),
        (lambda history: history.trend("p95", kind="TrialResult"), r"is in no run of kind TrialResult: such a run"),
        (lambda history: history.trend("p95", kind="Nope"), r"kind\(='Nope'\) is none: .*LoadTestResult, Other, Perf"),
        (lambda history: history.list(kind="Nope"), r"kind\(='Nope'\) is none: there are BenchmarkResult, Capac"),
        (lambda history: history.list(limit="all"), r"limit\(='all'\) must be a whole number"),
        (lambda history: history.trend("p95"), "measured by Kept and Other: choose one with kind="),
        (lambda history: history.list(limit=0), r"limit\(=0\) must be at least 1"),
        (lambda history: history.save({"p95": 1}), r"result\(=\{'p95': 1\}\) is no BenchmarkResult, CapacityResult"),
        (lambda history: history.save(Kept(1), seed="abc"), r"seed\(='abc'\) must be a whole number"),
        (lambda history: history.save(Kept(1), seed=True), r"seed\(=True\) must be a whole number"),
        (lambda history: history.save(Kept(1), seed=1.5), r"seed\(=1.5\) must be a whole number"),
        (lambda history: history.save(Kept(1), pool={1, 2}), r"parameters\(=.*must be plain JSON values: set"),
        (lambda history: History(history.path, wait=math.nan), r"wait\(=nan\) must be seconds"),
    ],
)
def test_bad_arguments(history: History, ask: Callable[[History], object], says: str) -> None:
    """A bad argument is named with its value and what to do about it, and nothing is saved."""
    for _ in range(2):
        history.save(Kept(1))
    with sqlite3.connect(history.path) as db:
        db.execute("UPDATE runs SET kind = 'Other' WHERE run = 2")
    db.close()
    with pytest.raises(InvalidValueError, match=says):
        ask(history)
    assert len(history.list()) == 2


def test_a_class_of_the_same_name_is_not_kept(history: History) -> None:
    """A result of another class that only shares a kind's name is refused, as it could not be loaded again."""
    other = type("Kept", (Kept,), {})
    with pytest.raises(InvalidValueError, match="a history keeps these"):
        history.save(other(1))


def test_a_result_that_its_class_no_longer_reads(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a class has changed since, the message names the versions that saved the result."""
    run = history.save(Kept(1))
    monkeypatch.setattr(Kept, "from_json", classmethod(lambda cls, values: values["gone"]))
    with pytest.raises(HistoryError, match=r"cannot be read as Kept: it was saved with the versions .*numpy"):
        history.load(run)


# what happens to the file


def damage(path: Path) -> None:
    """Zeroes pages in the middle of a file whose first pages are as they should be."""
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(bytes(8 * 4096))


def execute(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


def leave_half_done(path: Path) -> None:
    """Leaves a newer file as a killed writer does, half written, with a journal that would undo it."""
    code = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1'); db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('PRAGMA user_version = 99'); db.execute('COMMIT'); db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('UPDATE runs SET result = zeroblob(50000)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=60)
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0


def load_all(history: History) -> None:
    for run in range(20, 0, -1):
        history.load(run)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no database": (lambda path: path.write_bytes(b"my notes " * 1000), "damaged or no history"),
    "cut short": (lambda path: os.truncate(path, 3 * 4096), "damaged or no history"),
    "damaged inside": (damage, "damaged or no history"),
    "newer": (lambda path: execute(path, "PRAGMA user_version = 2"), "version 2, and this skilllab reads up to 1"),
    "newer and half done": (leave_half_done, "version 99, and this skilllab reads up to 1"),
    "another program's": (lambda path: execute(path, "PRAGMA application_id = 0"), "the file of another program"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_an_unusable_file_is_left_as_it_is(history: History, what: str) -> None:
    """A corrupt, newer or foreign file is named with its reason and the way out, and no byte in its folder changes."""
    for number in range(20):
        history.save(Kept(number, ballast=6000))
    spoil, reason = UNUSABLE[what]
    spoil(history.path)
    folder = history.path.parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HistoryError, match=f"{reason}.* it was left as it is.* name another file"):
        History(history.path).save(Kept(1))
    with pytest.raises(HistoryError, match=reason):
        load_all(history)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_file_is_a_new_history(history: History) -> None:
    """A file without a byte, such as a kill before the first write leaves, is a history that holds nothing."""
    history.path.touch()
    assert history.list().empty
    assert history.save(Kept(1)) == 1


def test_a_half_made_file_is_a_new_history(history: History) -> None:
    """A kill while the first run is written, tables and all, leaves a history that holds nothing, not a damaged one."""
    code = (
        "import os, sys; from pathlib import Path; from skilllab.experiments.history_file import HistoryFile\n"
        "with HistoryFile(Path(sys.argv[1]), 1.0).writing() as db:\n"
        "    db.execute('PRAGMA cache_size = 1'); db.execute('CREATE TABLE large AS SELECT zeroblob(100000)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, history.path], check=True, timeout=60)
    assert history.path.with_name(f"{history.path.name}-journal").stat().st_size > 0
    assert history.list().empty
    assert history.save(Kept(1)) == 1


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    """A folder, and a path through a file, are refused with the path and what to do."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "runs.sqlite"):
        with pytest.raises(HistoryError, match=rf"{path}.*name a file in a folder that can be written"):
            History(path).save(Kept(1))


def test_a_writer_that_does_not_end(history: History) -> None:
    """When another program writes for longer than one waits, the error says so, and nothing is lost."""
    history.save(Kept(1))
    with sqlite3.connect(history.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HistoryError, match=r"another program is writing for too long: .*with a longer wait"):
            History(history.path, wait=0.01).save(Kept(2))
        assert history.list()["run"].tolist() == [1]
        other.execute("ROLLBACK")
    other.close()
    assert history.save(Kept(2)) == 2


@pytest.mark.slow
def test_kills(tmp_path: Path) -> None:
    """Of 16 kills in the middle of saving none loses an acknowledged run, leaves half a run, or harms the file.

    The results are so large that SQLite writes into the file before the end: what was killed then has to be undone.
    """
    left = keeper("kill", tmp_path, 16)
    assert left["problems"] == []
    assert left["undone"] >= 1, "the kills met no write: they prove nothing"


@pytest.mark.slow
def test_two_writers(tmp_path: Path) -> None:
    """Two programs that make a file and save into it at the same time both get all of their runs in."""
    path = tmp_path / "runs.sqlite"
    command = [sys.executable, KEEPER, "beside", path]
    writers = [
        subprocess.Popen([*command, label, "40"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for label in "ab"
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        print(file=writer.stdin, flush=True)
    runs = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
    kept = History(path)
    assert sorted(runs[0] + runs[1]) == list(range(1, 81))
    assert kept.list(label="a", limit=None)["run"].tolist() == runs[0][::-1]
    assert [kept.load(run).number for run in runs[1]] == list(range(40))
    assert min(runs[0]) < max(runs[1])
    assert min(runs[1]) < max(runs[0])


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path, needs: Callable[[str], str]) -> None:
    """On a full disk the run is refused, those before are whole, and it is saved as soon as there is room."""
    bwrap = [needs("bwrap"), "--dev-bind", "/", "/", "--size", "300000", "--tmpfs", tmp_path]
    command = [*bwrap, sys.executable, KEEPER, "fill", tmp_path / "runs.sqlite"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    check_refusal(json.loads(done.stdout), "there is no room: ")


@pytest.mark.slow
def test_a_file_at_its_limit(tmp_path: Path) -> None:
    """A limit of the system on the size of files does no more harm than a full disk."""
    check_refusal(keeper("fill", tmp_path / "runs.sqlite", LIMIT="1"), "the disk failed or has no room: ")


def check_refusal(left: dict[str, Any], reason: str) -> None:
    assert left["kept"] >= 5
    assert reason in left["message"]
    assert "what it held before is unharmed, and the result is still in memory" in left["message"]
    assert left["whole"] == list(range(left["kept"], 0, -1))
    assert left["next"] == left["kept"] + 1


# surroundings


def test_a_system_that_binds_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process cannot be bound to processors, as on macOS, the cores are those of the machine."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert machine.__wrapped__()["cores"] == 12


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(
        ["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_commit(tmp_path: Path, needs: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is that of the folder, dirty when a file that git knows was changed, and missing before the first."""
    needs("git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
    git(tmp_path, "init")
    assert commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "unknown").touch()
    assert commit(tmp_path) == Commit(git(tmp_path, "rev-parse", "HEAD"), dirty=False)
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == Commit(git(tmp_path, "rev-parse", "HEAD"), dirty=True)


@pytest.mark.parametrize("program", ["exec sleep 60", "exit 128", None])
def test_a_git_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    """A git that hangs, fails or is not installed names no commit and delays no run."""
    if program:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(timeout=0.1) is None
