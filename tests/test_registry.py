"""The registry: what it finds, how it stays whole, and when a cached answer is still true."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skilllab.cache import SkillCache
from skilllab.define import skill
from skilllab.errors import (
    DuplicateSkillError,
    HandlerNotRunnableError,
    InvalidDefinitionError,
    InvalidValueError,
    SkillNotFoundError,
)
from skilllab.experiments.queries import finished
from skilllab.model import SkillDefinition
from skilllab.postings import words_of
from skilllab.query import SkillQuery
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock


def run(coroutine):
    return asyncio.run(coroutine)


def define(skill_id="a", **fields) -> SkillDefinition:
    return SkillDefinition(**{"id": skill_id, "name": f"skill {skill_id}", "layer": 1, **fields})


def registry_of(*definitions, **options) -> InMemorySkillRegistry:
    registry = InMemorySkillRegistry(**options)

    async def fill():
        for definition in definitions:
            await registry.register(definition)

    run(fill())
    return registry


def scan(definitions, query: SkillQuery) -> list[SkillDefinition]:
    """The oracle: every condition tried on every skill."""
    return [
        skill
        for skill in definitions
        if (query.layer is None or skill.layer == query.layer)
        and (query.category is None or skill.category == query.category)
        and (query.author is None or skill.author == query.author)
        and (query.name is None or skill.name == query.name)
        and (not query.tags or set(query.tags) & set(skill.tags))
        and set(query.all_tags) <= set(skill.tags)
        and (query.text is None or words_of(query.text) <= words_of(skill.name, skill.description, *skill.tags))
    ]


few = st.sampled_from
tags = st.lists(few(["io", "net", "text", "é"]), max_size=3)
bodies = st.fixed_dictionaries(
    {
        "layer": few([1, 2, 3]),
        "category": few(["file", "data", ""]),
        "tags": tags,
        "author": few(["ann", "bo"]),
        "description": few(["Reads a file", "sums a TABLE", "reads, then sums", ""]),
    }
)
queries = st.builds(
    SkillQuery,
    layer=st.none() | few([1, 2, 3]),
    category=st.none() | few(["file", "data", "", "none"]),
    tags=tags,
    all_tags=tags,
    name=st.none() | few(["n1", "n2", "none"]),
    text=st.none() | few(["reads", "READS file", "sums", "io", "", "none", "file,a"]),
    author=st.none() | few(["ann", "none"]),
    limit=st.none() | st.integers(0, 5),
    offset=st.integers(0, 6),
)


class LinearScan(RuleBasedStateMachine):
    """A registry with a cache, one without, and a list that is scanned: all three give the same answers, always."""

    def __init__(self):
        super().__init__()
        self.cached = InMemorySkillRegistry()
        self.bare = InMemorySkillRegistry(cache=None)
        self.model: dict[str, SkillDefinition] = {}
        self.asked: set[SkillQuery] = set()

    def both(self, call):
        outcomes = []
        for registry in (self.cached, self.bare):
            try:
                outcomes.append(finished(call(registry)))  # a loop for each would take two thirds of the time
            except DuplicateSkillError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    def taken(self, definition):
        return any(
            other.layer == definition.layer and other.name == definition.name and other.id != definition.id
            for other in self.model.values()
        )

    @rule(skill_id=few("abcdef"), name=few(["n1", "n2", "n3", "n4"]), body=bodies)
    def register(self, skill_id, name, body):
        definition = define(skill_id, name=name, **body)
        outcome = self.both(lambda registry: registry.register(definition))
        if skill_id in self.model or self.taken(definition):
            assert isinstance(outcome, str)
        else:
            self.model[skill_id] = definition

    @precondition(lambda self: self.model)
    @rule(data=st.data(), name=few(["n1", "n2", "n3", "n4"]), body=bodies)
    def update(self, data, name, body):
        definition = define(data.draw(few(sorted(self.model))), name=name, **body)
        outcome = self.both(lambda registry: registry.update(definition.id, definition))
        if self.taken(definition):
            assert isinstance(outcome, str)
        else:
            self.model[definition.id] = definition

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def unregister(self, data):
        gone = data.draw(few(sorted(self.model)))
        assert self.both(lambda registry: registry.unregister(gone)) == self.model.pop(gone)

    @rule()
    def optimize(self):
        self.cached.optimize()
        self.bare.optimize()

    @rule(query=queries)
    def ask(self, query):
        self.asked.add(query)

    @invariant()
    def every_answer_is_the_scan(self):
        for query in self.asked:
            found = scan(self.model.values(), query)
            end = None if query.limit is None else query.offset + query.limit
            for registry in (self.cached, self.bare):
                page = finished(registry.discover(query))
                assert list(page) == found[query.offset : end]
                assert page.total == len(found)
                more = page and query.offset + len(page) < len(found)
                assert page.next_offset == (query.offset + len(page) if more else None)


TestLinearScan = LinearScan.TestCase


class TestInvalidation:
    """Decision 2: a cached answer is dropped only when it could have changed."""

    def hits_after(self, change, query, *definitions):
        registry = registry_of(*definitions)

        async def main():
            await registry.discover(query)
            await change(registry)
            before = registry.cache.stats()
            await registry.discover(query)
            return registry.cache.stats().since(before).hits

        return run(main())

    @pytest.mark.parametrize(
        ("query", "kept"),
        [
            ({"category": "file"}, True),
            ({"category": "data"}, False),
            ({"layer": 2}, True),
            ({"layer": 1}, False),
            ({"layer": 1, "category": "file"}, True),
            ({"tags": ["io", "net"]}, True),
            ({"tags": ["io", "text"]}, False),
            ({"all_tags": ["text", "io"]}, True),
            ({"author": "bo"}, True),
            ({"author": "ann"}, False),
            ({"name": "another"}, True),
            ({"name": "skill new"}, False),
            ({"text": "anything"}, False),
            ({"text": "anything", "category": "file"}, True),
            ({}, False),
            ({"limit": 5}, False),
        ],
    )
    def test_a_registration_drops_only_queries_that_it_could_match(self, query, kept):
        """A new skill (layer 1, category data, tag text, author ann) leaves queries alone that name another facet."""
        new = define("new", category="data", tags=["text"], author="ann")
        assert self.hits_after(lambda registry: registry.register(new), query, define("a", category="file")) == kept

    def test_a_move_between_facets_drops_the_old_and_the_new(self):
        """An update that moves a skill from file to data touches both categories, and no third."""
        before, after = define("a", category="file"), define("a", category="data")
        for category, kept in (("file", False), ("data", False), ("text", True)):
            assert self.hits_after(lambda registry: registry.update("a", after), {"category": category}, before) == kept

    def test_a_removal_drops_what_the_skill_was_in(self):
        """After unregister its category is asked anew, another is not."""
        definitions = define("a", category="file"), define("b", category="data")
        for category, kept in (("file", False), ("data", True)):
            assert (
                self.hits_after(lambda registry: registry.unregister("a"), {"category": category}, *definitions) == kept
            )

    def test_a_change_during_evaluation_is_not_missed(self):
        """The counter is read before evaluation: a page made before a change never passes for one made after it."""
        registry = registry_of(define("a", category="file"))
        find = registry._index.find

        def find_and_change(query):
            found = find(query)
            registry._index.find = find
            registry._index.add(define("b", category="file"))
            return found

        registry._index.find = find_and_change

        async def main():
            await registry.discover(category="file")
            return await registry.discover(category="file")

        assert [found.id for found in run(main())] == ["a", "b"]

    def test_the_hit_rate_is_true(self):
        """An answer found out of date is a miss: of three look-ups with a change before the last, one is a hit."""

        async def main():
            registry = InMemorySkillRegistry()
            await registry.register(define("a", category="file"))
            await registry.discover(category="file")
            await registry.discover(category="file")
            await registry.register(define("b", category="file"))
            await registry.discover(category="file")
            return registry.get_performance_metrics()

        metrics = run(main())
        assert metrics.cache.by_kind["query"].hit_rate == pytest.approx(1 / 3)
        assert (metrics.query_count, metrics.total_skills) == (3, 2)


class TestDiscover:
    """Pages and conditions."""

    def test_pages_cover_the_answer_once_in_order_of_registration(self):
        """Following next_offset gives every match once; an update keeps its place."""
        registry = registry_of(*(define(f"s{n}", category="file" if n % 2 else "data") for n in range(20)))

        async def main():
            await registry.update("s3", define("s3", category="file", version="2"))
            found, offset = [], 0
            while offset is not None:
                page = await registry.discover(category="file", limit=3, offset=offset)
                assert page.total == 10
                found += [each.id for each in page]
                offset = page.next_offset
            drained = [each.id async for each in registry.iter(category="file")]
            return found, drained

        found, drained = run(main())
        assert found == drained == [f"s{n}" for n in range(1, 20, 2)]

    def test_an_offset_past_the_end_is_an_empty_page_with_the_total(self):
        """Nothing to see, and how much there was."""
        page = run(registry_of(define("a"), define("b")).discover(offset=7))
        assert (list(page), page.total, page.next_offset) == ([], 2, None)

    def test_a_page_is_a_frozen_tuple_of_frozen_definitions(self):
        """No caller can change what the next one gets."""
        registry = registry_of(define("a", input_schema={"type": "object", "properties": {}}))
        page = run(registry.discover())
        assert isinstance(page, tuple)
        with pytest.raises(AttributeError):
            page.total = 5
        with pytest.raises(TypeError):
            page[0].input_schema["properties"]["x"] = 1

    def test_three_ways_to_ask_are_one_query(self):
        """Keywords, a mapping and a SkillQuery share one cache entry, as do tags in another order."""
        registry = registry_of(define("a", tags=["x"]))

        async def main():
            await registry.discover(layer=1, tags=["x", "y"])
            await registry.discover({"layer": 1, "tags": ["y", "x"]})
            await registry.discover(SkillQuery(layer=1, tags=("x", "y", "x")))

        run(main())
        assert registry.cache.stats().by_kind["query"].hits == 2

    def test_text_is_words_case_folded_in_normal_form(self):
        """Every word must occur, whole, in name, description or tags."""
        registry = registry_of(define("a", description="Reads a FILE, quickly", tags=["caf\u00e9"]))

        def total(text):
            return run(registry.discover(text=text)).total

        assert [total(text) for text in ("file reads", "FILE", "cafe\u0301", "fil", "file slowly", "")] == [
            1,
            1,
            1,
            0,
            0,
            1,
        ]

    @pytest.mark.parametrize(
        ("conditions", "message"),
        [
            ({"layer": 4}, "layer=4 must be 1, 2 or 3"),
            ({"layer": True}, "layer=True must be"),
            ({"layer": "1"}, "layer='1' must be"),
            ({"limit": -1}, "limit=-1 must be"),
            ({"limit": 2.0}, "limit=2.0 must be"),
            ({"offset": -1}, "offset=-1 must be"),
            ({"tags": "io"}, r"tags='io' must be a list of texts; write \['io'\]"),
            ({"all_tags": ["io", 3]}, "must be a list of texts"),
            ({"tags": 0}, "tags=0 must be a list of texts"),
            ({"all_tags": ""}, "all_tags='' must be a list of texts"),
            ({"category": 3}, "category=3 must be text or None"),
            ({"colour": "red"}, "unknown condition colour: known are layer, category"),
        ],
    )
    def test_a_bad_condition_is_refused_with_its_value(self, conditions, message):
        """As keyword and in a mapping; nothing is counted as a query."""
        registry = registry_of(define("a"))
        for ask in (lambda: registry.discover(**conditions), lambda: registry.discover(conditions)):
            with pytest.raises(InvalidValueError, match=message):
                run(ask())
        assert registry.get_performance_metrics().query_count == 0

    def test_a_query_and_keywords_together_are_refused(self):
        """Which of the two was meant?"""
        with pytest.raises(InvalidValueError, match="give one of them"):
            run(registry_of().discover({"layer": 1}, category="x"))
        with pytest.raises(InvalidValueError, match="must be a SkillQuery or a mapping"):
            run(registry_of().discover("file"))


class TestChanges:
    """All or nothing."""

    def state(self, registry):
        return [each.model_dump() for each in run(registry.discover())]

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (lambda r: r.register(define("a")), DuplicateSkillError),
            (lambda r: r.register(define("c", name="skill b")), DuplicateSkillError),
            (lambda r: r.update("a", define("a", name="skill b")), DuplicateSkillError),
            (lambda r: r.update("a", define("b")), InvalidValueError),
            (lambda r: r.update("none", define("none")), SkillNotFoundError),
            (lambda r: r.unregister("none"), SkillNotFoundError),
            (lambda r: r.resolve("none"), SkillNotFoundError),
            (lambda r: r.register("a text"), InvalidValueError),
            (lambda r: r.register(define("c", input_schema={"type": "objct"})), InvalidDefinitionError),
            (lambda r: r.update("a", define("a", output_schema={"type": "objct"})), InvalidDefinitionError),
        ],
    )
    def test_a_refused_change_changes_nothing(self, change, error):
        """Each bad call raises its typed error, and the registry answers as before."""
        registry = registry_of(define("a", category="x"), define("b", category="y"))
        before = self.state(registry)
        with pytest.raises(error):
            run(change(registry))
        assert self.state(registry) == before
        assert run(registry.discover(category="x")).total == 1

    def test_names_are_unique_within_a_layer_only(self):
        """The same name in layers 1 and 2 is fine; a name that was given up is free."""
        registry = registry_of(define("a", name="n"), define("b", name="n", layer=2))

        async def main():
            await registry.update("a", define("a", name="m"))
            await registry.register(define("c", name="n"))
            return [each.id for each in await registry.discover(name="n")]

        assert run(main()) == ["b", "c"]

    def test_what_was_removed_leaves_no_trace_in_the_indexes(self):
        """After ten thousand registrations and removals the index is as small as for the ten that stay."""
        registry = registry_of(*(define(f"keep{n}", category="keep") for n in range(10)))

        async def churn():
            for number in range(5_000):
                await registry.register(define(f"s{number}", category=f"c{number % 7}", tags=[f"t{number}"]))
                await registry.unregister(f"s{number}")

        run(churn())
        registry.optimize()
        index = registry._index
        assert (len(registry), len(index._skills), len(index._tags_within)) == (10, 10, 0)
        assert run(registry.discover(category="keep")).total == 10

    def test_a_discover_during_changes_sees_all_or_nothing(self):
        """Threads that move a skill between two categories while others look: it is in exactly one of them, always."""
        registry = registry_of(define("a", category="x", tags=["m"]))
        stop, torn = threading.Event(), []

        def move():
            for number in range(400):
                run(registry.update("a", define("a", category="xy"[number % 2], tags=["m"], version=str(number))))
            stop.set()

        def look():
            while not stop.is_set():
                page = run(registry.discover(tags=["m"]))
                if page.total != 1 or len(page) != 1:
                    torn.append(page)
                for category in "xy":
                    torn.extend(each for each in run(registry.discover(category=category)) if each.category != category)

        threads = [threading.Thread(target=move), *(threading.Thread(target=look) for _ in range(3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torn == []


@skill(id="double", tags=["math"])
def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


class TestLoading:
    """From definitions to functions."""

    def test_a_decorated_function_is_registered_by_its_definition(self):
        """register takes the function; resolve gives its definition; load gives the function back."""
        registry = registry_of(double)

        async def main():
            return await registry.resolve("double"), await registry.load("double")

        definition, loaded = run(main())
        assert definition is double.definition
        assert loaded.function(number=4) == 8

    def test_preloading_reads_the_catalogue_and_warms_the_cache(self):
        """After preload_skills nothing has to be imported or compiled, and what was not registered is."""
        registry = InMemorySkillRegistry(catalogue={"double": double.definition, "other": define("other")})
        assert run(registry.preload_skills(["double", "double"])) == ("double",)
        assert "double" in registry
        assert "other" not in registry
        assert registry.loaded("double") is not None

    def test_preloading_names_all_that_is_missing_and_registers_nothing(self):
        """One error for all missing ids; the ones that exist are not registered either."""
        registry = InMemorySkillRegistry(catalogue={"double": double.definition})
        with pytest.raises(SkillNotFoundError, match="'no-1', 'no-2'") as caught:
            run(registry.preload_skills(["no-1", "double", "no-2"]))
        assert caught.value.skill_ids == ("no-1", "no-2")
        assert len(registry) == 0

    def test_preloading_a_function_that_cannot_be_imported_registers_nothing(self):
        """The error names skill and target."""
        bad = define("bad", handler="no.such.module:function")
        registry = InMemorySkillRegistry(catalogue={"double": double.definition, "bad": bad})
        with pytest.raises(HandlerNotRunnableError, match=r"no\.such\.module:function"):
            run(registry.preload_skills(["double", "bad"]))
        assert len(registry) == 0

    def test_preloading_a_name_that_is_taken_registers_nothing(self):
        """The second of two catalogue entries with one name takes the first one back."""
        registry = InMemorySkillRegistry(catalogue={"x": define("x", name="n"), "y": define("y", name="n")})
        with pytest.raises(DuplicateSkillError):
            run(registry.preload_skills(["x", "y"]))
        assert len(registry) == 0
        with pytest.raises(InvalidValueError, match="list of ids"):
            run(registry.preload_skills("x"))

    def test_an_update_makes_the_loaded_skill_and_the_validation_new(self):
        """Neither is served for a definition that has changed since."""
        registry = registry_of(define("a", handler="json:loads"))

        async def main():
            first, fine = await registry.load("a"), await registry.check("a")
            assert registry.loaded("a") is first
            assert await registry.check("a") is fine
            await registry.update("a", define("a", handler="json:dumbs"))
            assert registry.loaded("a") is None
            return fine, await registry.check("a")

        fine, broken = run(main())
        assert (fine.valid, broken.valid) == (True, False)
        assert "json:dumbs" in broken.problems[0]
        assert broken.revision > fine.revision

    def test_a_load_that_an_update_overtakes_is_not_remembered(self):
        """The result of the slow import of the old definition does not end in the cache of the new one."""
        registry = registry_of(define("a", handler="json:loads"))

        async def main():
            slow = asyncio.create_task(registry.load("a"))
            await asyncio.sleep(0)
            await registry.update("a", define("a", handler="json:dumps"))
            old = await slow
            new = await registry.load("a")
            return old.definition.handler.target, new.definition.handler.target

        assert run(main()) == ("json:loads", "json:dumps")


class TestMetrics:
    """Measured or not measured, never made up."""

    def test_the_mean_query_time_is_the_mean_of_what_the_timer_said(self):
        """With a clock that moves 2 s a reading every query takes 2 s."""
        clock = FakeClock()

        def timer():
            clock.advance(2)
            return clock()

        registry = InMemorySkillRegistry(timer=timer)
        assert math.isnan(registry.get_performance_metrics().average_query_time)
        run(registry.discover())
        run(registry.discover(layer=1))
        metrics = registry.get_performance_metrics()
        assert (metrics.query_count, metrics.average_query_time) == (2, 2.0)
        assert "2.00 s each on average" in str(metrics)

    def test_optimize_says_how_many_expired_entries_went(self):
        """Two cached pages, two minutes later: two."""
        clock = FakeClock()
        registry = InMemorySkillRegistry(SkillCache(timer=clock))
        run(registry.discover(layer=1))
        run(registry.discover(layer=2))
        clock.advance(120)
        assert registry.optimize() == 2
        assert registry.optimize() == 0

    def test_a_cache_that_is_none_is_refused(self):
        """cache="no" is neither a cache nor None."""
        with pytest.raises(InvalidValueError, match="must be a SkillCache, or None"):
            InMemorySkillRegistry(cache="no")


@given(st.text(max_size=30))
def test_words_are_the_same_in_every_form(text):
    """Folding case or composing accents beforehand changes no word."""
    assert words_of(text) == words_of(text.casefold())


class TestSharing:
    """One cache for several registries and for the user's own entries."""

    def test_registries_that_share_a_cache_do_not_meet(self):
        """Neither pages nor loaded skills of one are served by another, an empty one included."""
        cache = SkillCache()
        one, other = InMemorySkillRegistry(cache), InMemorySkillRegistry(cache)

        async def main():
            await one.register(define("s", category="x", handler="json:loads"))
            await one.discover(category="x")
            assert (await other.discover(category="x")).total == 0
            await other.register(define("s", category="x", handler="json:dumps", description="other"))
            await one.load("s")
            return (await other.discover(category="x"))[0].description, (await other.load("s")).function.__name__

        assert run(main()) == ("other", "dumps")

    def test_what_users_store_does_not_meet_what_the_registry_stores(self):
        """A list of the user's own under a generated key, and a skill under an id, leave discover and load alone."""
        registry = registry_of(define("s", category="x", handler="json:loads"))
        registry.cache.cache_query(SkillCache.generate_query_key({"category": "x"}), ["mine"])
        registry.cache.cache_skill("s", "mine")
        assert run(registry.discover(category="x")).total == 1
        assert run(registry.load("s")).function.__name__ == "loads"
        assert registry.cache.get_skill("s") == "mine"


