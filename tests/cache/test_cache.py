"""SkillCache: kinds, lifetimes, bounds, statistics, callbacks, tags; held beside a dict model and cachetools.TLRUCache."""

from __future__ import annotations

import logging
import math
import threading

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from skilllab.cache import UNSET, Key, LRUStore, SkillCache
from skilllab.errors import InvalidValueError
from skilllab.model import SkillDefinition
from skilllab.query import Page, SkillQuery
from skilllab.testing import FakeClock

POLICIES = [LRUStore, cachetools.LRUCache, cachetools.LFUCache, cachetools.FIFOCache, cachetools.RRCache]
by_policy = pytest.mark.parametrize("store", POLICIES, ids=lambda store: store.__name__)


@pytest.fixture
def clock():
    return FakeClock()


def make(clock, max_size=3, ttl=10.0, **options):
    return SkillCache(max_size, ttl, timer=clock, **options)


def used(store):
    store["before"] = 1
    return store


class TestEveryPolicy:
    """What holds whoever decides which entry goes."""

    @by_policy
    def test_a_living_entry_is_served_and_an_expired_one_never(self, store, clock):
        """An entry lives up to, and not at, its TTL; a hit does not prolong it."""
        cache = make(clock, store=store)
        cache.set("a", 1)
        clock.advance(9.999)
        assert cache.get("a") == 1
        clock.advance(0.001)
        assert cache.get("a") is None
        assert cache.get("a", "none") == "none"

    @by_policy
    def test_it_never_holds_more_than_max_size(self, store, clock):
        """After any number of insertions at most max_size entries are there, and every other one was evicted."""
        cache = make(clock, store=store)
        for number in range(50):
            cache.set(f"k{number}", number)
            assert len(cache) <= 3
        assert cache.stats().evictions == 47
        assert cache.stats().size == 3

    @by_policy
    def test_an_expired_entry_goes_before_a_living_one(self, store, clock):
        """At capacity the expired entry makes room, whatever the policy would have given up."""
        cache = make(clock, store=store)
        cache.set("long", 1, ttl=100)
        cache.set("longer", 2, ttl=200)
        cache.set("short", 3, ttl=1)
        clock.advance(1)
        cache.set("new", 4)
        assert [key for key in ("long", "longer", "short", "new") if key in cache] == ["long", "longer", "new"]
        assert (cache.stats().expirations, cache.stats().evictions) == (1, 0)

    @by_policy
    def test_setting_again_replaces_value_life_and_tags(self, store, clock):
        """The second value has a lifetime and tags of its own; nothing of the first acts any more."""
        cache = make(clock, store=store)
        cache.set("a", 1, ttl=1, tags=["old"])
        cache.set("a", 2, ttl=100, tags=["new"])
        clock.advance(50)
        assert cache.get("a") == 2
        assert cache.invalidate_tags("old") == 0
        assert cache.invalidate_tags("new") == 1
        assert cache.stats().size == 0


