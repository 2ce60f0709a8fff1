"""Asking for skills: a seeded catalogue, the registry's two peers (a linear scan, SQLite), and fair timings of all.

A peer answers a SkillQuery as the registry does: the ids of the page in order of registration, and the number of all
matches. `prepare(query)` does what need not be done for each call and returns the call.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from skilllab.cache.cache import SkillCache
from skilllab.errors import InvalidValueError
from skilllab.model import SkillDefinition, SkillQuery
from skilllab.postings import words_of
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import Array, Comparison, Interval, interleave, paired_bootstrap, quantile, quantile_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

T = TypeVar("T")

CATEGORIES = tuple(
    "file-operations data-processing text images audio video web-search mail calendar maps payments weather "
    "translation code-analysis databases monitoring documents people commerce security".split()
)
TAGS = tuple(
    "io utility csv json xml pdf table chart search index read write convert merge split sort filter validate compress "
    "encrypt sign hash parse render resize crop stream batch async cache retry queue log metric trace alert report "
    "email chat voice speech image video audio map route price stock order invoice refund user team role token "
    "secret backup restore sync diff".split()
)
VERBS = tuple(
    "reads writes converts merges splits sorts filters validates compresses encrypts parses renders resizes streams "
    "counts compares translates summarises indexes searches schedules monitors archives publishes".split()
)
NOUNS = tuple(
    "files tables records messages images invoices orders events calendars contacts reports charts logs archives "
    "documents passwords tokens routes prices forecasts comments tickets branches packages queries sessions".split()
)
MANNERS = tuple(
    "quickly safely nightly in-place by-name by-date by-size by-owner in-batches on-demand in-order in-parallel".split()
)
"""What the words of a made-up catalogue are: 20 categories, 60 tags, 24 verbs, 26 nouns, 12 manners."""

TAGS_EACH = 3


class Answer(NamedTuple):
    """What every peer says to a query: the ids of the page, in order of registration, and how many match in all."""

    ids: tuple[str, ...]
    total: int


class Peer(Protocol):
    """Whatever answers queries: `prepare` returns a function that answers one query each time it is called."""

    def prepare(self, query: SkillQuery) -> Callable[[], Any]: ...


def make_skills(count: int, *, seed: int = 0) -> list[SkillDefinition]:
    """Returns made-up definitions without handlers: layer, category, tags and words drawn evenly and independently.

    The first n of a larger count are those of a count of n. Raises InvalidValueError for a count below 1.
    """
    if type(count) is not int or count < 1:
        raise InvalidValueError(f"count={count!r} must be a whole number of at least 1")
    streams = np.random.default_rng(seed).spawn(6)
    tags = np.argsort(streams[0].random((count, len(TAGS)), dtype=np.float32), axis=1)[:, :TAGS_EACH].tolist()
    fields = ((1, 2, 3), CATEGORIES, VERBS, NOUNS, MANNERS)
    draws = [rng.integers(0, len(words), count).tolist() for rng, words in zip(streams[1:], fields, strict=True)]
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
    """Returns queries for category, layer and any of two tags, each taken from a skill that is there."""
    rng = np.random.default_rng(seed)
    chosen = [skills[place] for place in rng.integers(0, len(skills), count)]
    return [SkillQuery(skill.layer, skill.category, skill.tags[:2], limit=limit) for skill in chosen]


def build_registry(count: int, *, seed: int = 0) -> InMemorySkillRegistry:
    """Returns a registry of `count` made-up skills without a cache; each line is a step, as %mprun shows it."""
    skills = make_skills(count, seed=seed)
    registry = InMemorySkillRegistry(cache=None)
    finished(register_all(registry, skills))
    registry.optimize()
    return registry


def filled(skills: Iterable[SkillDefinition], cache: SkillCache | None = None) -> InMemorySkillRegistry:
    """Returns a registry of these skills, its indexes compacted, without a cache unless one is given."""
    registry = InMemorySkillRegistry(cache=cache)
    finished(register_all(registry, skills))
    registry.optimize()
    return registry


async def register_all(registry: InMemorySkillRegistry, skills: Iterable[SkillDefinition]) -> None:
    """Registers the skills one by one."""
    for skill in skills:
        await registry.register(skill)


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


class Indexed:
    """The registry as a peer: what is timed is a whole `discover`, conditions given as keywords."""

    def __init__(self, registry: InMemorySkillRegistry) -> None:
        self.registry = registry

    def prepare(self, query: SkillQuery) -> Callable[[], Any]:
        asked = {field: value for field, value in query._asdict().items() if value not in (None, (), 0)}
        discover = self.registry.discover
        return lambda: finished(discover(**asked))


class LinearScan:
    """Looks at every skill, in one loop: what code does that has a list and no index."""

    def __init__(self, skills: Sequence[SkillDefinition]) -> None:
        self.skills = skills

    def find(self, query: SkillQuery) -> Answer:
        """Returns what a look at every skill finds."""
        return _answer(self.prepare(query)())

    def prepare(self, query: SkillQuery) -> Callable[[], tuple[list[SkillDefinition], int]]:
        layer, category, tags, all_tags, name, text, author, limit, offset = query
        any_of, all_of, words = set(tags), set(all_tags), words_of(text or "")
        end = None if limit is None else offset + limit

        def scan() -> tuple[list[SkillDefinition], int]:
            found = [
                skill
                for skill in self.skills
                if (category is None or skill.category == category)
                and (layer is None or skill.layer == layer)
                and (not any_of or not any_of.isdisjoint(skill.tags))
                and (not all_of or all_of.issubset(skill.tags))
                and (author is None or skill.author == author)
                and (name is None or skill.name == name)
                and (text is None or words <= words_of(skill.name, skill.description, *skill.tags))
            ]
            return found[offset:end], len(found)

        return scan


FORMULATIONS = ("exists", "in", "join")
"""Ways to say "any of these tags" in SQL; which one is fastest depends on the number of skills and on the query."""

_SCHEMA = """
CREATE TABLE skill(pos INTEGER PRIMARY KEY, id TEXT, layer INTEGER, category TEXT, author TEXT, name TEXT);
CREATE TABLE tagged(tag TEXT, pos INTEGER, PRIMARY KEY(tag, pos)) WITHOUT ROWID;
CREATE TABLE placed(category TEXT, layer INTEGER, tag TEXT, pos INTEGER, id TEXT,
                    PRIMARY KEY(category, layer, tag, pos)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(words, content='', detail='none', columnsize=0,
                                      tokenize="unicode61 remove_diacritics 0 tokenchars '_'");
"""
_INDEXES = """
CREATE UNIQUE INDEX tagged_pos ON tagged(pos, tag);
CREATE INDEX skill_category ON skill(category, layer, pos, id);
CREATE INDEX skill_layer ON skill(layer, pos, id);
CREATE INDEX skill_author ON skill(author, pos, id);
CREATE INDEX skill_name ON skill(name, layer, pos, id);
ANALYZE;
"""


class SqliteSkills:
    """SQLite in memory as a peer: normalised tables, covering indexes, statistics of ANALYZE, full-text search (FTS5).

    denormalised=True answers queries for category, layer and tags from one more table, (category, layer, tag,
    position, id), which repeats each skill once a tag. The text of a statement is made before it is timed.
    `formulation` is one of FORMULATIONS; `tune` takes the fastest.
    """

    def __init__(
        self, skills: Sequence[SkillDefinition], *, denormalised: bool = False, formulation: str = "exists"
    ) -> None:
        self.denormalised = denormalised
        self.formulation = formulation
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.executescript(_SCHEMA)
        self._fill(skills)
        self._connection.executescript(_INDEXES)

    def find(self, query: SkillQuery) -> Answer:
        """Returns what the database finds."""
        rows, total = self.prepare(query)()
        return Answer(tuple([row[0] for row in rows]), total)

    def prepare(self, query: SkillQuery) -> Callable[[], tuple[list[tuple[str]], int]]:
        page, count, values = self.statements(query)
        execute = self._connection.execute
        window = (*values, -1 if query.limit is None else query.limit, query.offset)

        def ask() -> tuple[list[tuple[str]], int]:
            return execute(page, window).fetchall(), execute(count, values).fetchone()[0]

        return ask

    def tune(self, queries: Sequence[SkillQuery], *, rounds: int = 7) -> str:
        """Keeps, and returns, the formulation whose median time over the queries is least."""
        if not self.denormalised:
            seconds = time_queries(dict(self.variants(queries)), rounds=rounds).seconds
            self.formulation = min(FORMULATIONS, key=lambda name: float(np.median(seconds[name, "asked"])))
        return self.formulation

    def variants(self, queries: Sequence[SkillQuery]) -> Iterable[tuple[tuple[str, str], list[Callable[[], Any]]]]:
        """Yields ((formulation, "asked"), calls) for each formulation, as `time_queries` takes them."""
        kept = self.formulation
        for self.formulation in FORMULATIONS:
            yield (self.formulation, "asked"), [self.prepare(query) for query in queries]
        self.formulation = kept

    def statements(self, query: SkillQuery) -> tuple[str, str, tuple[Any, ...]]:
        """Returns the SQL for the page (two parameters more: limit and offset), the SQL for the total, and the values."""
        if self.denormalised and query.tags and query.category is not None and query.layer is not None:
            return self._from_placed(query)
        source, conditions, values = "skill", [], []
        if query.tags and self.formulation == "join":
            source = "(SELECT DISTINCT pos FROM tagged WHERE tag IN ({})) JOIN skill USING(pos)".format(_marks(query.tags))
            values += query.tags
        for field in ("layer", "category", "author", "name"):
            if getattr(query, field) is not None:
                conditions.append(f"skill.{field} = ?")
                values.append(getattr(query, field))
        if query.tags and self.formulation == "exists":
            conditions.append(f"EXISTS (SELECT 1 FROM tagged t WHERE t.pos = skill.pos AND t.tag IN ({_marks(query.tags)}))")
            values += query.tags
        elif query.tags and self.formulation == "in":
            conditions.append(f"skill.pos IN (SELECT pos FROM tagged WHERE tag IN ({_marks(query.tags)}))")
            values += query.tags
        for tag in query.all_tags:
            conditions.append("EXISTS (SELECT 1 FROM tagged t WHERE t.pos = skill.pos AND t.tag = ?)")
            values.append(tag)
        if query.text is not None and words_of(query.text):
            conditions.append("skill.pos IN (SELECT rowid FROM words WHERE words MATCH ?)")
            values.append(" AND ".join(f'"{word}"' for word in sorted(words_of(query.text))))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        page = f"SELECT skill.id FROM {source}{where} ORDER BY skill.pos LIMIT ? OFFSET ?"
        return page, f"SELECT count(*) FROM {source}{where}", tuple(values)

    def _from_placed(self, query: SkillQuery) -> tuple[str, str, tuple[Any, ...]]:
        where = f"FROM placed WHERE category = ? AND layer = ? AND tag IN ({_marks(query.tags)})"
        page = f"SELECT id {where} GROUP BY pos ORDER BY pos LIMIT ? OFFSET ?"
        return page, f"SELECT count(DISTINCT pos) {where}", (query.category, query.layer, *query.tags)

    def _fill(self, skills: Sequence[SkillDefinition]) -> None:
        run = self._connection.executemany
        places = list(enumerate(skills))
        run("INSERT INTO skill VALUES (?, ?, ?, ?, ?, ?)", ((at, s.id, s.layer, s.category, s.author, s.name) for at, s in places))
        run("INSERT INTO tagged VALUES (?, ?)", sorted((tag, at) for at, s in places for tag in set(s.tags)))
        rows = ((s.category, s.layer, tag, at, s.id) for at, s in places for tag in set(s.tags))
        run("INSERT INTO placed VALUES (?, ?, ?, ?, ?)", sorted(rows))
        text = ((at, " ".join((s.name, s.description, *s.tags)).casefold()) for at, s in places)
        run("INSERT INTO words(rowid, words) VALUES (?, ?)", text)


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