def test_a_changed_query_is_checked_like_any_other():
    """_replace takes the next offset of a page, and refuses what SkillQuery refuses."""
    query = SkillQuery(category="x", tags=["b", "a"])
    assert query._replace(offset=3) == SkillQuery(category="x", tags=["a", "b"], offset=3)
    for change in ({"offset": None}, {"limit": -2}, {"tags": "a"}, {"colour": 1}):
        with pytest.raises(InvalidValueError):
            query._replace(**change)


class TestForgetting:
    """What is gone leaves nothing behind that grows."""

    def test_stamps_of_facets_that_are_gone_are_forgotten(self):
        """After many skills with names of their own came and went, optimize leaves no stamp of theirs."""
        registry = registry_of(define("stays"))

        async def churn():
            for number in range(200):
                await registry.register(define(f"s{number}", author=f"a{number}", tags=[f"t{number}"]))
                await registry.unregister(f"s{number}")

        run(churn())
        registry.optimize()
        assert len(registry._index._stamps) <= 5

    def test_forgetting_makes_no_old_answer_true_again(self):
        """A page cached before its only skill went is not served after optimize forgot the stamps."""
        registry = registry_of(define("a", category="x", tags=["t"], author="ann"))

        async def main():
            for asked in ({"category": "x"}, {"tags": ["t"]}, {"author": "ann"}, {"name": "skill a"}):
                assert (await registry.discover(asked)).total == 1
            await registry.unregister("a")
            registry.optimize()
            return [
                (await registry.discover(asked)).total
                for asked in ({"category": "x"}, {"tags": ["t"]}, {"author": "ann"}, {"name": "skill a"})
            ]

        assert run(main()) == [0, 0, 0, 0]


