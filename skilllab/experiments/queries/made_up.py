"""A made-up catalogue of any size: seeded, quick to make, and the same on every machine."""

from __future__ import annotations

import gc
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError
from skilllab.model import SkillDefinition
from skilllab.query import SkillQuery
from skilllab.registry import InMemorySkillRegistry

T = TypeVar("T")
Drawn = npt.NDArray[np.int64]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CATEGORIES = _words(
    "file-operations data-processing text images audio video web-search mail calendar maps payments weather "
    "translation code-analysis databases monitoring documents people commerce security"
)
TAGS = _words(
    "io utility csv json xml pdf table chart search index read write convert merge split sort filter validate compress "
    "encrypt sign hash parse render resize crop stream batch async cache retry queue log metric trace alert report "
    "email chat voice speech image video audio map route price stock order invoice refund user team role token "
    "secret backup restore sync diff"
)
VERBS = _words(
    "reads writes converts merges splits sorts filters validates compresses encrypts parses renders resizes streams "
    "counts compares translates summarises indexes searches schedules monitors archives publishes"
)
NOUNS = _words(
    "files tables records messages images invoices orders events calendars contacts reports charts logs archives "
    "documents passwords tokens routes prices forecasts comments tickets branches packages queries sessions"
)
MANNERS = _words(
    "quickly safely nightly in-place by-name by-date by-size by-owner in-batches on-demand in-order in-parallel"
)
"""What the words of a made-up catalogue are: 20 categories, 60 tags, 24 verbs, 26 nouns, 12 manners."""


def make_skills(count: int, *, seed: int = 0) -> list[SkillDefinition]:
    """Returns made-up definitions without handlers: layer, category, tags and words drawn evenly and independently.

    The first n of a larger count are those of a count of n. Raises InvalidValueError for a count below 1.
    """
    check_count(count)
    fields = ((1, 2, 3), CATEGORIES, VERBS, NOUNS, MANNERS)
    choices = [len(words) for words in fields] + [len(TAGS) - drawn for drawn in range(3)]
    # A stream for each column: more skills then only lengthen the columns.
    streams = np.random.default_rng(seed).spawn(len(choices))
    columns = [rng.integers(0, many, count) for rng, many in zip(streams, choices, strict=True)]
    tags = np.stack(_distinct(*columns[5:]), axis=1).tolist()
    draws = [column.tolist() for column in columns[:5]]
    with _no_collection():
        return [
            SkillDefinition(
                id=f"skill-{number}",
                name=f"{VERBS[verb]} {NOUNS[noun]} {number}",
                layer=layer + 1,
                category=CATEGORIES[category],
                tags=tuple([TAGS[tag] for tag in own]),
                description=f"{VERBS[verb]} {NOUNS[noun]} {MANNERS[manner]}",
                author="skilllab",
            )
            for number, (own, layer, category, verb, noun, manner) in enumerate(zip(tags, *draws, strict=True))
        ]


def specific_queries(
    skills: Sequence[SkillDefinition], count: int, *, limit: int | None = 20, seed: int = 0
) -> list[SkillQuery]:
    """Returns queries for category, layer and any of two tags, each taken from a skill that is there.

    Raises InvalidValueError for a count below 1 and for no skills.
    """
    check_count(count)
    if not skills:
        raise InvalidValueError(f"skills={skills!r} must hold at least one skill to ask for")
    rng = np.random.default_rng(seed)
    chosen = [skills[place] for place in rng.integers(0, len(skills), count)]
    return [SkillQuery(skill.layer, skill.category, skill.tags[:2], limit=limit) for skill in chosen]


def build_registry(count: int, *, seed: int = 0) -> InMemorySkillRegistry:
    """Returns a registry of `count` made-up skills without a cache; one step a line, for a profiler that reads lines."""
    skills = make_skills(count, seed=seed)
    registry = InMemorySkillRegistry(cache=None)
    register_all(registry, skills)
    registry.optimize()
    return registry


def filled(skills: Iterable[SkillDefinition]) -> InMemorySkillRegistry:
    """Returns a registry of these skills without a cache, its indexes compacted."""
    registry = InMemorySkillRegistry(cache=None)
    register_all(registry, skills)
    registry.optimize()
    return registry


def register_all(registry: InMemorySkillRegistry, skills: Iterable[SkillDefinition]) -> None:
    """Registers the skills in order; needs no event loop."""
    with _no_collection():
        for skill in skills:
            finished(registry.register(skill))


def check_count(count: int) -> None:
    """Raises InvalidValueError unless the count is a whole number of at least 1."""
    if type(count) is not int or count < 1:
        raise InvalidValueError(f"count={count!r} must be a whole number of at least 1")


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that never waits, without an event loop; `discover` is one.

    Raises InvalidValueError for one that waits.
    """
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise InvalidValueError(f"{work!r} waits for something: await it instead")


def _distinct(first: Drawn, second: Drawn, third: Drawn) -> tuple[Drawn, Drawn, Drawn]:
    """Returns three draws without replacement: the second was drawn from one less, the third from two less."""
    second = second + (second >= first)
    third = third + (third >= np.minimum(first, second))
    return first, second, third + (third >= np.maximum(first, second))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector from walking, again and again, through all the skills made so far."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
