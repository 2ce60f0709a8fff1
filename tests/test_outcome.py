"""What runs produce: results, metadata and events as tuples with names."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from skilllab.engine.execution import NOT_STARTED
from skilllab.errors import ExecutionTimeoutError, SkillFailedError
from skilllab.outcome import (
    EVENT_NAMES,
    BreakerEvent,
    ExecutionEvent,
    ExecutionMetadata,
    ExecutionResult,
    LoopBlockedEvent,
    ResourceUsage,
)

METADATA = ExecutionMetadata(
    execution_id="1",
    skill_id="a",
    layer=1,
    isolation="none",
    start=5.0,
    duration=0.5,
    queue_time=0.25,
    overhead=0.1,
    attempts=1,
    cached=False,
    longest_step=0.01,
    resource_usage=ResourceUsage(cpu_time=0.4),
)


def test_a_result_succeeds_when_it_has_no_error() -> None:
    """success is the absence of an error, also with an output of None."""
    assert ExecutionResult(None, None, METADATA).success
    assert not ExecutionResult(None, SkillFailedError("x"), METADATA).success


def test_results_and_events_travel() -> None:
    """Through pickle and deepcopy they come back equal, an error with its type, its text and what it knows."""
    result = ExecutionResult({"a": [1]}, None, METADATA)
    event = ExecutionEvent("execution-complete", "1", "a", 6.0, result)
    for again in (pickle.loads(pickle.dumps(event)), copy.deepcopy(event)):
        assert again == event
        assert type(again.result.metadata) is ExecutionMetadata
    failed = ExecutionResult(None, ExecutionTimeoutError("late", timeout=1.0, stage="run"), METADATA)
    error: Any = pickle.loads(pickle.dumps(failed)).error
    assert (type(error), str(error), error.timeout, error.stage) == (ExecutionTimeoutError, "late", 1.0, "run")


def test_nothing_of_them_can_be_set() -> None:
    """They are frozen, and so is the shared mapping of reasons."""
    result = ExecutionResult(1, None, METADATA)
    for owner, name in ((result, "output"), (METADATA, "cached"), (METADATA.resource_usage, "cpu_time")):
        with pytest.raises(AttributeError):
            setattr(owner, name, 2)
    usage: Any = ResourceUsage()
    with pytest.raises(TypeError, match="frozen"):
        usage.unmeasured["cpu_time"] = "x"


def test_what_was_not_measured_says_why() -> None:
    """The usage of what did not run has a reason for every figure it lacks."""
    lacking = {name for name in ResourceUsage._fields if name != "unmeasured" and getattr(NOT_STARTED, name) is None}
    assert lacking == {"cpu_time", "memory_used", "network_requests", "redirects"} == set(NOT_STARTED.unmeasured)
    assert set(NOT_STARTED.unmeasured.values()) == {"the skill did not run for this call"}


def test_every_event_has_its_name() -> None:
    """The names that one can listen to are those that the events carry."""
    hints = [kind.__annotations__["name"] for kind in (ExecutionEvent, BreakerEvent, LoopBlockedEvent)]
    named = [
        name for name in EVENT_NAMES if any(f'"{name}"' in str(hint) or f"'{name}'" in str(hint) for hint in hints)
    ]
    assert tuple(named) == EVENT_NAMES
