"""Commands: programs that are started anew for each call, and what they write."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skilllab.programs import tree

WORKER = """
    import json
    from skilllab.programs import rlimits, tree
    from skilllab.programs.commands import Command
    rlimits.adopt_orphans()
    command = Command(json.loads(sys.argv[1]), b"")
    print(json.dumps([command.resting(), sorted(command.descriptors())]), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        command.hold(asked["limits"])
        try:
            head, _, written = command.call(json.dumps(asked).encode()).partition(b"\\n")
            said = json.loads(head)
            said["stdout"] = written[: said["written"]].decode("latin-1")
            said["stderr"] = written[said["written"] :].decode("latin-1")
            print(json.dumps(said), flush=True)
        except Exception as error:
            print(command.failure(error, {"type": type(error).__name__}).decode(), flush=True)
    tree.sweep()
"""
TOO_LONG = 10.0  # s


class Commands:
    """Commands in a worker of their own, asked over its standard input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.resting, self.descriptors = self.answer()

    def answer(self) -> Any:
        output = self.process.stdout
        assert output is not None
        assert select.select([output], [], [], TOO_LONG)[0], "no answer"
        return json.loads(output.readline())

    def __call__(self, *argv: str, stdin: str | None = None, limits: dict[str, int] | None = None) -> Any:
        print(json.dumps({"argv": argv, "stdin": stdin, "limits": limits or {}}), file=self.process.stdin, flush=True)
        return self.answer()


@pytest.fixture
def commands(start_alone: Callable[..., subprocess.Popen[str]]) -> Callable[..., Commands]:
    """A function that makes commands, with what they are told when they are loaded."""

    def make(cwd: str | None = "/", max_output: int = 1 << 20) -> Commands:
        return Commands(start_alone(WORKER, json.dumps({"cwd": cwd, "max_output": max_output})))

    return make


@pytest.fixture
def run(commands: Callable[..., Commands]) -> Commands:
    return commands()


def python(source: str) -> list[str]:
    """The arguments that have Python run the source."""
    return [sys.executable, "-I", "-S", "-c", source]


def test_what_a_program_writes_and_how_it_ends(run: Commands) -> None:
    """Standard output, standard error, exit code and the size of the output come back."""
    said = run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (said["stdout"], said["stderr"], said["status"], said["size"]) == ("out\n", "err\n", 3, 4)


def test_arguments_reach_no_shell(run: Commands) -> None:
    """Each argument arrives as it is, empty ones, spaces, quotes and dollars included."""
    arguments = ["", " a  b ", "$HOME", "`id`", "'\"", "*", "-n", "ä\udcff"]
    said = run("printf", "%s\\n", *arguments)
    text = "".join(f"{argument}\n" for argument in arguments)
    assert said["stdout"].encode("latin-1") == text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("stdin", [None, "", "one\ntwo", "ä\udcff", "x" * 300_000])
def test_standard_input(run: Commands, stdin: str | None) -> None:
    """What is given as standard input arrives, followed by its end; without any it is empty."""
    said = run("cat", stdin=stdin)
    assert said["stdout"].encode("latin-1") == (stdin or "").encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("script", ["exit 4", "exec 0<&-; sleep 0.01; exit 4", "head -c 10 > /dev/null; exit 4"])
def test_standard_input_that_nobody_reads(run: Commands, script: str) -> None:
    """A program that ends, or closes its standard input, before it has read all of it is no failure."""
    assert run("sh", "-c", script, stdin="x" * 1_000_000)["status"] == 4


def test_bytes_that_are_no_text(run: Commands) -> None:
    """Every byte comes back as the character of its number."""
    said = run(*python("import sys; sys.stdout.buffer.write(bytes(range(256)))"))
    assert said["stdout"] == "".join(map(chr, range(256)))


def test_both_pipes_at_once(run: Commands) -> None:
    """A program may fill standard output and error, reading its input meanwhile, without waiting for ever."""
    source = """
import os, sys
for _ in range(20):
    os.write(2, b"e" * 50_000)
    os.write(1, b"o" * 50_000)
    os.read(0, 10_000)
"""
    said = run(*python(source), stdin="i" * 500_000)
    assert (said["size"], said["stdout"], said["status"]) == (1_000_000, "o" * 1_000_000, 0)
    assert said["stderr"] == "e" * (1 << 16)


@pytest.mark.parametrize("most", [0, 1, 1000])
def test_output_is_kept_up_to_a_bound(commands: Callable[..., Commands], most: int) -> None:
    """No more than the bound is kept, all of it is counted, and the program may go on writing."""
    said = commands(max_output=most)(*python("print('x' * 200_000, end='')"))
    assert (said["stdout"], said["size"], said["status"]) == ("x" * most, 200_000, 0)


def test_a_signal_is_told_as_a_negative_status(run: Commands) -> None:
    """A program that a signal ends has that signal's number, negative, as its status."""
    assert run("sh", "-c", "kill -TERM $$")["status"] == -15


def test_signals_are_as_a_program_expects_them(run: Commands) -> None:
    """A broken pipe and a file that is too large end a program, as they do under a shell: Python's ways do not spread."""
    assert run("sh", "-c", "kill -PIPE $$")["status"] == -13
    assert run("sh", "-c", "kill -XFSZ $$")["status"] == -25
    assert run("sh", "-c", "kill -INT $$")["status"] == -2


@pytest.mark.parametrize("name", ["no-such-program", "/etc/passwd", "/"])
def test_a_program_that_cannot_be_started(run: Commands, name: str) -> None:
    """The status is that of a shell in this case, and standard error says why."""
    said = run(name, "argument")
    assert said["status"] == 127
    assert said["stderr"].startswith(f"{name}: [Errno ")


def test_an_argument_that_no_program_can_have(run: Commands) -> None:
    """What the system cannot pass on fails the call, and the worker goes on."""
    assert run("echo", "a\0b")["status"] == 127
    assert run("echo", stdin="\ud800") == {"type": "UnicodeEncodeError"}
    assert run("echo")["status"] == 0


def test_where_a_program_begins(commands: Callable[..., Commands], tmp_path: Path) -> None:
    """It begins in the folder that is asked for, else where its worker is."""
    assert commands(cwd=str(tmp_path))("pwd")["stdout"] == f"{tmp_path}\n"
    assert commands(cwd=None)("pwd")["stdout"] == "/\n"


def test_limits_are_those_of_the_program(run: Commands, tmp_path: Path) -> None:
    """Limits hold for the program of a call, not for the worker nor for the next call."""
    path = str(tmp_path / "file")
    said = run("sh", "-c", f"head -c 5000 /dev/zero > {path}", limits={"file_size": 4096})
    assert (said["status"], os.path.getsize(path)) == (153, 4096)
    assert run("sh", "-c", "ulimit -n", limits={"open_files": 20})["stdout"] == "20\n"
    assert run("sh", "-c", f"head -c 5000 /dev/zero > {path}")["status"] == 0


def test_descriptors_begin_with_the_standard_ones(run: Commands) -> None:
    """A program has its standard input, output and error and nothing of the worker's."""
    assert run.descriptors == [0, 1, 2]
    said = run("sh", "-c", "ls /proc/self/fd")
    assert said["stdout"].split() == ["0", "1", "2", "3"]  # the last is that which looks


def test_memory_is_measured(run: Commands) -> None:
    """The most memory that a program held is told, beside what any program seems to have held."""
    small, large = run("true"), run(*python("kept = bytearray(b'x') * (64 << 20)"))
    assert 0 < small["memory"] <= small["floor"] == large["floor"] < 64 << 20
    assert large["memory"] >= 64 << 20
    assert 1 << 20 <= run.resting <= 64 << 20


@pytest.mark.parametrize("redirected", ["", " > /dev/null 2>&1 < /dev/null"])
def test_a_child_that_is_left_does_not_hold_the_call_up(run: Commands, redirected: str) -> None:
    """A call is over when its program has ended, whoever still holds its pipes; what was written until then is kept."""
    begin = time.monotonic()
    said = run("sh", "-c", f"sleep 60{redirected} & echo done")
    assert (said["stdout"], said["status"]) == ("done\n", 0)
    assert time.monotonic() - begin < 5


def test_what_a_child_writes_before_the_end_is_output(run: Commands) -> None:
    """Children write to the same pipes, and the program that waits for them ends after them."""
    assert run("sh", "-c", "(echo child) & wait; echo parent")["stdout"] == "child\nparent\n"


def test_a_program_that_closes_its_output_may_run_on(run: Commands) -> None:
    """Closed pipes are not the end of a program: its status is waited for."""
    said = run("sh", "-c", "echo a; exec >&- 2>&-; sleep 0.02; exit 5")
    assert (said["stdout"], said["status"]) == ("a\n", 5)


def test_nothing_is_left_open(run: Commands) -> None:
    """Call after call, some of which fail, leaves no descriptor in the worker and no process below it."""

    def opened() -> int:
        return len(os.listdir(f"/proc/{run.process.pid}/fd"))

    run("true")
    before = opened()
    for _ in range(15):
        run("cat", stdin="x" * 1000)
        run("no-such-program")
        run("echo", stdin="\ud800")
    assert opened() == before
    assert tree.children(run.process.pid) == []
