"""Records which files a Python program reads: python -m skilllab.trace.record --output FILE -- PROGRAM ARGS...

PROGRAM is a script (tool.py), a module (-m mypy), or any command; every Python process that it starts is recorded,
worker processes included, except those started with -I, -E or -S, which ignore the environment. Files that the
interpreter opens before it can be customised are not seen. Reading an open file is not seen either: an access is one
open for reading of a regular file, its size the size at that moment. Writes are counted in the provenance only.

The program keeps its input, output and exit code (128 + n after signal n). The trace is written however it ends.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skilllab.errors import SkilllabError, TraceError
from skilllab.trace.inject.sitecustomize import LOG
from skilllab.trace.places import Places
from skilllab.trace.trace import Trace

INJECT = Path(__file__).parent / "inject"
NOT_FILES = ("/proc/", "/sys/", "/dev/")


@dataclass(frozen=True, slots=True)
class Recording:
    """What `record` returns: the trace, and how the program ended."""

    trace: Trace
    exit_code: int


def record(program: Sequence[str], meta: dict[str, str] | None = None) -> Recording:
    """Runs a program and returns what it read.

    program: a script, `-m` and a module, or a command, with arguments. meta: further facts to keep with the trace.
    Raises TraceError when it cannot be started or no Python process read anything.
    """
    if not program:
        raise TraceError("there is no program to run; write it after --, for example: -- -m mypy src")
    python = program[0].startswith("-") or program[0].endswith(".py")
    command = [sys.executable, *program] if python else list(program)
    with tempfile.TemporaryDirectory(prefix="skilllab-trace-") as folder:
        log = Path(folder, "log")
        log.touch()
        exit_code = _run(command, log)
        reads, writes = parse(log.read_bytes())
    if not reads:
        raise TraceError(f"no Python process of {command[0]!r} opened a file for reading; there is nothing to record")
    facts: dict[str, str | int] = {"command": " ".join(program), "python": platform.python_version(), "writes": writes}
    return Recording(_trace(reads, facts | dict(meta or {})), exit_code)


def parse(log: bytes) -> tuple[list[tuple[float, int, str]], int]:
    """Returns the reads as (time in s, size in bytes, path) in order of time, and the number of writes.

    A last record that was cut short, because the program was killed, is left out.
    """
    reads: list[tuple[float, int, str]] = []
    writes = 0
    for line in log.split(b"\0")[:-1]:
        time, size, mode, path = os.fsdecode(line).split("\t", 3)
        if path.startswith(NOT_FILES):
            continue
        if mode == "w":
            writes += 1
        else:
            reads.append((float(time), int(size), path))
    return sorted(reads, key=lambda read: read[0]), writes


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the program's exit code, or 2 when nothing could be recorded."""
    parser = argparse.ArgumentParser(prog="python -m skilllab.trace.record", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", required=True, type=Path, help="the trace file to write, for example run.trace")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="-- and the program with its arguments")
    options = parser.parse_args(arguments)
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    try:
        # Before the program runs, not after an hour of it.
        if not options.output.parent.is_dir():
            raise TraceError(f"{options.output} cannot be written: its folder is not there; make it first")
        recording = record(program)
        recording.trace.write(options.output)
    except SkilllabError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(f"{options.output}: {recording.trace!r}\n")
    return recording.exit_code


def _run(command: list[str], log: Path) -> int:
    path = os.pathsep.join(filter(None, [str(INJECT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {LOG: str(log), "PYTHONPATH": path}
    try:
        with subprocess.Popen(command, env=environment) as process:
            code = _waited(process)
    except OSError as error:
        raise TraceError(f"{command[0]!r} cannot be started: {error.strerror}; check its name") from error
    return code if code >= 0 else 128 - code


def _waited(process: subprocess.Popen[bytes]) -> int:
    """Waits through Ctrl-C: it reaches the program as well, and the program decides what it means."""
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: only that one gets Ctrl-C
        return process.wait()
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _trace(reads: list[tuple[float, int, str]], facts: dict[str, str | int]) -> Trace:
    places = Places.here()
    names = {path: places.name(path) for path in {path for _, _, path in reads}}
    times, sizes, paths = zip(*reads, strict=True)
    facts["command"] = places.scrub(str(facts["command"]))
    return Trace.from_keys([names[path] for path in paths], time=times, size=sizes, meta=facts)


if __name__ == "__main__":
    sys.exit(main())
