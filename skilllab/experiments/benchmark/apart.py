"""A run in a fresh process, which starts with nothing of ours but the functions that travel to it."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from typing import Any

import cloudpickle

from skilllab.engine.confined import by_value
from skilllab.errors import InvalidValueError, SkilllabError
from skilllab.experiments.benchmark.arms import Arm
from skilllab.experiments.benchmark.runs import Run
from skilllab.programs.values import Values


def packed(arms: Mapping[str, Arm]) -> bytes:
    """Returns arms as bytes that another process understands; raises InvalidValueError for what cannot travel.

    The modules of functions that cannot be imported there by their names (of a notebook, say) travel by value.
    """
    functions = [each for arm in arms.values() for each in (arm.call, arm.setup, arm.reset, arm.teardown)]
    try:
        with by_value(functions):
            data: bytes = cloudpickle.dumps(dict(arms))
    except Exception as error:
        raise InvalidValueError(
            f"arms {', '.join(map(repr, arms))} cannot travel to a fresh process: {type(error).__name__}: {error}; "
            "make what they need in `Arm(setup=...)`"
        ) from error
    return data


async def run_apart(arms: bytes, asked: Mapping[str, Any]) -> Run:
    """Returns what a fresh process measures; it ends with the caller, also when that is cancelled or killed.

    Raises what the arms raise there, and SkilllabError when the process ends without a word.
    """
    watched, lifeline = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", __package__, str(watched), str(os.getpid())),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            pass_fds=(watched,),
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(watched)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(pickle.dumps((sys.path, arms, dict(asked))))
        child.stdin.write_eof()
        what, told = await Values(child.stdout).read()
    except (EOFError, ConnectionError):
        code = await child.wait()
        raise SkilllabError(
            f"the process of a benchmark ended with exit code {code} and no result: run it again"
        ) from None
    finally:
        os.close(lifeline)
        if child.returncode is None:
            child.kill()
        await child.wait()
    if what == "error":
        raise told
    run: Run = told
    return run