class DictModel(RuleBasedStateMachine):
    """A cache big enough to evict nothing is a dict whose values have an end."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.cache = SkillCache(1000, 10.0, timer=self.clock)
        self.model: dict = {}

    keys = st.sampled_from(["a", "b", "é", 1, True, 1.0, None, ("x", 1)])

    @staticmethod
    def identity(key):
        return (type(key), key)

    def living(self, key):
        value, end = self.model.get(self.identity(key), (None, -1.0))
        return value if end > self.clock() else None

    @rule(key=keys, value=st.integers(), ttl=st.sampled_from([UNSET, None, 1.0, 5.0, 20.0]))
    def set(self, key, value, ttl):
        self.cache.set(key, value, ttl=ttl)
        life = 10.0 if ttl is UNSET else math.inf if ttl is None else ttl
        self.model[self.identity(key)] = (value, self.clock() + life)

    @rule(key=keys)
    def get(self, key):
        assert self.cache.get(key) == self.living(key)

    @rule(key=keys)
    def delete(self, key):
        assert self.cache.delete(key) == (self.living(key) is not None)
        self.model.pop(self.identity(key), None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 7.0, 30.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def cleanup(self):
        self.cache.cleanup()

    @invariant()
    def same_entries(self):
        for key in ["a", "é", 1, True, 1.0, None]:
            assert (key in self.cache) == (self.living(key) is not None)


TestDictModel = DictModel.TestCase


operations = st.lists(
    st.tuples(st.sampled_from(["get", "set", "advance"]), st.integers(0, 8), st.sampled_from([1.0, 3.0, 8.0])),
    max_size=80,
)


@given(operations, st.integers(1, 5))
def test_it_means_what_tlrucache_means(steps, max_size):
    """With per-entry TTLs our LRU store serves and drops exactly what cachetools.TLRUCache serves and drops."""
    clock = FakeClock()
    ours = SkillCache(max_size, timer=clock)
    peer = cachetools.TLRUCache(max_size, ttu=lambda key, ttl, now: now + ttl, timer=clock)
    for what, number, ttl in steps:
        key = f"k{number}"
        if what == "advance":
            clock.advance(ttl / 2)
        elif what == "set":
            ours.set(key, ttl, ttl=ttl)
            peer[key] = ttl
        else:
            assert ours.get(key) == peer.get(key)
    assert {f"k{n}" for n in range(9) if f"k{n}" in ours} == set(peer)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=60), st.integers(1, 5))
@pytest.mark.parametrize("policy", [cachetools.LRUCache, cachetools.LFUCache, cachetools.FIFOCache])
def test_a_cachetools_policy_decides_as_it_does_alone(policy, steps, max_size):
    """Behind SkillCache a policy evicts exactly what the bare cachetools class evicts."""
    ours, peer = SkillCache(max_size, None, store=policy), policy(max_size)
    for write, number in steps:
        key = f"k{number}"
        if write:
            if key in ours:
                continue
            ours.set(key, number)
            peer[key] = number
        elif key in peer:
            assert ours.get(key) == peer[key]
    assert {f"k{n}" for n in range(9) if f"k{n}" in ours} == set(peer)


class TestKinds:
    """Namespaces with lifetimes of their own."""

    def test_each_kind_lives_as_long_as_the_guide_says(self, clock):
        """Skills 15 minutes, queries 2, validations 5, everything else 10."""
        cache = SkillCache(timer=clock)
        cache.set("x", 0)
        cache.cache_skill("x", 1)
        cache.cache_query("x", 2)
        cache.cache_validation("x", 3)
        seen = {}
        for minutes in range(1, 17):
            clock.advance(60)
            values = (cache.get("x"), cache.get_skill("x"), cache.get_query("x"), cache.get_validation("x"))
            for kind, value in zip(("default", "skill", "query", "validation"), values, strict=True):
                if value is None:
                    seen.setdefault(kind, minutes)
        assert seen == {"default": 10, "skill": 15, "query": 2, "validation": 5}
        assert SkillCache().max_size == 2000

    def test_one_name_in_two_kinds_is_two_entries(self, clock):
        """The skill "x" and the validation of "x" do not meet."""
        cache = make(clock)
        cache.cache_skill("x", "skill")
        cache.cache_validation("x", "validation")
        assert (cache.get_skill("x"), cache.get_validation("x"), cache.get("x")) == ("skill", "validation", None)

    def test_a_generated_query_key_finds_what_cache_query_stored(self, clock):
        """The guide's pattern: generate_query_key, get, cache_query; however the query is written."""
        cache = make(clock)
        page = Page((), 0, None)
        cache.cache_query(SkillCache.generate_query_key({"category": "io", "tags": ["b", "a"]}), page)
        assert cache.get(SkillCache.generate_query_key(SkillQuery(tags=("a", "b", "a"), category="io"))) is page
        assert cache.get(SkillCache.generate_query_key({"category": "io", "all_tags": ["a", "b"]})) is None

    def test_statistics_are_kept_by_kind(self, clock):
        """Hits and misses count where they happen, and sum up."""
        cache = make(clock, max_size=10)
        cache.cache_query("q", 1)
        cache.get_query("q"), cache.get_query("q"), cache.get_query("other"), cache.get("x")
        stats = cache.stats()
        assert (stats.by_kind["query"].hits, stats.by_kind["query"].misses) == (2, 1)
        assert (stats.hits, stats.misses, stats.hit_rate) == (2, 2, 0.5)
        assert math.isnan(stats.by_kind["skill"].hit_rate)
        assert stats.frame().loc["query", "hit_rate"] == pytest.approx(2 / 3)