class TestBadIds:
    """Ids are text."""

    @pytest.mark.parametrize("skill_id", [5, None, ["a"], {}])
    def test_an_id_that_is_no_text_is_refused(self, skill_id):
        """resolve, load, check, unregister and preload_skills name the value."""
        registry = registry_of(define("a"))
        calls = (
            lambda: registry.resolve(skill_id),
            lambda: registry.load(skill_id),
            lambda: registry.check(skill_id),
            lambda: registry.unregister(skill_id),
            lambda: registry.preload_skills([skill_id]),
        )
        for call in calls:
            with pytest.raises(InvalidValueError, match="skill_id="):
                run(call())

    def test_a_catalogue_and_a_list_must_be_what_they_are(self):
        """A number is neither a catalogue nor a list of ids, and a catalogue calls each definition by its id."""
        with pytest.raises(InvalidValueError, match="catalogue=5"):
            InMemorySkillRegistry(catalogue=5)
        with pytest.raises(InvalidValueError, match="skill_ids=5"):
            run(registry_of().preload_skills(5))
        registry = InMemorySkillRegistry(catalogue={"alias": double.definition})
        with pytest.raises(InvalidValueError, match="'double' under 'alias'"):
            run(registry.preload_skills(["alias"]))
        assert len(registry) == 0

    def test_preloading_fails_before_it_registers(self):
        """A registered skill that cannot be loaded keeps the others of the list out as well."""
        registry = InMemorySkillRegistry(catalogue={"double": double.definition})
        run(registry.register(define("bad", handler="no.such.module:function")))
        with pytest.raises(HandlerNotRunnableError):
            run(registry.preload_skills(["double", "bad"]))
        assert "double" not in registry
