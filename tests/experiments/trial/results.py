"""Results of trials as a test says that they were."""

from __future__ import annotations

from typing import Any

from skilllab.experiments.trial import ToolTrial, TrialResult
from skilllab.settings import TRIAL_DURATION

MESSAGES = {"ToolError": "work: no tea", "ExecutionTimeoutError": "work: too late", "ServerLostError": "work: it ended"}


def trial_of(handler: list[float], *, rate: float = 20.0, **fields: Any) -> TrialResult:
    zeros = (0.0,) * len(handler)
    at = tuple(number / rate for number in range(len(handler)))
    rest: dict[str, Any] = {
        "first": 0.01,
        "late": zeros,
        "queue": zeros,
        "size": (5.0,) * len(handler),
        "error": ("",) * len(handler),
    }
    only = ToolTrial("work", at=at, handler=tuple(handler), **{"params": {}, **rest, **fields.pop("tool", {})})
    given: dict[str, Any] = {
        "target": "my-server",
        "kind": "mcp",
        "title": "MCP server mine",
        "connect": 0.1,
        "connecting": "connection",
        "rate": rate,
        "duration": TRIAL_DURATION,
        "elapsed": 10.0,
        "tools": (only,),
        "passed_over": {},
        "floor": (1e-5,) * 200,
    }
    return TrialResult(**{**given, **fields})


STEADY = [0.01, 0.011] * 200
