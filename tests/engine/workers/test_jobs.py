"""Jobs: each is made once, so that the next call finds its workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cachetools import LRUCache

from skilllab.engine.workers.worker import made_once
from skilllab.model import ResourceLimits


class Runner:
    """Makes jobs that are told apart by their number."""

    def __init__(self, most: int = 10) -> None:
        self.jobs = LRUCache[Any, Any](most)
        self.made = 0

    @made_once
    def job(self, skill: Any, limits: ResourceLimits) -> int:
        self.made += 1
        return self.made


def skill(name: str, revision: int = 1) -> Any:
    return SimpleNamespace(definition=SimpleNamespace(id=name), revision=revision)


def test_a_job_is_made_once() -> None:
    """One skill at one revision within equal limits has one job, also when it was loaded anew; any other has its own."""
    runner, none = Runner(), ResourceLimits()
    assert [runner.job(skill("a"), none), runner.job(skill("a"), ResourceLimits())] == [1, 1]
    assert runner.job(skill("a", 2), none) == 2
    assert runner.job(skill("b"), none) == 3
    assert runner.job(skill("a"), ResourceLimits(max_duration=1.0)) == 4
    assert runner.job(skill("a"), none) == 1
    assert Runner().job(skill("b"), none) == 1


def test_only_the_job_that_was_not_asked_for_longest_goes() -> None:
    """Where no more are kept, those in use stay the same, and so do their workers."""
    runner, none = Runner(most=2), ResourceLimits()
    assert [runner.job(skill(name), none) for name in "abacab"] == [1, 2, 1, 3, 1, 4]
