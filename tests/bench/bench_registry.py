"""The registry without its cache against SQLite in memory, a linear scan, and itself earlier on.

Catalogues are seeded and made up: 20 categories and 60 tags, 3 of them a skill, as popular as Zipf's law makes them
(exponent 1), because real catalogues have a few crowded shelves; an even one is measured aside. Every sample goes through
50 queries, each taken from a skill that is there. Every side returns the first 20 matches and the number of all.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from harness import Row, compare, drive, report, row

from skilllab import format as fmt
from skilllab.experiments.queries import (
    Indexed,
    LinearScan,
    Peer,
    SqliteSkills,
    filled,
    make_skills,
    specific_queries,
    tuned,
)
from skilllab.experiments.queries.made_up import CATEGORIES, TAGS
from skilllab.model import SkillDefinition
from skilllab.query import SkillQuery
from skilllab.registry import InMemorySkillRegistry

SMALL, LARGE = 10_000, 100_000
TAGS_EACH = 3
PASSES = (
    4  # over the queries in one sample, so that neither side is timed on what the other left in the processor's caches
)
BYTES_A_SKILL = 800


def popular(count: int) -> list[SkillDefinition]:
    """Returns made-up skills whose categories and tags follow Zipf's law."""
    random = np.random.default_rng(0)
    categories, tags = (-np.log(np.arange(1, len(words) + 1)) for words in (CATEGORIES, TAGS))
    shelf = np.argmax(categories + random.gumbel(size=(count, len(categories))), axis=1).tolist()
    marks = np.argsort(-(tags + random.gumbel(size=(count, len(tags)))), axis=1)[:, :TAGS_EACH].tolist()
    return [
        skill.model_copy(update={"category": CATEGORIES[at], "tags": tuple(TAGS[mark] for mark in own)})
        for skill, at, own in zip(make_skills(count), shelf, marks, strict=True)
    ]


def asking(peer: Peer, queries: Sequence[SkillQuery], passes: int = PASSES) -> Callable[[], None]:
    calls = [peer.prepare(query) for query in queries] * passes

    def ask_all() -> None:
        for call in calls:
            call()

    return ask_all


def against_sqlite(skills: list[SkillDefinition], registry: InMemorySkillRegistry, goal: float) -> tuple[Row, str]:
    """Returns the goal's row, against the fastest of three ways to write the statement, and an aside."""
    queries, count = specific_queries(skills, 50), fmt.count(len(skills))
    sqlite = tuned(SqliteSkills(skills), queries)
    ours = asking(Indexed(registry), queries)
    what, peer = f"category, layer, any of two tags; {count} skills", f"SQLite with indexes ({sqlite.formulation})"
    asked = compare(what, ours, peer, asking(sqlite, queries), at_least=goal, rounds=15)
    repeated = sqlite.variant(denormalised=True)
    aside = compare(what, ours, "", asking(repeated, queries), at_least=1, rounds=15)
    return (
        asked,
        f"        aside: a table that repeats each skill for each tag makes SQLite take {aside.ratio:.1f} times ours at {count}",
    )


def evenly(count: int) -> str:
    skills = make_skills(count)
    queries, sqlite = specific_queries(skills, 50), SqliteSkills(skills)
    ours, theirs = asking(Indexed(filled(skills)), queries), asking(tuned(sqlite, queries), queries)
    found = compare("", ours, "", theirs, at_least=1, rounds=15)
    return f"        aside: with categories and tags drawn evenly SQLite takes {found.ratio:.1f} times ours at {fmt.count(count)}"


def against_scan(skills: list[SkillDefinition], registry: InMemorySkillRegistry) -> list[Row]:
    ours, scan = Indexed(registry), LinearScan(skills)
    queries = specific_queries(skills, 50)
    texts = [SkillQuery(text=skill.description, limit=20) for skill in skills[:50]]
    return [
        compare(
            f"{what}; {fmt.count(len(skills))} skills",
            asking(ours, asked),
            "linear scan",
            asking(scan, asked[:1], 1),
            at_least=goal,
            rounds=12,
            ours_does=len(asked) * PASSES,
        )
        for what, asked, goal in (("category, layer, any of two tags", queries, 150), ("text (three words)", texts, 50))
    ]


def pages(registry: InMemorySkillRegistry) -> Row:
    total = drive(registry.discover(category="people")).total
    first, deep = (
        asking(Indexed(registry), [SkillQuery(category="people", limit=20, offset=offset)], 50)
        for offset in (0, total - 40)
    )
    return compare(f"page at {fmt.count(total - 40)} of {fmt.count(total)}", deep, "first page", first, at_most=3)


def registering(skills: list[SkillDefinition], registry: InMemorySkillRegistry) -> Row:
    """Each round registers 1,000 skills in an empty registry, and takes the last 1,000 of the full one out and in again."""
    first, last = skills[:1000], skills[-1000:]
    seconds: dict[str, list[float]] = {"first": [], "last": []}
    for turn in range(12):
        for skill in last:
            drive(registry.unregister(skill.id))
        empty = InMemorySkillRegistry(cache=None)
        arms = [("first", empty, first), ("last", registry, last)]
        for name, target, batch in arms if turn % 2 else reversed(arms):
            start = time.perf_counter()
            for skill in batch:
                drive(target.register(skill))
            seconds[name].append(time.perf_counter() - start)
    return row("register the last 1,000 of 100,000", "the first 1,000", seconds["last"], seconds["first"], at_most=1.5)


def memory() -> tuple[Row, str]:
    """Resident memory of two fresh processes with the same definitions, one of them with a registry of them."""
    bare, indexed = (min(resident(with_index) for _ in range(2)) for with_index in (False, True))
    each = (indexed - bare) / LARGE
    found = Row(
        "resident memory of the index, a skill",
        "the definitions alone",
        each,
        each,
        each,
        "at most",
        BYTES_A_SKILL,
        show=fmt.size,
    )
    return found, f"        aside: the definitions alone take {fmt.size(bare / LARGE)} a skill, interpreter included"


def resident(with_index: bool) -> int:
    """Returns the resident bytes of a fresh process that made 100,000 definitions, and a registry if asked."""
    command = [sys.executable, __file__, "resident", "indexed" if with_index else "bare"]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def resident_here(with_index: bool) -> int:
    skills = make_skills(LARGE)
    registry = filled(skills) if with_index else None
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert len(skills) == LARGE
    assert registry is None or len(registry) == LARGE
    return pages * 4096


def main() -> None:
    small, large = popular(SMALL), popular(LARGE)
    registry = filled(large)
    at_small, aside_small = against_sqlite(small, filled(small), 30)
    at_large, aside_large = against_sqlite(large, registry, 8)
    used, aside_memory = memory()
    report(
        [at_small, at_large, *against_scan(large, registry), pages(registry), registering(large, registry), used],
        [aside_small, aside_large, evenly(SMALL), aside_memory],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["resident"]:
        print(resident_here(sys.argv[2] == "indexed"))
    else:
        main()
