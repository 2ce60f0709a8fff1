"""The registry's memory: skills at positions, what finds them, and when each facet last changed.

Nothing here locks, awaits or caches; the registry does. Every method leaves the index whole or untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from pyroaring import BitMap

from skilllab.errors import DuplicateSkillError
from skilllab.model import SkillDefinition
from skilllab.postings import Postings, intersection, words_of
from skilllab.query import Page, SkillQuery

_HOLES_ALLOWED = 1024
_EVERY = ("every", "skill")
_NONE = Postings()
_COPIED_WHOLE = 4096  # positions; below, copying all of them costs less than slicing the bitmap


class SkillIndex:
    """Skills in order of registration, found through indexes; counts changes.

    A skill stands at a position that grows with registration and stays when the skill is updated. `revision` is the
    number of the latest change, never reset. For each facet (layer, category, author, name, tag) and for "any skill"
    it keeps the number of the latest change to a skill that has, or had, the facet: see `unchanged_since`. Facets that no
    skill has any more share one number, the latest of theirs, from the next `compact` on.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._skills: list[SkillDefinition | None] = []
        self._revisions: list[int] = []
        self._positions: dict[str, int] = {}
        self._names: dict[tuple[int, str], int] = {}
        self._facets = Postings()
        self._tags = Postings()
        self._tags_within: dict[tuple[str, int], Postings] = {}
        self._words = Postings()
        self._stamps: dict[tuple[str, object], int] = {}
        self._floor = 0

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, skill_id: object) -> bool:
        return skill_id in self._positions

    def __iter__(self) -> Iterator[SkillDefinition]:
        return (skill for skill in self._skills if skill is not None)

    def get(self, skill_id: str) -> SkillDefinition | None:
        """Returns the definition, or None."""
        position = self._positions.get(skill_id)
        return None if position is None else self._skills[position]

    def revision_of(self, skill_id: str) -> int:
        """Returns the number of the change that made the definition what it is, or 0 when there is none."""
        position = self._positions.get(skill_id)
        return 0 if position is None else self._revisions[position]

    # changing

    def add(self, skill: SkillDefinition) -> None:
        """Adds a skill at the end; raises DuplicateSkillError when its id, or its name in its layer, is taken."""
        if skill.id in self._positions:
            raise DuplicateSkillError(f"a skill with id {skill.id!r} is registered; update it, or unregister it first")
        self._require_free_name(skill)
        if len(self._skills) > 2 * len(self._positions) + _HOLES_ALLOWED:
            self.compact()
        position = len(self._skills)
        self._skills.append(skill)
        self._revisions.append(0)
        self._positions[skill.id] = position
        self._enter(skill, position)
        self._stamp(position, skill)

    def replace(self, skill: SkillDefinition) -> None:
        """Puts a definition in the place of the one with its id, which is present."""
        position = self._positions[skill.id]
        self._require_free_name(skill)
        old = self._at(position)
        self._leave(old, position)
        self._skills[position] = skill
        self._enter(skill, position)
        self._stamp(position, old, skill)

    def remove(self, skill_id: str) -> SkillDefinition:
        """Removes and returns the skill with this id, which is present."""
        position = self._positions.pop(skill_id)
        old = self._at(position)
        self._leave(old, position)
        self._skills[position] = None
        self._stamp(position, old)
        return old

    def compact(self) -> None:
        """Closes the gaps that removed skills left, and compresses the indexes; order and revisions stay."""
        if len(self._skills) > len(self._positions):
            kept = [(skill, self._revisions[at]) for at, skill in enumerate(self._skills) if skill is not None]
            self._skills, self._revisions = [skill for skill, _ in kept], [revision for _, revision in kept]
            self._positions = {skill.id: position for position, (skill, _) in enumerate(kept)}
            for emptied in (self._names, self._facets, self._tags, self._tags_within, self._words):
                emptied.clear()
            for position, (skill, _) in enumerate(kept):
                self._enter(skill, position)
        for postings in (self._facets, self._tags, self._words, *self._tags_within.values()):
            postings.optimize()
        self._forget_stamps()

    # asking

    def find(self, query: SkillQuery) -> Page:
        """Returns the query's page, in order of registration, as of the revision read before looking."""
        revision = self.revision
        found = self._matching(query)
        total = len(found)
        start, limit = query.offset, query.limit
        if limit is None or start + limit >= total:
            end, following = total, None
        else:
            end = following = start + limit
        if start >= end:
            return Page((), total, None, revision)
        if total > _COPIED_WHOLE:
            positions = found[start:end].to_array()
        else:
            positions = found.to_array()
            if end - start < total:
                positions = positions[start:end]
        if end - start == 1:
            skills: Any = (self._skills[positions[0]],)
        else:
            skills = itemgetter(*positions)(self._skills)  # a quarter less than map or a list in a loop
        return Page(skills, total, following, revision)

    def unchanged_since(self, revision: int, query: SkillQuery) -> bool:
        """Whether no skill that matched, or now matches, the query has changed after `revision`.

        A match has every facet that the query names, and a change stamps all of them. One condition whose facets have
        no later stamp is therefore proof: for the any-of set, all of its tags. Text alone counts as "any skill".
        """
        layer, category, tags, all_tags, name, _, author, _, _ = query
        stamp = self._stamp_of
        named = False
        for facet, value in (("category", category), ("layer", layer), ("author", author), ("name", name)):
            if value is not None:
                if stamp((facet, value)) <= revision:
                    return True
                named = True
        if tags:
            if all(stamp(("tag", tag)) <= revision for tag in tags):
                return True
            named = True
        for tag in all_tags:
            if stamp(("tag", tag)) <= revision:
                return True
            named = True
        return not named and self.revision <= revision

    def _matching(self, query: SkillQuery) -> BitMap:
        """Returns the positions of all matches; not to be changed."""
        layer, category, tags, all_tags, name, text, author, _, _ = query
        sets: list[BitMap] = []
        having, tagged = self._facets.having, self._tags
        if layer is not None and category is not None and (tags or all_tags):
            tagged = self._tags_within.get((category, layer), _NONE)
        else:
            if layer is not None:
                sets.append(having(("layer", layer)))
            if category is not None:
                sets.append(having(("category", category)))
        if tags:
            sets.append(tagged.having_any(tags))
        if all_tags:
            sets += map(tagged.having, all_tags)
        if author is not None:
            sets.append(having(("author", author)))
        if name is not None:
            layers = (1, 2, 3) if layer is None else (layer,)
            sets.append(BitMap(self._names[at, name] for at in layers if (at, name) in self._names))
        if text is not None:
            sets += [self._words.having(word) for word in words_of(text)]
        if len(sets) == 1:
            return sets[0]
        return intersection(sets) if sets else having(_EVERY)

    # inside

    def _at(self, position: int) -> SkillDefinition:
        skill = self._skills[position]
        assert skill is not None, "positions never point at a gap"
        return skill

    def _require_free_name(self, skill: SkillDefinition) -> None:
        holder = self._names.get((skill.layer, skill.name))
        if holder is not None and self._at(holder).id != skill.id:
            raise DuplicateSkillError(
                f"name {skill.name!r} is taken in layer {skill.layer} by skill {self._at(holder).id!r}; "
                f"choose another name for {skill.id!r}"
            )

    def _enter(self, skill: SkillDefinition, position: int) -> None:
        self._names[skill.layer, skill.name] = position
        for postings, facet in self._places(skill):
            postings.add(facet, position)

    def _leave(self, skill: SkillDefinition, position: int) -> None:
        del self._names[skill.layer, skill.name]
        for postings, facet in self._places(skill):
            postings.remove(facet, position)
        if skill.tags and not self._tags_within[skill.category, skill.layer]:
            del self._tags_within[skill.category, skill.layer]

    def _places(self, skill: SkillDefinition) -> Iterator[tuple[Postings, object]]:
        """Yields each posting list that a skill belongs in, once."""
        facets = self._facets
        yield facets, _EVERY
        yield facets, ("layer", skill.layer)
        yield facets, ("category", skill.category)
        yield facets, ("author", skill.author)
        if skill.tags:
            within = self._tags_within.setdefault((skill.category, skill.layer), Postings())
            for tag in set(skill.tags):
                yield self._tags, tag
                yield within, tag
        for word in words_of(skill.name, skill.description, *skill.tags):
            yield self._words, word

    def _stamp(self, position: int, *skills: SkillDefinition) -> None:
        self.revision += 1
        self._revisions[position] = self.revision
        for skill in skills:
            for facet in (
                ("layer", skill.layer),
                ("category", skill.category),
                ("author", skill.author),
                ("name", skill.name),
            ):
                self._stamps[facet] = self.revision
            for tag in skill.tags:
                self._stamps["tag", tag] = self.revision

    def _stamp_of(self, facet: tuple[str, object]) -> int:
        found = self._stamps.get(facet)
        return self._floor if found is None else found

    def _forget_stamps(self) -> None:
        names = {name for _, name in self._names}
        held = {"name": names, "tag": self._tags}
        gone = [facet for facet in self._stamps if facet not in self._facets and facet[1] not in held.get(facet[0], ())]
        # First the floor, then the stamps: whoever asks in between sees a change too many, never one too few.
        self._floor = max([self._floor, *(self._stamps[facet] for facet in gone)])
        for facet in gone:
            del self._stamps[facet]
