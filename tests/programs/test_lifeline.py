"""Lifelines: a process ends when whoever started it is gone, whatever it is doing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

CHILD = """
import os, sys, time
from skilllab.programs.lifeline import die_with
die_with(int(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
{work}
"""
PARENT = """
import os, subprocess, sys, time
watched, lifeline = os.pipe()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(watched), str(os.getpid())], pass_fds=(watched,))
os.close(watched)
print(child.pid, flush=True)
time.sleep(60)
"""
WORK = {
    "sleeps": "time.sleep(60)",
    "keeps the interpreter": "sum(range(10**10))",
    "has a child": "import subprocess; subprocess.run(['sleep', '3'], pass_fds=(int(sys.argv[1]),)); time.sleep(60)",
}


@pytest.mark.parametrize("work", WORK)
def test_a_process_ends_with_its_parent(work: str) -> None:
    """Its parent is killed outright: a process that sleeps, computes or waits for a child of its own is gone soon."""
    command = [sys.executable, "-c", PARENT, CHILD.format(work=WORK[work])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = sorted(parent.stdout.readline().strip() for _ in range(2))
        child = psutil.Process(int(said[0]))
        parent.kill()
    end = time.monotonic() + 2.0
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_lives_as_long_as_its_parent_holds_the_line() -> None:
    """A process whose parent is there works on to its end; closing the line ends it."""
    watched, lifeline = os.pipe()
    command = [sys.executable, "-c", CHILD.format(work="time.sleep(60)"), str(watched), str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(watched,)) as child:
        os.close(watched)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0.3)
        os.close(lifeline)
        assert child.wait(timeout=2.0) == -9
