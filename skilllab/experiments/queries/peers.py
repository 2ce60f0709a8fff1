"""Who answers a query: the registry, a linear scan, and SQLite in memory, all with the same answer.

`prepare(query)` does what need not be done again for each call, and returns the call that is timed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol

from skilllab.cache.cache import SkillCache
from skilllab.errors import InvalidValueError
from skilllab.experiments.queries.made_up import finished
from skilllab.frozen import normal_text
from skilllab.model import SkillDefinition
from skilllab.postings import words_of
from skilllab.query import Page, SkillQuery
from skilllab.registry import InMemorySkillRegistry


class Answer(NamedTuple):
    """What every peer says to a query: the ids of the page, in order of registration, and how many match in all."""

    ids: tuple[str, ...]
    total: int


class Peer(Protocol):
    """Whatever answers queries: `prepare` returns a function that answers one query each time it is called."""

    def prepare(self, query: SkillQuery) -> Callable[[], Any]: ...


class Indexed:
    """The registry as a peer: what is timed is a whole `discover`, conditions given as keywords.

    cache: where the registry keeps pages while this peer asks, so that one registry can be asked with and without.
    """

    def __init__(self, registry: InMemorySkillRegistry, cache: SkillCache | None = None) -> None:
        self.registry = registry
        self.cache = cache

    def find(self, query: SkillQuery) -> Answer:
        """Returns what the registry finds."""
        page = self.prepare(query)()
        return Answer(tuple([skill.id for skill in page]), page.total)

    def prepare(self, query: SkillQuery) -> Callable[[], Page]:
        asked: dict[str, Any] = {field: value for field, value in query._asdict().items() if value not in (None, ())}
        registry, cache = self.registry, self.cache

        def ask() -> Page:
            registry.cache = cache
            return finished(registry.discover(**asked))

        return ask


class LinearScan:
    """Looks at every skill in one loop, as code does that has a list and no index.

    For text it keeps each skill's words in one folded string and splits only those in which every word occurs.
    """

    def __init__(self, skills: Sequence[SkillDefinition]) -> None:
        # normal form C again after folding, which takes some letters apart: the words asked for are in that form
        self._rows = [
            (skill, normal_text(" ".join((skill.name, skill.description, *skill.tags)).casefold())) for skill in skills
        ]

    def find(self, query: SkillQuery) -> Answer:
        """Returns what a look at every skill finds."""
        skills, total = self.prepare(query)()
        return Answer(tuple([skill.id for skill in skills]), total)

    def prepare(self, query: SkillQuery) -> Callable[[], tuple[list[SkillDefinition], int]]:
        layer, category, tags, all_tags, name, text, author, limit, offset = query
        any_of, all_of, words, rows = set(tags), set(all_tags), words_of(text or ""), self._rows
        end = None if limit is None else offset + limit

        def scan() -> tuple[list[SkillDefinition], int]:
            candidates = rows
            for word in words:
                candidates = [row for row in candidates if word in row[1]]
            found = [
                skill
                for skill, folded in candidates
                if (category is None or skill.category == category)
                and (layer is None or skill.layer == layer)
                and (not any_of or not any_of.isdisjoint(skill.tags))
                and (not all_of or all_of.issubset(skill.tags))
                and (author is None or skill.author == author)
                and (name is None or skill.name == name)
                and (not words or words <= words_of(folded))
            ]
            return found[offset:end], len(found)

        return scan


FORMULATIONS = ("exists", "in", "join")
"""Ways to say "any of these tags" in SQL; which is fastest depends on the number of skills and on the query."""

_TABLES = """
CREATE TABLE skill(pos INTEGER PRIMARY KEY, id TEXT, layer INTEGER, category TEXT, author TEXT, name TEXT);
CREATE TABLE tagged(tag TEXT, pos INTEGER, PRIMARY KEY(tag, pos)) WITHOUT ROWID;
CREATE TABLE placed(category TEXT, layer INTEGER, tag TEXT, pos INTEGER, id TEXT,
                    PRIMARY KEY(category, layer, tag, pos)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(entry, content='', detail='none', columnsize=0,
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
_ANY_OF = {
    "exists": "EXISTS (SELECT 1 FROM tagged t WHERE t.pos = skill.pos AND t.tag IN ({}))",
    "in": "skill.pos IN (SELECT pos FROM tagged WHERE tag IN ({}))",
    "join": "tagged.tag IN ({})",
}


class SqliteSkills:
    """SQLite in memory as a peer: normalised tables, covering indexes, ANALYZE, and full-text search (FTS5).

    formulation: one of FORMULATIONS; `tune` takes the fastest. denormalised: answers queries for category, layer and
    any of some tags from a table of its own, (category, layer, tag, position, id), which names a skill once a tag.
    with_total: whether the number of all matches is counted too. text: whether words can be searched for.
    Statements are written before they are timed. Raises InvalidValueError for an unknown formulation.
    """

    def __init__(
        self,
        skills: Sequence[SkillDefinition],
        *,
        formulation: str = "exists",
        denormalised: bool = False,
        with_total: bool = True,
        text: bool = False,
    ) -> None:
        self.formulation = _known(formulation)
        self.denormalised = denormalised
        self.with_total = with_total
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.executescript(_TABLES)
        self._text = text
        self._fill(list(enumerate(skills)))
        self._connection.executescript(_INDEXES)

    def variant(
        self, *, formulation: str | None = None, denormalised: bool | None = None, with_total: bool | None = None
    ) -> SqliteSkills:
        """Returns the same database asked in another way; None keeps what this one does."""
        other = copy(self)
        other.formulation = self.formulation if formulation is None else _known(formulation)
        other.denormalised = self.denormalised if denormalised is None else denormalised
        other.with_total = self.with_total if with_total is None else with_total
        return other

    def find(self, query: SkillQuery) -> Answer:
        """Returns what the database finds."""
        rows, total = self.prepare(query)()
        return Answer(tuple([row[0] for row in rows]), total)

    def prepare(self, query: SkillQuery) -> Callable[[], tuple[list[tuple[str]], int]]:
        page, count, values = self.statements(query)
        execute, with_total = self._connection.execute, self.with_total
        window = (*values, -1 if query.limit is None else query.limit, query.offset)

        def ask() -> tuple[list[tuple[str]], int]:
            rows = execute(page, window).fetchall()
            return rows, execute(count, values).fetchone()[0] if with_total else -1

        return ask

    def statements(self, query: SkillQuery) -> tuple[str, str, tuple[Any, ...]]:
        """Returns the SQL of the page (its last parameters are limit and offset), that of the total, and the values."""
        if self.denormalised and _only_placed(query):
            source = f"FROM placed WHERE category = ? AND layer = ? AND tag IN ({_marks(query.tags)})"
            page = f"SELECT id {source} GROUP BY pos ORDER BY pos LIMIT ? OFFSET ?"
            return page, f"SELECT count(DISTINCT pos) {source}", (query.category, query.layer, *query.tags)
        conditions: list[tuple[str, Sequence[Any]]] = [
            (f"skill.{field} = ?", (value,))
            for field in ("category", "layer", "author", "name")
            if (value := getattr(query, field)) is not None
        ]
        joined = bool(query.tags) and self.formulation == "join"
        if query.tags:
            conditions.append((_ANY_OF[self.formulation].format(_marks(query.tags)), query.tags))
        conditions += [(_ANY_OF["exists"].format("?"), (tag,)) for tag in query.all_tags]
        if query.text is not None and not self._text:
            raise InvalidValueError(f"text={query.text!r} needs a database made with text=True")
        if query.text is not None and (words := sorted(words_of(query.text))):
            match = " AND ".join(f'"{word}"' for word in words)
            conditions.append(("skill.pos IN (SELECT rowid FROM words WHERE words MATCH ?)", (match,)))
        source = "FROM skill JOIN tagged ON tagged.pos = skill.pos" if joined else "FROM skill"
        if conditions:
            source += " WHERE " + " AND ".join(condition for condition, _ in conditions)
        grouped = "GROUP BY skill.pos " if joined else ""
        page = f"SELECT skill.id {source} {grouped}ORDER BY skill.pos LIMIT ? OFFSET ?"
        count = f"SELECT count({'DISTINCT skill.pos' if joined else '*'}) {source}"
        return page, count, tuple(value for _, values in conditions for value in values)

    def _fill(self, places: list[tuple[int, SkillDefinition]]) -> None:
        run = self._connection.executemany
        facts = ((at, s.id, s.layer, s.category, s.author, s.name) for at, s in places)
        run("INSERT INTO skill VALUES (?, ?, ?, ?, ?, ?)", facts)
        run("INSERT INTO tagged VALUES (?, ?)", sorted((tag, at) for at, s in places for tag in set(s.tags)))
        rows = sorted((s.category, s.layer, tag, at, s.id) for at, s in places for tag in set(s.tags))
        run("INSERT INTO placed VALUES (?, ?, ?, ?, ?)", rows)
        if not self._text:
            return
        # split as the registry does: FTS5 alone would make a mark without a letter of its own part of a word
        text = ((at, " ".join(sorted(words_of(s.name, s.description, *s.tags)))) for at, s in places)
        run("INSERT INTO words(rowid, entry) VALUES (?, ?)", text)


def _known(formulation: str) -> str:
    if formulation not in FORMULATIONS:
        raise InvalidValueError(f"formulation={formulation!r} must be one of {', '.join(FORMULATIONS)}")
    return formulation


def _only_placed(query: SkillQuery) -> bool:
    """Whether the query names a category, a layer and tags, and nothing that the denormalised table does not hold."""
    layer, category, tags, all_tags, name, text, author, _, _ = query
    return bool(layer and category is not None and tags) and not all_tags and name is text is author is None


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
