"""The recorder: what it sees of real programs, what it leaves out, and what it leaves alone."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from skilllab.errors import TraceError
from skilllab.trace import Trace
from skilllab.trace.places import Places
from skilllab.trace.record import Recording, main, parse, record


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two files to read."""
    (tmp_path / "a.txt").write_text("a" * 10)
    (tmp_path / "b.txt").write_text("b" * 200)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(project: Path, source: str, *arguments: str) -> Recording:
    (project / "tool.py").write_text(source)
    return record(["tool.py", *arguments])


def reads(recording: Recording) -> Counter[str]:
    """How often each text file of the project was read."""
    names = recording.trace.frame()["name"]
    return Counter(name.removeprefix("<project>/") for name in names if name.endswith(".txt"))


def test_reads_are_recorded_with_time_and_size(project: Path) -> None:
    """Each open for reading is an access in order of time, with the size that the file had then."""
    recording = run(
        project,
        "import time\n"
        "for name in ('a.txt', 'b.txt', 'a.txt'):\n"
        "    open(name).close()\n"
        "    time.sleep(0.002)\n"
        "open('a.txt', 'a').write('more')\n"
        "open('a.txt').close()\n",
    )
    frame = recording.trace.frame()
    rows = frame[frame["name"].str.endswith(".txt")]
    assert rows["name"].str.removeprefix("<project>/").tolist() == ["a.txt", "b.txt", "a.txt", "a.txt"]
    assert rows["size"].tolist() == [10, 200, 10, 14]
    assert (rows["time"].diff()[1:3] >= 0.002).all()
    assert recording.trace.meta["writes"] == 1
    assert recording.trace.meta["command"] == "tool.py"


def test_what_is_no_access_is_left_out_and_works_as_before(project: Path) -> None:
    """Writes, descriptors, folders, devices and files that are not there are no accesses, and raise what they raised."""
    recording = run(
        project,
        "import os\n"
        "open('new.txt', 'w').close()\n"
        "handle = os.open(b'a.txt', os.O_RDONLY)\n"
        "open(handle).close()\n"
        "os.close(os.open('.', os.O_RDONLY))\n"
        "open('/dev/null').close()\n"
        "for name, error in (('none.txt', FileNotFoundError), ('.', IsADirectoryError), ('\\0', ValueError)):\n"
        "    try:\n"
        "        open(name)\n"
        "    except error:\n"
        "        continue\n"
        "    raise SystemExit(f'{name} opened')\n",
    )
    assert recording.exit_code == 0
    assert reads(recording) == {"a.txt": 1}
    assert not any("null" in name for name in recording.trace.names or ())


