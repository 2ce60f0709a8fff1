"""SkillMapping: what a source of skills is to who reads it, definitions by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from skilllab.model import SkillDefinition


class SkillMapping(Mapping[str, SkillDefinition]):
    """Definitions by id, which a subclass keeps in `_skills`."""

    _skills: dict[str, SkillDefinition]

    def __getitem__(self, skill_id: str) -> SkillDefinition:
        return self._skills[skill_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._skills)

    def __len__(self) -> int:
        return len(self._skills)