class TestSafety:
    """What callers hold is theirs."""

    @pytest.mark.parametrize("value", [{"a": [1]}, [1, {"b": 2}], ({"a": 1},), bytearray(b"xy"), {1, 2}])
    def test_neither_the_giver_nor_a_taker_can_change_what_is_cached(self, value, clock):
        """A mutable value is copied on the way in and on the way out."""
        cache = make(clock)
        cache.set("k", value)
        before = repr(value)
        for mutable in (value, cache.get("k")):
            inner = mutable[0] if isinstance(mutable, tuple) else mutable
            inner.clear()
        assert repr(cache.get("k")) == before

    def test_what_cannot_change_is_shared(self, clock):
        """Frozen definitions and pages come back as the same object: no copy, no cost."""
        cache = make(clock)
        definition = SkillDefinition(id="a", name="a", layer=1, input_schema={"type": "object"})
        for value in ("text", (1, ("a", None)), definition, Page((definition,), 1, None)):
            cache.set("k", value)
            assert cache.get("k") is value

    def test_a_value_that_cannot_be_copied_is_refused_or_shared_on_request(self, clock):
        """A lock cannot be copied: set raises and keeps the old value; copy=None shares it."""
        cache, lock = make(clock), threading.Lock()
        cache.set("k", "old")
        with pytest.raises(InvalidValueError, match="copy=None"):
            cache.set("k", [lock])
        assert cache.get("k") == "old"
        shared = make(clock, copy=None)
        shared.set("k", lock)
        assert shared.get("k") is lock

    def test_a_stored_none_is_told_from_a_miss_by_the_default(self, clock):
        """None and empty results are values like any other."""
        cache = make(clock)
        cache.set("none", None)
        cache.set("empty", [])
        assert cache.get("none", "default") is None
        assert cache.get("empty", "default") == []

    def test_threads_neither_lose_counts_nor_overfill(self):
        """Eight threads of gets and sets: look-ups add up exactly, and the bound holds."""
        cache = SkillCache(16, None)
        barrier = threading.Barrier(8)

        def work(seed):
            barrier.wait()
            for number in range(500):
                cache.get(f"k{(number * seed) % 40}")
                cache.set(f"k{(number + seed) % 40}", number, tags=[f"t{seed}"])
                if number % 50 == 0:
                    cache.invalidate_tags(f"t{seed}")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = cache.stats()
        assert stats.lookups == 8 * 500
        assert stats.size == len(cache) <= 16


class TestCallbacksAndTags:
    """Who hears of what goes."""

    def test_callbacks_hear_of_expiry_and_eviction(self, clock):
        """on_expire and on_evict are called once for each entry, after it is gone."""
        expired, evicted = [], []
        cache = make(
            clock, 2, on_expire=lambda *gone: expired.append(gone), on_evict=lambda *gone: evicted.append(gone)
        )
        cache.set("a", 1, ttl=1)
        cache.set("b", 2)
        clock.advance(1)
        assert cache.get("a") is None
        cache.set("c", 3)
        cache.set("d", 4)
        assert (expired, evicted) == ([("a", 1)], [("b", 2)])

    def test_a_callback_may_use_the_cache_and_may_fail(self, clock, caplog):
        """The lock is free during a callback, and its error is logged, not raised."""
        cache = make(clock, 1, on_evict=lambda key, value: cache.set("again", value) if key == "a" else 1 / 0)
        cache.set("a", 1)
        with caplog.at_level(logging.ERROR, "skilllab.cache"):
            cache.set("b", 2)
        assert cache.get("again") == 1
        assert "callback failed for the entry of 'b'" in caplog.text

    def test_tags_remove_exactly_what_carries_them(self, clock):
        """invalidate_tags removes each entry with one of the tags once, and counts it."""
        cache = make(clock, 10)
        cache.set("a", 1, tags=["x"])
        cache.set("b", 2, tags=["x", "y"])
        cache.set("c", 3, tags=["z"])
        assert cache.invalidate_tags("x", "y") == 2
        assert ("a" in cache, "b" in cache, "c" in cache) == (False, False, True)
        assert cache.stats().invalidations == 2

    def test_tags_of_evicted_and_expired_entries_are_forgotten(self, clock):
        """The tag index does not grow with entries that are gone."""
        cache = make(clock, 2)
        for number in range(20):
            cache.set(f"k{number}", number, ttl=1 + number % 3, tags=[f"t{number}"])
            clock.advance(0.5)
        cache.clear()
        assert len(cache._tags) == 0


actions = st.lists(
    st.tuples(
        st.sampled_from(
            ["set", "set", "set", "advance", "advance", "get", "valid", "delete", "tags", "cleanup", "clear"]
        ),
        st.integers(0, 7),
        st.sampled_from([1.0, 3.0, 8.0, UNSET, None]),
    ),
    min_size=25,
    max_size=60,
)


