"""What the tests of the programs share: processes of their own, which end with the test."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from skilllab.programs import tree

ROOT = Path(__file__).parents[2]
_PATIENCE = 20.0  # s


def program(source: str, *arguments: str) -> list[str]:
    """Returns the command that runs the source as the programs of the package run, without installed packages."""
    text = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{textwrap.dedent(source)}"
    return [sys.executable, "-I", "-S", "-c", text, *arguments]


def end(process: subprocess.Popen[str]) -> None:
    """Ends the process and all that it has started or adopted, and closes the pipes to it."""
    for pid in (*tree.descendants(process.pid), process.pid) if process.poll() is None else ():
        tree.kill(pid)
    process.wait(_PATIENCE)
    for pipe in (process.stdin, process.stdout, process.stderr):
        with suppress(BrokenPipeError):  # of what was written to it and never read
            if pipe is not None:
                pipe.close()


@pytest.fixture
def run_alone() -> Callable[..., str]:
    """A function that runs source in a process of its own and returns what it printed; it may not complain."""

    def run(source: str, *arguments: str) -> str:
        process = subprocess.Popen(
            program(source, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        try:
            stdout, stderr = process.communicate(timeout=_PATIENCE)
        finally:
            end(process)
        assert (process.returncode, stderr) == (0, "")
        return stdout.strip()

    return run


@pytest.fixture
def start_alone() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts source in a process of its own, with pipes to its standard input and output."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            program(source, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
            cwd="/",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        end(process)
