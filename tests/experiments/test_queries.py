"""The query experiments: a catalogue that is the same everywhere, peers that agree with the registry, honest timings."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.cache import SkillCache
from skilllab.errors import InvalidValueError
from skilllab.experiments.queries import (
    FORMULATIONS,
    Answer,
    Indexed,
    LinearScan,
    QueryTimes,
    SqliteSkills,
    brief_peak,
    build_registry,
    filled,
    finished,
    index_memory,
    make_skills,
    memory_by_line,
    specific_queries,
    time_queries,
    timing,
    tuned,
)
from skilllab.experiments.queries.made_up import CATEGORIES, MANNERS, NOUNS, TAGS, VERBS
from skilllab.model import SkillDefinition
from skilllab.query import SkillQuery
from skilllab.stats import interleave

SKILLS = make_skills(300, seed=3)
PEERS: dict[str, Indexed | LinearScan | SqliteSkills] = {
    "index": Indexed(filled(SKILLS)),
    "cached": Indexed(filled(SKILLS), SkillCache()),
    "scan": LinearScan(SKILLS),
}
DATABASE = SqliteSkills(SKILLS, text=True)
for form in FORMULATIONS:
    PEERS[form] = DATABASE.variant(formulation=form)
    PEERS[f"{form}, denormalised"] = DATABASE.variant(formulation=form, denormalised=True)

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


@st.composite
def fitting(draw: st.DrawFn) -> SkillQuery:
    """Queries made of what one skill has, one to three conditions of it, so that they find something."""
    skill = draw(st.sampled_from(SKILLS))
    has: dict[str, dict[str, Any]] = {
        "tags": {"tags": skill.tags},
        "all_tags": {"all_tags": skill.tags[:2]},
        "place": {"layer": skill.layer, "category": skill.category},
        "name": {"name": skill.name},
        "text": {"text": skill.description.partition(" ")[0].upper()},
    }
    conditions: dict[str, Any] = {}
    for facet in draw(st.lists(st.sampled_from([*has, "tags", "place"]), min_size=1, max_size=3)):
        conditions |= has[facet]
    return SkillQuery(
        **conditions, limit=draw(st.sampled_from([None, 1, 20])), offset=draw(st.sampled_from([0, 0, 1, 3]))
    )


@pytest.mark.slow
@given(QUERIES | fitting())
def test_all_peers_agree(query: SkillQuery) -> None:
    """Index, cache, scan and every way to ask SQLite give the same page of ids and the same total."""
    answers = {name: peer.find(query) for name, peer in PEERS.items()}
    assert set(answers.values()) == {answers["scan"]}


ODD_NAMES = ["ΐ x", "Straße", "İstanbul", "a\u0301\u0323b", "東京 tower", "ﬁle", "don't a_b", "x² ½", "हिन्दी", 'NOT "']
ODD = [SkillDefinition(id=f"odd-{at}", name=name, layer=1, tags=(name, name)) for at, name in enumerate(ODD_NAMES)]


@pytest.mark.parametrize("text", [*ODD_NAMES, "STRASSE", "file", "", "…"])
def test_all_peers_agree_on_words(text: str) -> None:
    """Letters that fold into several, marks, signs and no word at all find the same skills everywhere."""
    query = SkillQuery(text=text)
    index, scan, sqlite = Indexed(filled(ODD)), LinearScan(ODD), SqliteSkills(ODD, text=True)
    assert index.find(query).total >= 1
    assert scan.find(query) == index.find(query)
    assert sqlite.find(query) == index.find(query)


def test_a_page_by_hand() -> None:
    """Of five skills three are tagged csv or json, one of them with both; the third page of one holds the third."""
    tags = [("csv",), ("xml",), ("csv", "json"), ("json",), ()]
    skills = [
        SkillDefinition(id=f"s{at}", name=f"s{at}", layer=1, category="c", tags=own) for at, own in enumerate(tags)
    ]
    peers: list[Indexed | LinearScan | SqliteSkills] = [Indexed(filled(skills)), LinearScan(skills)]
    base = SqliteSkills(skills)
    peers += [base.variant(formulation=form, denormalised=flat) for form in FORMULATIONS for flat in (False, True)]
    query = SkillQuery(1, "c", ("csv", "json"), limit=1, offset=2)
    assert {peer.find(query) for peer in peers} == {Answer(("s3",), 3)}


def test_nothing_to_look_at() -> None:
    """An empty catalogue is answered, not refused."""
    assert LinearScan([]).find(SkillQuery()) == SqliteSkills([]).find(SkillQuery()) == Answer((), 0)


def test_a_peer_brings_its_own_cache() -> None:
    """One registry is asked with and without a cache; only the peer with one fills it."""
    registry, cache, query = filled(SKILLS[:20]), SkillCache(), SkillQuery(layer=1)
    plain, cached = Indexed(registry).prepare(query), Indexed(registry, cache).prepare(query)
    plain()
    assert cache.stats().misses == 0
    cached()
    assert cached() == plain()
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)


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


def test_formulation_is_checked() -> None:
    """A way to write SQL that is not known is refused at once, also for a variant; the message lists the known."""
    with pytest.raises(InvalidValueError, match="formulation='union' must be one of exists, in, join"):
        SqliteSkills(SKILLS[:3], formulation="union")
    with pytest.raises(InvalidValueError, match="formulation='union'"):
        DATABASE.variant(formulation="union")


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 5))
def test_a_catalogue_is_a_prefix(count: int, more: int, seed: int) -> None:
    """For every seed the first skills do not depend on how many follow, and making them twice gives the same."""
    larger = make_skills(count + more, seed=seed)
    assert make_skills(count, seed=seed) == larger[:count]


def test_specific_queries_are_seeded() -> None:
    """A seed gives the same queries each time and another seed others; the limit is passed on."""
    asked = specific_queries(SKILLS, 5, seed=1, limit=None)
    assert asked == specific_queries(SKILLS, 5, seed=1, limit=None)
    assert asked != specific_queries(SKILLS, 5, seed=2, limit=None)
    assert {(query.limit, len(query.tags)) for query in asked} == {(None, 2)}


def test_specific_queries_need_a_skill_and_a_count() -> None:
    """No skills and no queries are refused."""
    with pytest.raises(InvalidValueError, match=r"skills=\[\] must hold at least one skill"):
        specific_queries([], 1)
    with pytest.raises(InvalidValueError, match="count=0"):
        specific_queries(SKILLS, 0)


def test_smaller_catalogue_is_the_start_of_a_larger() -> None:
    """The first skills do not depend on how many follow, and another seed gives others."""
    assert make_skills(30, seed=3) == SKILLS[:30]
    assert make_skills(30, seed=4) != SKILLS[:30]


def test_catalogue_is_what_the_assumptions_say() -> None:
    """Every skill has three different tags, and layers, categories and tags are drawn about evenly."""
    skills = make_skills(300)
    assert {len(set(skill.tags)) for skill in skills} == {3}
    for counted, expected in (
        (Counter(skill.layer for skill in skills), {1, 2, 3}),
        (Counter(skill.category for skill in skills), set(CATEGORIES)),
        (Counter(tag for skill in skills for tag in skill.tags), set(TAGS)),
    ):
        assert set(counted) == expected
        fair = sum(counted.values()) / len(expected)
        assert all(abs(count - fair) < 4 * math.sqrt(fair) for count in counted.values())


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
    """Every arm gets one positive number a round."""
    query = SkillQuery(layer=1, limit=5)
    arms = {(name, size): (PEERS[name], [query] * size) for name in ("index", "scan") for size in (1, 4)}
    times = time_queries(arms, rounds=7)
    assert times.names == ("index", "scan")
    assert times.points == (1, 4)
    assert {len(values) for values in times.seconds.values()} == {7}
    assert all((values > 0).all() for values in times.seconds.values())
    assert times.interval("scan", 4) is not None
    assert times.compare("index", "scan", 1).rounds == 7


def test_time_a_query_is_a_sample_divided_by_its_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only queries move, by a second each, every query takes a second."""
    now = 0.0

    class Slow:
        def prepare(self, query: SkillQuery) -> Callable[[], None]:
            def ask() -> None:
                nonlocal now
                now += 1.0

            return ask

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(timing, "interleave", partial(interleave, timer=lambda: now))
    times = time_queries({("slow", n): (Slow(), [SkillQuery()] * n) for n in (1, 4)}, rounds=3)
    assert [times.seconds["slow", n].tolist() for n in (1, 4)] == [[1.0] * 3] * 2


