"""An outage measured in a process of its own: whoever watches it, and draws, takes no time from it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import asdict

from skilllab.errors import SkilllabError
from skilllab.experiments.failures.outages import OnProgress, Scenario
from skilllab.experiments.failures.timeline import Outage
from skilllab.programs.values import Values


async def outage_apart(scenario: Scenario, *, on_progress: OnProgress | None = None) -> Outage:
    """Returns what `outage` measures in another process, which ends with it, also when the caller is cancelled.

    Raises what `outage` raises, and SkilllabError when the process ends too early.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        __package__,
        json.dumps(asdict(scenario)),
        stdin=DEVNULL,
        stdout=PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    said = Values(child.stdout)
    try:
        while True:
            what, told = await said.read()
            if what == "error":
                raise told
            if what == "end":
                made: Outage = told
                return made
            if on_progress is not None:
                on_progress(told)
    except EOFError:
        code = await child.wait()
        raise SkilllabError(
            f"the process {child.pid} that measured the outage ended with exit code {code}: run it again"
        ) from None
    finally:
        if child.returncode is None:
            child.kill()  # its servers end by themselves when it is gone
        await child.wait()