def test_child_processes_are_recorded(project: Path) -> None:
    """Forked workers, other Python programs and their children stand in the same trace, on the same clock."""
    recording = run(
        project,
        "import os, subprocess, sys\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    open('a.txt').close()\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "subprocess.run([sys.executable, '-c', \"open('b.txt').close()\"], check=True)\n"
        "open('a.txt').close()\n",
    )
    frame = recording.trace.frame()
    names = frame["name"][frame["name"].str.endswith(".txt")].str.removeprefix("<project>/")
    assert names.tolist() == ["a.txt", "b.txt", "a.txt"]


def test_a_program_that_closes_every_descriptor_is_still_recorded(project: Path) -> None:
    """The recorder holds no descriptor open, so a daemon that closes all of them neither breaks it nor is written into."""
    recording = run(
        project,
        "import os\n"
        "os.closerange(3, 256)\n"
        "out = os.open('out.bin', os.O_CREAT | os.O_WRONLY)\n"
        "assert out == 3\n"
        "open('a.txt').close()\n"
        "assert os.stat('out.bin').st_size == 0\n",
    )
    assert recording.exit_code == 0
    assert reads(recording) == {"a.txt": 1}


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("sys.stderr.close(); raise KeyError(1)", 1),
        ("os._exit(5)", 5),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_the_exit_code_passes_through_however_it_ends(project: Path, ending: str, code: int) -> None:
    """After exit, exception, hard exit and kill alike, the trace has what was read and the code is the program's."""
    recording = run(project, f"import os, signal, sys\nopen('a.txt').close()\n{ending}\n")
    assert recording.exit_code == code
    assert reads(recording) == {"a.txt": 1}


def test_modules_and_commands_can_be_recorded(project: Path) -> None:
    """`-m` runs a module with this Python; any other word is a command, whose Python processes are recorded."""
    (project / "tool.py").write_text("import sys\nfor name in sys.argv[1:]: open(name).close()\n")
    assert reads(record(["-m", "tool", "a.txt"])) == {"a.txt": 1}
    shell = ["sh", "-c", f"'{sys.executable}' tool.py a.txt; '{sys.executable}' tool.py b.txt"]
    assert reads(record(shell)) == {"a.txt": 1, "b.txt": 1}


def test_the_program_sees_its_own_environment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH still works, a sitecustomize of the machine still runs, and the recorder's folder is not importable."""
    (project / "extra").mkdir()
    (project / "extra" / "sitecustomize.py").write_text("import builtins\nbuiltins.customised = True\n")
    (project / "extra" / "helper.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(project / "extra"))
    recording = run(
        project,
        "import helper, sys, sitecustomize\n"
        "assert customised\n"
        "assert 'extra' in sitecustomize.__file__\n"
        "assert not any(path.endswith('inject') for path in sys.path)\n",
    )
    assert recording.exit_code == 0


def test_what_cannot_be_recorded_is_refused(project: Path) -> None:
    """No program, an unknown command, and a command without any Python process raise errors that say so."""
    with pytest.raises(TraceError, match="no program to run"):
        record([])
    with pytest.raises(TraceError, match="'no-such-command' cannot be started: No such file"):
        record(["no-such-command"])
    with pytest.raises(TraceError, match="no Python process of 'true' opened a file"):
        record(["true"])


def test_the_command_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It writes the file, keeps the program's output apart from its own line, and returns the program's exit code."""
    (project / "tool.py").write_text("open('a.txt').close()\nprint('hello')\nraise SystemExit(3)\n")
    assert main(["--output", "run.trace", "--", "tool.py"]) == 3
    out, err = capfd.readouterr()
    assert out == "hello\n"
    assert err.startswith("run.trace: Trace(")
    assert Trace.read("run.trace").meta["command"] == "tool.py"


def test_the_command_line_refuses_before_it_runs(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An output folder that is not there stops it before the program starts, with code 2 and one line."""
    (project / "tool.py").write_text("open('ran.txt', 'w').close()\n")
    assert main(["--output", "no/run.trace", "--", "tool.py"]) == 2
    assert "its folder is not there" in capfd.readouterr().err
    assert not (project / "ran.txt").exists()


def test_a_record_cut_short_is_left_out() -> None:
    """What a killed process had half written is dropped; accesses are sorted by time, writes and devices are not read."""
    log = b"2.5\t10\tr\t/a\x001.5\t20\tr\t/b\x001.6\t0\tw\t/c\x001.7\t0\tr\t/proc/x\x001.8\t3"
    assert parse(log) == ([(1.5, 20, "/b"), (2.5, 10, "/a")], 1)


def test_names_tell_nothing_about_the_machine() -> None:
    """The innermost known folder names a file; elsewhere only its own name is left; the user's name is replaced."""
    places = Places({"/home/ann": "<home>", "/home/ann/code": "<project>", "/tmp": "<temp>"}, user="ann")
    assert places.name("/home/ann/code/a/b.py") == "<project>/a/b.py"
    assert places.name("/home/ann/code/../x") == "<home>/x"
    assert places.name("/home/annabel/x").startswith("<elsewhere ")
    assert places.name("/tmp/pytest-of-ann/anna-ann.txt") == "<temp>/pytest-of-<user>/anna-<user>.txt"
    one, other = places.name("/srv/one/data.csv"), places.name("/srv/two/data.csv")
    assert one.endswith(">/data.csv")
    assert "srv" not in one
    assert one != other
    assert places.scrub("tool /home/ann/code/x --by ann") == "tool <project>/x --by <user>"


def test_names_hide_this_machine(project: Path) -> None:
    """No name in a fresh recording holds an absolute path, the home folder, or the working folder."""
    recording = run(project, "import json, subprocess\nopen('a.txt').close()\n")
    names = recording.trace.names or ()
    assert any(name.startswith("<stdlib>/json/") for name in names)
    assert not any(name.startswith("/") or str(project) in name or str(Path.home()) in name for name in names)
    assert os.environ.get("USER", "nobody-at-all") not in str(dict(recording.trace.meta)).split()