def test_time_queries_refuses_nothing_to_ask() -> None:
    """An arm without a query has no time a query; the message names it."""
    with pytest.raises(InvalidValueError, match=r"arms\[\('index', 1\)\]"):
        time_queries({("index", 1): (PEERS["index"], [])}, rounds=1)


def test_time_queries_refuses_no_arms_and_no_rounds() -> None:
    """Without arms or rounds there is nothing to time."""
    with pytest.raises(InvalidValueError, match="arms"):
        time_queries({}, rounds=1)
    with pytest.raises(InvalidValueError, match="rounds"):
        time_queries({("scan", 1): (PEERS["scan"], [SkillQuery(limit=1)])}, rounds=0)
    with pytest.raises(InvalidValueError, match="at least one query"):
        tuned(DATABASE, [])


def test_median_and_interval_by_hand() -> None:
    """Of 1 to 6 the median is 3.5 and its interval all six; five rounds are too few for an interval."""
    six, five = fixed(a=[6, 1, 5, 2, 4, 3]), fixed(a=[1, 2, 3, 4, 5])
    ends = six.interval("a", "x")
    assert ends is not None
    assert (six.median("a", "x"), ends.low, ends.high) == (3.5, 1, 6)
    assert (five.median("a", "x"), five.interval("a", "x")) == (3, None)


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
    assert frame["median"].tolist() == frame["low"].tolist() == frame["high"].tolist() == [2e-6, 3e-6, 4e-3]
    assert frame["rounds"].tolist() == [6, 6, 6]
    assert times.table().to_numpy().tolist() == [["2.00 µs", "–"], ["3.00 µs", "4.00 ms"]]