class TestAccounting:
    """Every look-up and every entry is accounted for, once."""

    @pytest.mark.slow
    @by_policy
    @given(steps=actions, max_size=st.integers(1, 5))
    def test_the_books_balance(self, store, steps, max_size):
        """Hits and misses are the look-ups; what was inserted is there or expired, evicted, invalidated or replaced.

        In all and by kind; the callbacks hear of each expiration and eviction; removals tell how many entries lived.
        """
        clock, told = FakeClock(), {"expired": 0, "evicted": 0}

        def hear(what):
            return lambda key, value: told.__setitem__(what, told[what] + 1)

        cache = make(clock, max_size, 5.0, store=store, on_expire=hear("expired"), on_evict=hear("evicted"))
        lookups = inserts = replaced = removed = 0
        for what, number, ttl in steps:
            key = Key("odd", number) if number % 2 else f"k{number}"
            living = [other for other in ALL_KEYS if other in cache]
            if what == "advance":
                clock.advance(number / 2)
            elif what in ("get", "valid"):
                lookups += 1
                refuses = what == "valid" and number > 3
                removed += refuses and key in living
                assert (cache.get(key, valid=lambda _, refuses=refuses: not refuses) is None) == (
                    refuses or key not in living
                )
            elif what == "set":
                inserts += 1
                replaced += key in living
                cache.set(key, number, ttl=ttl, tags=[f"t{number % 3}"])
            elif what == "delete":
                removed += key in living
                assert cache.delete(key) == (key in living)
            elif what == "tags":
                tagged = [other for other in living if ALL_KEYS[other] % 3 == number % 3]
                removed += len(tagged)
                assert cache.invalidate_tags(f"t{number % 3}") == len(tagged)
            elif what == "clear":
                removed += len(living)
                cache.clear()
            elif what == "cleanup":
                cache.cleanup()
            stats = cache.stats()
            assert stats.lookups == lookups
            assert stats.invalidations == removed
            assert (told["expired"], told["evicted"]) == (stats.expirations, stats.evictions)
            assert inserts == stats.size + stats.expirations + stats.evictions + stats.invalidations + replaced
            assert stats.size == len(cache._keys) == sum(kind.size for kind in stats.by_kind.values())

    @pytest.mark.parametrize(
        "end",
        [
            lambda cache: cache.get("k"),
            lambda cache: cache.set("k", "new"),
            lambda cache: cache.delete("k"),
            lambda cache: cache.invalidate_tags("t"),
            lambda cache: cache.clear(),
            lambda cache: cache.cleanup(),
            len,
        ],
        ids=["get", "set", "delete", "invalidate_tags", "clear", "cleanup", "len"],
    )
    def test_an_expired_entry_is_an_expiration_whatever_ends_it(self, end, clock):
        """It counts once, as expired; on_expire hears of it with the old value and the lock free; nothing lived."""
        heard = []

        def free_for_others(key, value):
            other = threading.Thread(target=lambda: heard.append((key, value, cache.stats().expirations)))
            other.start()
            other.join(5)

        cache = make(clock, on_expire=free_for_others)
        cache.set("k", "old", ttl=1, tags=["t"])
        clock.advance(1)
        assert end(cache) in (None, False, 0, 1)
        assert heard == [("k", "old", 1)]
        assert (cache.stats().expirations, cache.stats().invalidations) == (1, 0)

    def test_removals_return_the_living_only(self, clock):
        """delete is False and invalidate_tags leaves out what had expired already."""
        cache = make(clock)
        cache.set("short", 1, ttl=1, tags=["t"])
        cache.set("long", 2, ttl=9, tags=["t"])
        clock.advance(1)
        assert cache.invalidate_tags("t") == 1
        cache.set("short", 1, ttl=1)
        clock.advance(1)
        assert cache.delete("short") is False
        assert cache.delete("nobody") is False

    def test_sizes_include_what_expired_unnoticed(self, clock):
        """stats() counts an expired entry until somebody looks, cleanup or len included."""
        cache = make(clock)
        cache.set("k", 1, ttl=1)
        clock.advance(1)
        assert (cache.stats().size, cache.stats().by_kind["default"].size) == (1, 1)
        assert len(cache) == 0
        assert cache.stats().size == 0

    def test_an_expired_entry_that_is_set_again_is_new_to_the_policy(self, clock):
        """Its uses before count no more, as in cachetools.TLRUCache, which expires before it inserts."""
        cache = make(clock, 2, store=cachetools.LFUCache)
        cache.set("k", "old", ttl=1)
        for _ in range(9):
            cache.get("k")
        clock.advance(1)
        cache.set("k", "new", ttl=5)
        cache.set("other", 1)
        cache.get("other"), cache.get("other")
        cache.set("third", 1)
        assert "k" not in cache

    @by_policy
    @pytest.mark.parametrize("answer", [True, False])
    @pytest.mark.parametrize("change", ["delete", "clear", "set", "tags"])
    def test_a_validity_check_may_change_the_cache(self, store, answer, change, clock):
        """An entry that `valid` itself removes or replaces is counted once, and what it put there stays."""
        cache = make(clock, store=store)
        changes = {
            "delete": lambda: cache.delete("k"),
            "clear": cache.clear,
            "set": lambda: cache.set("k", "new"),
            "tags": lambda: cache.invalidate_tags("t"),
        }

        def valid(value):
            changes[change]()
            return answer

        cache.set("k", "old", tags=["t"])
        assert cache.get("k", valid=valid) == ("old" if answer else None)
        assert cache.get("k") == ("new" if change == "set" else None)
        stats = cache.stats()
        assert stats.invalidations == (0 if change == "set" else 1)
        assert stats.size == len(cache) == (1 if change == "set" else 0)
        assert stats.lookups == 2

    def test_a_kind_appears_under_the_lock(self, clock):
        """A first value of a new kind waits for a statistic that is being taken, whose table it would change."""
        at_the_lock = threading.Event()

        def copy(value):
            at_the_lock.set()
            return list(value)

        cache = make(clock, copy=copy)
        writer = threading.Thread(target=cache.set, args=(Key("new", 1), []))
        with cache._lock:
            writer.start()
            assert at_the_lock.wait(5)
            assert "new" not in cache._counts
        writer.join(5)
        assert cache.stats().by_kind["new"].size == 1


