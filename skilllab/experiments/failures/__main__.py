"""The process of `outage_apart`: measures the outage that its argument describes, and tells on its standard output."""

from __future__ import annotations

import asyncio
import json
import sys

from skilllab.errors import SkilllabError
from skilllab.experiments.failures.outages import Scenario, outage
from skilllab.programs.values import pack


def _say(what: str, told: object) -> None:
    sys.stdout.buffer.write(pack((what, told)))
    sys.stdout.buffer.flush()  # raises, and so ends this process, when nobody listens any more


if __name__ == "__main__":
    try:
        scenario = Scenario(**json.loads(sys.argv[1]))
        _say("end", asyncio.run(outage(scenario, on_progress=lambda so_far: _say("so far", so_far))))
    except SkilllabError as error:
        _say("error", error)
