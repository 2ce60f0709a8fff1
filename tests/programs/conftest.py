"""What the tests of the programs share: processes of their own, which end with the test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PATIENCE = 20.0  # s


def program(source: str, *arguments: str, site: bool = False) -> list[str]:
    """Returns the command that runs the source as the programs of the package run: without site, unless asked for."""
    flags = ["-I"] if site else ["-I", "-S"]
    text = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{textwrap.dedent(source)}"
    return [sys.executable, *flags, "-c", text, *arguments]


@pytest.fixture
def run_alone() -> Callable[..., str]:
    """A function that runs source in a process of its own and returns what it printed; it may not complain."""

    def run(source: str, *arguments: str, site: bool = False, pass_fds: tuple[int, ...] = ()) -> str:
        argv = program(source, *arguments, site=site)
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_PATIENCE, check=False, pass_fds=pass_fds, cwd="/"
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

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
        process.kill()
        process.wait(_PATIENCE)
        for end in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):  # of what was written to it and never read
                end.close()  # type: ignore[union-attr]


@pytest.fixture
def open_pipe() -> Iterator[Callable[[], tuple[int, int]]]:
    """A function that opens a pipe, which is closed after the test."""
    made: list[int] = []

    def pipe() -> tuple[int, int]:
        made.extend(ends := os.pipe())
        return ends

    yield pipe
    for descriptor in made:
        with suppress(OSError):
            os.close(descriptor)