ALL_KEYS = {Key("odd", number) if number % 2 else f"k{number}": number for number in range(8)}


class TestBounds:
    """Memory and bad input."""

    @pytest.mark.parametrize("ttls", [[10.0], [0.5, 1.0, 2.0, 500.0]])
    def test_expiry_records_are_bounded_by_the_cache(self, ttls, clock):
        """Ten thousand rewrites of a few keys leave no ten thousand records behind."""
        cache = make(clock, 4)
        for number in range(10_000):
            cache.set(f"k{number % 6}", number, ttl=ttls[number % len(ttls)])
        assert cache._expiry.records <= 2 * 4 + 64

    def test_many_distinct_ttls_expire_in_their_own_order(self, clock):
        """Two hundred different TTLs: at every moment exactly the unexpired entries are there."""
        cache = make(clock, 500)
        for number in range(200):
            cache.set(f"k{number}", number, ttl=200.0 - number)
        for elapsed in range(1, 201):
            clock.advance(1)
            cache.cleanup()
            assert cache.stats().size == 200 - elapsed

    @pytest.mark.parametrize("max_size", [0, -1, 2.5, True, "10"])
    def test_a_size_below_one_is_refused(self, max_size):
        """A cache of nothing has no meaning: cache=None is the way to have none."""
        with pytest.raises(InvalidValueError, match=r"max_size=.* must be a whole number of at least 1"):
            SkillCache(max_size)

    @pytest.mark.parametrize("ttl", [0, -1, math.nan, "10", True])
    def test_a_ttl_that_is_not_above_nought_is_refused_and_nothing_changes(self, ttl, clock):
        """In the constructor, for a kind, and in set, where the old value stays."""
        for options in ({"ttl": ttl}, {"skill_ttl": ttl}, {"query_ttl": ttl}, {"validation_ttl": ttl}):
            with pytest.raises(InvalidValueError, match="above 0, or None"):
                SkillCache(**options)
        cache = make(clock)
        cache.set("k", "old")
        with pytest.raises(InvalidValueError, match="ttl="):
            cache.set("k", "new", ttl=ttl)
        assert cache.get("k") == "old"

    @pytest.mark.parametrize("ttl", [10**400, -(10**400), 10**5000], ids=["huge", "negative", "unprintable"])
    def test_a_ttl_that_is_no_float_is_refused(self, ttl, clock):
        """A whole number beyond every float, and one too long to print, are typed errors that name the argument."""
        with pytest.raises(InvalidValueError, match="skill_ttl"):
            SkillCache(skill_ttl=ttl)
        with pytest.raises(InvalidValueError, match="ttl"):
            make(clock).set("k", 1, ttl=ttl)
        make(clock).set("k", 1, ttl=10**300)

    @pytest.mark.parametrize("what", ["skill", "query", "validation"])
    def test_ids_are_canonical_in_every_kind(self, what, clock):
        """1 and True are two ids, an accent typed in two ways is one, a list is one by its items, a set a typed error."""
        cache = make(clock, 10)
        get, put = getattr(cache, f"get_{what}"), getattr(cache, f"cache_{what}")
        put(1, "one")
        put("caf\u00e9", "drink")
        put([1, {"a": True}], "list")
        assert (get(1), get(True), get(1.0)) == ("one", None, None)
        assert get("cafe\u0301") == "drink"
        assert (get([1, {"a": True}]), get([True, {"a": 1}])) == ("list", None)
        assert cache.get(Key(what, "caf\u00e9")) == "drink"
        for call in (lambda: get({1}), lambda: put({1}, 0)):
            with pytest.raises(InvalidValueError, match="cannot be a cache key"):
                call()

    @pytest.mark.parametrize(
        ("store", "words"),
        [
            (lambda size: cachetools.LRUCache(size, getsizeof=len), "getsizeof"),
            (type("Sized", (cachetools.LFUCache,), {"getsizeof": lambda self, value: 2}), "getsizeof"),
            (lambda size: used(cachetools.LRUCache(size)), "holds 1 entries already"),
            (lambda size: used(LRUStore(size)), "holds 1 entries already"),
        ],
        ids=["sizes", "sizes of a class", "used policy", "used store"],
    )
    def test_a_store_that_would_lose_count_is_refused(self, store, words):
        """Sizes of its own, and entries from before, would make the policy evict what the cache does not know of."""
        with pytest.raises(InvalidValueError, match=words):
            SkillCache(10, store=store)

    @pytest.mark.parametrize(
        "store", [dict, lambda size: cachetools.TTLCache(size, 5), lambda size: cachetools.LRUCache(1)]
    )
    def test_a_store_that_is_none_is_refused(self, store):
        """Plain dicts, caches with a TTL of their own and caches that are too small are named."""
        with pytest.raises(InvalidValueError, match="store"):
            SkillCache(10, store=store)

    def test_tags_written_as_one_text_are_refused(self, clock):
        """tags="ab" would be two tags of one letter."""
        with pytest.raises(InvalidValueError, match=r"write \['ab'\]"):
            make(clock).set("k", 1, tags="ab")


