"""The registry without its cache against SQLite in memory, a linear scan, and itself earlier on.

Catalogues are seeded and made up (20 categories, 60 tags, 3 a skill, drawn evenly). Every sample goes through 50 queries,
each taken from a skill that is there. Every side returns the first 20 matches and the number of all.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

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
from skilllab.model import SkillDefinition, SkillQuery
from skilllab.registry import InMemorySkillRegistry

SMALL, LARGE = 10_000, 100_000
PASSES = (
    4  # over the queries in one sample, so that neither side is timed on what the other left in the processor's caches
)
BYTES_A_SKILL = 800


def asking(peer: Peer, queries: Sequence[SkillQuery], passes: int = PASSES) -> Callable[[], None]:
    calls = [peer.prepare(query) for query in queries] * passes

    def ask_all() -> None:
        for call in calls:
            call()

    return ask_all


def against_sqlite(skills: list[SkillDefinition], registry: InMemorySkillRegistry, goal: float) -> tuple[Row, str]:
    queries, count = specific_queries(skills, 50), fmt.count(len(skills))
    sqlite = tuned(SqliteSkills(skills), queries)
    ours = asking(Indexed(registry), queries)
    what, peer = f"category, layer, any of two tags; {count} skills", f"SQLite with indexes ({sqlite.formulation})"
    asked = compare(what, ours, peer, asking(sqlite, queries), at_least=goal, rounds=15)
    repeated = sqlite.variant(denormalised=True)
    aside = compare(what, ours, "", asking(repeated, queries), at_least=1, rounds=15)
    return (
        asked,
        f"        aside: one SQLite table that repeats each skill for each tag takes {aside.ratio:.1f} times ours at {count}",
    )


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
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def resident_here(with_index: bool) -> int:
    skills = make_skills(LARGE)
    registry = filled(skills) if with_index else None
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert len(skills) == LARGE
    assert registry is None or len(registry) == LARGE
    return pages * 4096


def main() -> None:
    rows, remarks = [], []
    small = make_skills(SMALL)
    found, said = against_sqlite(small, filled(small), 30)
    rows.append(found)
    remarks.append(said)
    skills = make_skills(LARGE)
    registry = filled(skills)
    found, said = against_sqlite(skills, registry, 8)
    rows += [found, *against_scan(skills, registry), pages(registry), registering(skills, registry)]
    used, aside = memory()
    report([*rows, used], [*remarks, said, aside])


if __name__ == "__main__":
    if sys.argv[1:2] == ["resident"]:
        print(resident_here(sys.argv[2] == "indexed"))
    else:
        main()
