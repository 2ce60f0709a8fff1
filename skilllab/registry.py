"""InMemorySkillRegistry: holds skills, finds them, and answers from a cache only what is still true."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from skilllab import format as fmt
from skilllab.cache.cache import UNSET, SkillCache
from skilllab.cache.flight import single_flight
from skilllab.cache.keys import QUERY, SKILL, VALIDATION, Key
from skilllab.cache.stats import CacheStats
from skilllab.define import definition_of
from skilllab.errors import InvalidValueError, SkillNotFoundError
from skilllab.index import SkillIndex
from skilllab.loading import LoadedSkill, Validation, check, compile_schemas, load
from skilllab.model import SkillDefinition
from skilllab.query import Page, SkillQuery

_YIELD_EVERY = 256


@dataclass(frozen=True, slots=True)
class RegistryMetrics:
    """What a registry did: `average_query_time` in seconds over `query_count` discoveries, cached ones included."""

    total_skills: int
    query_count: int
    average_query_time: float
    cache: CacheStats

    def __str__(self) -> str:
        return (
            f"{fmt.count(self.total_skills)} skills; queries: {fmt.count(self.query_count)}, "
            f"{fmt.duration(self.average_query_time)} each on average; cache: {self.cache}"
        )


class InMemorySkillRegistry:
    """Skills by id and by what they are for; safe under threads and tasks at once.

    cache: a SkillCache for loaded skills, query pages and validations; None caches nothing; left out, one is made.
    catalogue: definitions by id that `preload_skills` may read. timer: seconds, for query times.
    Every change is seen by queries wholly or not at all. Names are unique within a layer.
    """

    def __init__(
        self,
        cache: SkillCache | Any | None = UNSET,
        *,
        catalogue: Mapping[str, SkillDefinition] | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        if cache is UNSET:
            cache = SkillCache()
        elif cache is not None and not isinstance(cache, SkillCache):
            raise InvalidValueError(f"cache={cache!r} must be a SkillCache, or None for none")
        self.cache: SkillCache | None = cache
        if catalogue is not None and not isinstance(catalogue, Mapping):
            raise InvalidValueError(f"catalogue={catalogue!r} must be a mapping of ids to definitions, or None")
        self._catalogue = catalogue or {}
        self._timer = timer
        self._index = SkillIndex()
        self._owner = object()  # part of every key, so that registries may share a cache and users may store in it
        self._lock = threading.RLock()
        self._acquire, self._release = self._lock.acquire, self._lock.release  # `with` costs twice as much
        self._query_count = 0
        self._query_seconds = 0.0

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, skill_id: object) -> bool:
        return skill_id in self._index

    def __repr__(self) -> str:
        return (
            f"<InMemorySkillRegistry of {fmt.count(len(self))} skills, {'with' if self.cache else 'without'} a cache>"
        )

    # changing

    async def register(self, skill: Any) -> SkillDefinition:
        """Adds a definition, or a function decorated with @skill, and returns the definition.

        Raises DuplicateSkillError for an id or a name that is taken, InvalidDefinitionError for a bad schema.
        """
        definition = _checked(skill)
        with self._lock:
            self._index.add(definition)
        return definition

    async def update(self, skill_id: str, skill: Any) -> SkillDefinition:
        """Puts a new definition in the place of a registered one; the order of skills stays.

        Raises SkillNotFoundError, DuplicateSkillError for a name that is taken, and InvalidValueError when the new
        definition carries another id.
        """
        definition = _checked(skill)
        if definition.id != skill_id:
            raise InvalidValueError(
                f"the new definition has id {definition.id!r}, not {skill_id!r}: an id stays; unregister and register to change it"
            )
        with self._lock:
            self._require(skill_id)
            self._index.replace(definition)
            self._forget(skill_id)
        return definition

    async def unregister(self, skill_id: str) -> SkillDefinition:
        """Removes a skill and returns its definition; raises SkillNotFoundError."""
        with self._lock:
            self._require(skill_id)
            removed = self._index.remove(skill_id)
            self._forget(skill_id)
        return removed

    # asking

    async def resolve(self, skill_id: str) -> SkillDefinition:
        """Returns the definition with this id; raises SkillNotFoundError."""
        return self._require(skill_id)

    async def discover(
        self,
        query: SkillQuery | Mapping[str, Any] | None = None,
        /,
        *,
        layer: int | None = None,
        category: str | None = None,
        tags: Iterable[str] = (),
        all_tags: Iterable[str] = (),
        name: str | None = None,
        text: str | None = None,
        author: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        **unknown: Any,
    ) -> Page:
        """Returns the page of skills that meet all conditions, in order of registration.

        Conditions (see SkillQuery) are given as keywords, or as one SkillQuery or mapping. The page is a tuple with
        .total and .next_offset; an offset past the end gives an empty page with the total.
        Raises InvalidValueError for an unknown condition or a bad value.
        """
        start = self._timer()
        asked = SkillQuery(layer, category, tags, all_tags, name, text, author, limit, offset)
        if unknown or query is not None:
            asked = _one_query(query, asked, unknown)
        page = None if self.cache is None else self._cached(asked, self.cache)
        self._acquire()
        try:
            if page is None:
                page = self._index.find(asked)
            self._query_count += 1
            self._query_seconds += self._timer() - start
        finally:
            self._release()
        return page

    async def iter(
        self, query: SkillQuery | Mapping[str, Any] | None = None, /, **conditions: Any
    ) -> AsyncIterator[SkillDefinition]:
        """Yields every skill that meets the conditions of `discover`, as they stand when the first is asked for."""
        for count, skill in enumerate(await self.discover(query, **conditions), start=1):
            yield skill
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    # loading

    changes = property(
        attrgetter("_index.revision"), doc="The number of changes so far; while it stays, every skill is as it was."
    )

    def revision(self, skill_id: str) -> int:
        """Returns the number of the change that made the skill's definition what it is, or 0 when there is none."""
        self._acquire()
        try:
            return self._index.revision_of(skill_id)
        finally:
            self._release()

    def loaded(self, skill_id: str) -> LoadedSkill | None:
        """Returns the skill ready to run if the cache has it at its present revision, else None."""
        if self.cache is None:
            return None
        with self._lock:
            revision = self._index.revision_of(_checked_id(skill_id))
        key = Key(SKILL, (self._owner, skill_id))
        found: LoadedSkill | None = self.cache.get(key, valid=lambda skill: skill.revision == revision)
        return found

    async def load(self, skill_id: str) -> LoadedSkill:
        """Returns the skill ready to run, from the cache or by importing and compiling it in a thread.

        Raises SkillNotFoundError, HandlerNotRunnableError when its function cannot be imported.
        """
        found = self.loaded(skill_id)
        if found is not None:
            return found
        return await self._load(*self._at_revision(skill_id))

    async def check(self, skill_id: str) -> Validation:
        """Returns what keeps the skill from being loaded, if anything; cached by id and revision."""
        definition, revision = self._at_revision(skill_id)
        key = Key(VALIDATION, (self._owner, skill_id))
        if self.cache is not None:
            found: Validation | None = self.cache.get(key, valid=lambda validation: validation.revision == revision)
            if found is not None:
                return found
        validation = await asyncio.to_thread(check, definition, revision)
        self._remember(VALIDATION, skill_id, validation, revision)
        return validation

    async def preload_skills(self, skill_ids: Iterable[str]) -> tuple[str, ...]:
        """Registers from the catalogue what is not registered, imports and compiles all, and returns the ids.

        Raises SkillNotFoundError, naming every id that is neither registered nor in the catalogue, and
        HandlerNotRunnableError for a function that cannot be imported; nothing is registered then.
        """
        if isinstance(skill_ids, str) or not isinstance(skill_ids, Iterable):
            raise InvalidValueError(f"skill_ids={skill_ids!r} must be a list of ids; write [{skill_ids!r}]")
        wanted = tuple(dict.fromkeys(map(_checked_id, skill_ids)))
        fresh = self._from_catalogue([skill_id for skill_id in wanted if skill_id not in self])
        for skill_id in wanted:
            if skill_id in self:
                await self.load(skill_id)
        loaded = [await asyncio.to_thread(load, definition, 0) for definition in fresh]
        with self._lock:
            self._register_all(fresh)
            for skill in loaded:
                skill_id = skill.definition.id
                revision = self._index.revision_of(skill_id)
                self._remember(SKILL, skill_id, replace(skill, revision=revision), revision)
        return wanted

    # keeping

    def optimize(self) -> int:
        """Removes expired entries from the cache and compacts the indexes; returns how many entries went."""
        with self._lock:
            self._index.compact()
        return 0 if self.cache is None else self.cache.cleanup()

    def get_performance_metrics(self) -> RegistryMetrics:
        """Returns counts and times so far; `cache.hit_rate` counts an answer that was out of date as a miss."""
        stats = CacheStats() if self.cache is None else self.cache.stats()
        with self._lock:
            count = self._query_count
            average = self._query_seconds / count if count else math.nan
            return RegistryMetrics(len(self._index), count, average, stats)

    # inside

    def _cached(self, query: SkillQuery, cache: SkillCache) -> Page:
        key = Key(QUERY, (self._owner, query))
        page: Page | None = cache.get(key, valid=lambda page: self._index.unchanged_since(page.as_of, query))
        if page is None:
            with self._lock:
                page = self._index.find(query)
            cache.set(key, page)
        return page

    @single_flight(key=lambda self, definition, revision: (self._owner, definition.id, revision))
    async def _load(self, definition: SkillDefinition, revision: int) -> LoadedSkill:
        """Imports and compiles a definition once for all who ask at the same time."""
        skill = await asyncio.to_thread(load, definition, revision)
        self._remember(SKILL, definition.id, skill, revision)
        return skill

    def _require(self, skill_id: str) -> SkillDefinition:
        with self._lock:
            found = self._index.get(_checked_id(skill_id))
        if found is None:
            raise SkillNotFoundError(f"no skill {skill_id!r} is registered; register it first", skill_ids=(skill_id,))
        return found

    def _at_revision(self, skill_id: str) -> tuple[SkillDefinition, int]:
        with self._lock:
            return self._require(skill_id), self._index.revision_of(skill_id)

    def _remember(self, kind: str, skill_id: str, value: object, revision: int) -> None:
        """Caches what was made from a definition, unless the definition changed meanwhile."""
        if self.cache is None:
            return
        with self._lock:
            if self._index.revision_of(skill_id) == revision:
                self.cache.set(Key(kind, (self._owner, skill_id)), value)

    def _forget(self, skill_id: str) -> None:
        if self.cache is not None:
            for kind in (SKILL, VALIDATION):
                self.cache.delete(Key(kind, (self._owner, skill_id)))

    def _from_catalogue(self, skill_ids: list[str]) -> list[SkillDefinition]:
        missing = tuple(skill_id for skill_id in skill_ids if skill_id not in self._catalogue)
        if missing:
            raise SkillNotFoundError(
                f"neither registered nor in the catalogue: {', '.join(map(repr, missing))}; register them, or build the "
                "registry with catalogue=",
                skill_ids=missing,
            )
        found = [definition_of(self._catalogue[skill_id]) for skill_id in skill_ids]
        for skill_id, definition in zip(skill_ids, found, strict=True):
            if definition.id != skill_id:
                raise InvalidValueError(
                    f"the catalogue has {definition.id!r} under {skill_id!r}: write the id of the definition"
                )
        return found

    def _register_all(self, definitions: list[SkillDefinition]) -> None:
        added: list[str] = []
        try:
            for definition in definitions:
                if definition.id not in self._index:
                    self._index.add(definition)
                    added.append(definition.id)
        except Exception:
            for skill_id in added:
                self._index.remove(skill_id)
            raise


def _checked_id(skill_id: Any) -> str:
    if not isinstance(skill_id, str):
        raise InvalidValueError(f"skill_id={skill_id!r} must be the id of a skill, as text")
    return skill_id


def _checked(skill: Any) -> SkillDefinition:
    definition = definition_of(skill)
    if definition.input_schema is not None or definition.output_schema is not None:
        compile_schemas(definition)
    return definition


def _one_query(query: Any, by_keyword: SkillQuery, unknown: dict[str, Any]) -> SkillQuery:
    """Returns the query that was given as an object; raises InvalidValueError when keywords were given as well."""
    if unknown or query is None:
        return SkillQuery.of(unknown)
    if by_keyword != SkillQuery():
        raise InvalidValueError(
            f"a query and conditions as keywords were given, {query!r} and {by_keyword!r}: give one of them"
        )
    return query if isinstance(query, SkillQuery) else SkillQuery.of(query)