def test_a_look_up_that_is_no_longer_valid_is_a_miss_and_drops_the_entry(clock):
    """valid= decides per value; what it refuses counts as a miss and an invalidation."""
    cache = make(clock)
    cache.set("k", 1)
    assert cache.get("k", valid=lambda value: value == 1) == 1
    assert cache.get("k", valid=lambda value: value == 2) is None
    assert "k" not in cache
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.invalidations) == (1, 1, 1)


def test_statistics_can_be_taken_between_two_moments(clock):
    """since() tells what happened after an earlier snapshot."""
    cache = make(clock)
    cache.set("a", 1)
    cache.get("a"), cache.get("b")
    before = cache.stats()
    cache.get("a"), cache.get("a")
    assert (cache.stats().since(before).hits, cache.stats().since(before).misses) == (2, 0)
    assert "hit rate 75.0 %" in repr(cache)


def test_keys_of_other_kinds_live_as_long_as_the_default(clock):
    """A kind that nobody configured is a namespace with the default TTL."""
    cache = make(clock, ttl=5.0)
    cache.set(Key("result", 1), "r")
    clock.advance(4.9)
    assert cache.get(Key("result", 1)) == "r"
    clock.advance(0.1)
    assert cache.get(Key("result", 1)) is None
    assert cache.stats().by_kind["result"].expirations == 1


@pytest.mark.parametrize("tags", [5, [["nested"]], [3]])
def test_tags_that_are_no_texts_are_refused(tags, clock):
    """A number, a list inside and a number inside raise InvalidValueError, and nothing is stored."""
    cache = make(clock)
    with pytest.raises(InvalidValueError, match="tags="):
        cache.set("k", 1, tags=tags)
    assert "k" not in cache