def test_frame_without_intervals() -> None:
    """Rounds too few for an interval leave numbers that are missing, not objects."""
    frame = fixed(a=[1.0]).frame()
    assert frame[["low", "high"]].dtypes.tolist() == [np.float64, np.float64]
    assert frame[["low", "high"]].isna().to_numpy().all()


def test_compare_and_plot() -> None:
    """A comparison says how many times as long the other takes; the plot names every line it is asked for."""
    times = QueryTimes({(who, n): np.full(8, n * cost) for who, cost in (("a", 1e-6), ("b", 3e-6)) for n in (10, 100)})
    assert times.compare("a", "b", 100).ratio == pytest.approx(3)
    axes = times.plot(title="b takes thrice as long", x_label="Skills held")
    assert [line.get_label() for line in axes.get_lines()] == ["a", "b"]
    assert axes.get_xlabel() == "Skills held"
    assert {text.get_text() for text in axes.texts} >= {"a", "b"}
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


def test_brief_peak_takes_and_gives_back() -> None:
    """All bytes are held at once, and none when it is over."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        brief_peak(1 << 20, 0)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before >= 1 << 20
    assert after - before < 1 << 16


def test_memory_by_line_sees_what_the_profiler_saw() -> None:
    """A real run of memory_profiler gives every line of the function that ran, in order, without the def."""
    profiler = pytest.importorskip("memory_profiler").LineProfiler()
    registry = profiler(build_registry)(20)
    assert len(registry) == 20
    frame = memory_by_line(profiler)
    assert list(frame.columns) == ["line", "added"]
    assert frame["line"].tolist()[0] == "skills = make_skills(count, seed=seed)"
    assert frame["line"].tolist()[-1] == "return registry"


@pytest.mark.parametrize("count", [0, True, 2.0, "7"])
def test_index_memory_checks_its_count(count: object) -> None:
    """A count that no catalogue can have is refused here, before a process is started."""
    with pytest.raises(InvalidValueError, match=f"count={count!r}"):
        index_memory(count)  # type: ignore[arg-type]


@pytest.mark.slow
def test_index_memory_is_in_its_range() -> None:
    """A fresh process measures a registry whose skills take hundreds of bytes each; pages are too coarse for so few."""
    pytest.importorskip("memory_profiler")
    taken = index_memory(300)
    assert set(taken) == {"resident", "python"}
    assert 200 < taken["python"] < 3000
    assert math.isfinite(taken["resident"])


def test_skills_are_definitions() -> None:
    """What is made up passes every check that a written definition does."""
    assert all(SkillDefinition(**dict(skill)) == skill for skill in SKILLS[:20])
