"""The query experiments: a catalogue that is the same everywhere, peers that agree with the registry, honest timings."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.cache import SkillCache
from skilllab.errors import InvalidValueError
from skilllab.experiments.queries import (
    FORMULATIONS,
    Indexed,
    LinearScan,
    QueryTimes,
    SqliteSkills,
    build_registry,
    filled,
    finished,
    index_memory,
    make_skills,
    memory_by_line,
    specific_queries,
    time_queries,
    tuned,
)
from skilllab.experiments.queries.made_up import CATEGORIES, MANNERS, NOUNS, TAGS, VERBS
from skilllab.model import SkillDefinition, SkillQuery

SKILLS = make_skills(400, seed=3)
PEERS = {
    "index": Indexed(filled(SKILLS)),
    "cached": Indexed(filled(SKILLS), SkillCache()),
    "scan": LinearScan(SKILLS),
    **{form: SqliteSkills(SKILLS, formulation=form, text=True) for form in FORMULATIONS},
    "denormalised": SqliteSkills(SKILLS, denormalised=True, text=True),
}

WORDS = st.lists(st.sampled_from([*VERBS[:4], *NOUNS[:4], "12", "in", "csv", "nothing"]), min_size=1, max_size=2)
QUERIES = st.builds(
    SkillQuery,
    layer=st.sampled_from([None, 1, 3]),
    category=st.sampled_from([None, *CATEGORIES[:3], "unknown"]),
    tags=st.lists(st.sampled_from(TAGS[:20]), max_size=3),
    all_tags=st.lists(st.sampled_from(TAGS[:6]), max_size=2),
    name=st.sampled_from([None, None, SKILLS[5].name]),
    text=st.one_of(st.none(), st.none(), WORDS.map(" ".join)),
    author=st.sampled_from([None, "skilllab", "nobody"]),
    limit=st.sampled_from([None, 0, 1, 20]),
    offset=st.sampled_from([0, 1, 30, 1000]),
)


@pytest.mark.slow
@given(QUERIES)
def test_all_peers_agree(query: SkillQuery) -> None:
    """Index, cache, scan and every way to ask SQLite give the same page of ids and the same total."""
    answers = {name: peer.find(query) for name, peer in PEERS.items()}
    assert set(answers.values()) == {answers["scan"]}


def test_agreement_is_not_about_nothing() -> None:
    """The specific queries of the experiments find something, and less than everything."""
    totals = [PEERS["scan"].find(query).total for query in specific_queries(SKILLS, 20)]
    assert min(totals) >= 1
    assert max(totals) < len(SKILLS) / 10


def test_a_peer_without_total_gives_the_same_page() -> None:
    """Leaving out the total changes nothing else."""
    base = SqliteSkills(SKILLS)
    for query in specific_queries(SKILLS, 10):
        assert base.variant(with_total=False).find(query) == (base.find(query).ids, -1)


def test_text_needs_a_text_index() -> None:
    """A database without full-text search refuses a query for words, rather than answer wrongly."""
    with pytest.raises(InvalidValueError, match="text='reads' needs a database made with text=True"):
        SqliteSkills(SKILLS[:3]).find(SkillQuery(text="reads"))


def test_variant_leaves_the_original() -> None:
    """A variant shares the tables and changes only itself."""
    base = SqliteSkills(SKILLS[:10])
    assert base.variant(denormalised=True).denormalised
    assert not base.denormalised


def test_smaller_catalogue_is_the_start_of_a_larger() -> None:
    """The first skills do not depend on how many follow, and another seed gives others."""
    assert make_skills(30, seed=3) == SKILLS[:30]
    assert make_skills(30, seed=4) != SKILLS[:30]


def test_catalogue_is_what_the_assumptions_say() -> None:
    """Every skill has three different tags, and layers, categories and tags are drawn about evenly."""
    skills = make_skills(6000)
    assert {len(set(skill.tags)) for skill in skills} == {3}
    for counted, expected in (
        (Counter(skill.layer for skill in skills), {1, 2, 3}),
        (Counter(skill.category for skill in skills), set(CATEGORIES)),
        (Counter(tag for skill in skills for tag in skill.tags), set(TAGS)),
    ):
        assert set(counted) == expected
        fair = sum(counted.values()) / len(expected)
        assert all(abs(count - fair) < 6 * math.sqrt(fair) for count in counted.values())


def test_vocabulary_is_distinct() -> None:
    """No word stands twice in its list, so that even draws are even."""
    assert all(len(set(words)) == len(words) for words in (CATEGORIES, TAGS, VERBS, NOUNS, MANNERS))


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "7"])
def test_count_is_checked(count: object) -> None:
    """A catalogue has at least one skill; the message names the value."""
    with pytest.raises(InvalidValueError, match=f"count={count!r}"):
        make_skills(count)  # type: ignore[arg-type]


def test_build_registry_holds_the_catalogue() -> None:
    """The function that a profiler steps through builds what `filled` does, without a cache."""
    registry = build_registry(50, seed=3)
    assert [skill.id for skill in finished(registry.discover())] == [skill.id for skill in SKILLS[:50]]
    assert registry.cache is None


def test_finished_returns_the_result() -> None:
    """A coroutine that never waits gives its result without a loop."""

    async def add(a: int, b: int) -> int:
        return a + b

    assert finished(add(2, 3)) == 5


def test_finished_refuses_one_that_waits() -> None:
    """A coroutine that would wait is closed and refused."""
    with pytest.raises(InvalidValueError, match="await it instead"):
        finished(asyncio.sleep(0))


def test_time_queries_counts_each_query() -> None:
    """Every arm gets one number a round, and a query costs a batch divided by its queries."""
    query = SkillQuery(layer=1, limit=5)
    arms = {(name, size): (PEERS[name], [query] * size) for name in ("index", "scan") for size in (1, 4)}
    times = time_queries(arms, rounds=7)
    assert times.names == ("index", "scan")
    assert times.points == (1, 4)
    assert {len(values) for values in times.seconds.values()} == {7}
    assert 0.2 < times.median("scan", 4) / times.median("scan", 1) < 5


def test_time_queries_refuses_nothing_to_ask() -> None:
    """An arm without a query has no time a query; the message names it."""
    with pytest.raises(InvalidValueError, match=r"arms\[\('index', 1\)\]"):
        time_queries({("index", 1): (PEERS["index"], [])}, rounds=1)


def fixed(**columns: list[float]) -> QueryTimes:
    return QueryTimes({(name, "x"): np.array(values) for name, values in columns.items()})


def test_break_even_by_hand() -> None:
    """No cache 4, hit 2, miss 6: at half hits both take 4."""
    even, ends = fixed(fresh=[4.0] * 6, hit=[2.0] * 6, miss=[6.0] * 6).break_even(
        "x", fresh="fresh", hit="hit", miss="miss"
    )
    assert even == 0.5
    assert ends is not None
    assert (ends.low, ends.high) == (0.5, 0.5)


@pytest.mark.parametrize(("fresh", "hit", "miss", "even"), [(2, 3, 6, 1), (6, 2, 5, 0), (2, 3, 3, 1)])
def test_break_even_stays_a_ratio(fresh: float, hit: float, miss: float, even: float) -> None:
    """A cache whose hits cost more than asking never pays (1); one whose misses cost less always does (0)."""
    times = fixed(fresh=[fresh], hit=[hit], miss=[miss])
    assert times.break_even("x", fresh="fresh", hit="hit", miss="miss") == (even, None)


def test_frame_and_table() -> None:
    """The frame has a row for each arm with its median; the table writes it, and a dash for what was not asked."""
    times = QueryTimes({("a", 10): np.full(6, 2e-6), ("a", 20): np.full(6, 3e-6), ("b", 20): np.full(6, 4e-3)})
    frame = times.frame()
    assert list(frame.columns) == ["point", "who", "median", "low", "high", "rounds"]
    assert frame["median"].tolist() == [2e-6, 3e-6, 4e-3]
    assert times.table().to_numpy().tolist() == [["2.00 µs", "–"], ["3.00 µs", "4.00 ms"]]


def test_compare_and_plot() -> None:
    """A comparison says how many times as long the other takes; the plot names every line it is asked for."""
    times = QueryTimes({(who, n): np.full(8, n * cost) for who, cost in (("a", 1e-6), ("b", 3e-6)) for n in (10, 100)})
    assert times.compare("a", "b", 100).ratio == pytest.approx(3)
    assert [line.get_label() for line in times.plot().get_lines()] == ["a", "b"]
    assert [line.get_label() for line in times.plot(names=["b"]).get_lines()] == ["b"]


def test_tuned_takes_a_formulation() -> None:
    """Tuning returns a variant with a known formulation and leaves the answers as they were."""
    base = SqliteSkills(SKILLS)
    queries = specific_queries(SKILLS, 2)
    best = tuned(base, queries, rounds=3)
    assert best.formulation in FORMULATIONS
    assert [best.find(query) for query in queries] == [base.find(query) for query in queries]


def test_memory_by_line_leaves_out_the_def() -> None:
    """The first measured line stands for what there was before; lines that did not run are left out."""
    code = build_registry.__code__
    first = code.co_firstlineno
    measured = [(first, (90.0, 90.0, 1)), (first + 1, None), (first + 2, (2.5, 92.5, 1))]
    profile = SimpleNamespace(code_map=SimpleNamespace(items=lambda: [(code.co_filename, measured)]))
    frame = memory_by_line(profile)
    assert frame["line"].tolist() == ["skills = make_skills(count, seed=seed)"]
    assert frame["added"].tolist() == [2.5 * 2**20]


@pytest.mark.slow
def test_index_memory_is_in_its_range() -> None:
    """A fresh process measures a registry whose skills take hundreds of bytes each, not none and not a page each."""
    pytest.importorskip("memory_profiler")
    taken = index_memory(4000)
    assert 200 < taken["python"] < 1500
    assert 200 < taken["resident"] < 3000


def test_skills_are_definitions() -> None:
    """What is made up passes every check that a written definition does."""
    assert all(SkillDefinition(**dict(skill)) == skill for skill in SKILLS[:20])
