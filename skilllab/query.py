"""SkillQuery, what to look for, and Page, what was found.

A query is made for every call of `discover`, which itself takes two microseconds: it is therefore a tuple that checks its
fields by hand (a pydantic model of the same fields costs more than the query).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from skilllab.errors import InvalidValueError
from skilllab.frozen import normal_text
from skilllab.model import Layer, SkillDefinition


class _QueryFields(NamedTuple):
    layer: Layer | None
    category: str | None
    tags: tuple[str, ...]
    all_tags: tuple[str, ...]
    name: str | None
    text: str | None
    author: str | None
    limit: int | None
    offset: int


class SkillQuery(_QueryFields):
    """What to look for: all conditions must hold; None and () ask for nothing.

    layer (1, 2, 3), category, author and name: exact. tags: any of them. all_tags: every one. text: every word of it
    occurs, case folded, in name, description or tags. limit: at most so many skills (None: all), after `offset` others.
    Raises InvalidValueError for a wrong type, an unknown layer, and negative numbers.
    """

    __slots__ = ()

    def __new__(
        cls,
        layer: int | None = None,
        category: str | None = None,
        tags: Iterable[str] = (),
        all_tags: Iterable[str] = (),
        name: str | None = None,
        text: str | None = None,
        author: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> SkillQuery:
        if layer is not None and (type(layer) is not int or not 1 <= layer <= 3):
            raise InvalidValueError(f"layer={layer!r} must be 1, 2 or 3")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidValueError(f"limit={limit!r} must be a whole number of at least 0, or None for all")
        if type(offset) is not int or offset < 0:
            raise InvalidValueError(f"offset={offset!r} must be a whole number of at least 0")
        if category is not None and not (type(category) is str and category.isascii()):
            category = _word("category", category)
        if name is not None:
            name = _word("name", name)
        if text is not None:
            text = _word("text", text)
        if author is not None:
            author = _word("author", author)
        if type(tags) is not tuple or tags:
            tags = _words("tags", tags)
        if type(all_tags) is not tuple or all_tags:
            all_tags = _words("all_tags", all_tags)
        return tuple.__new__(cls, (layer, category, tags, all_tags, name, text, author, limit, offset))

    def _replace(self, **conditions: Any) -> SkillQuery:
        """Returns the query with some conditions changed, checked like any other."""
        return SkillQuery.of({**self._asdict(), **conditions})

    @classmethod
    def of(cls, conditions: Mapping[str, Any]) -> SkillQuery:
        """Returns the query for a mapping of conditions; an unknown field is an InvalidValueError that names the known."""
        if not isinstance(conditions, Mapping):
            raise InvalidValueError(f"query={conditions!r} must be a SkillQuery or a mapping of conditions")
        unknown = [str(field) for field in conditions if field not in cls._fields]
        if unknown:
            raise InvalidValueError(f"unknown condition {', '.join(unknown)}: known are {', '.join(cls._fields)}")
        return cls(**conditions)


def _word(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"{field}={value!r} must be text or None")
    return value if value.isascii() else normal_text(value)


def _words(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct words in order, so that two ways to write one set are one query."""
    if values is None:
        return ()
    if isinstance(values, str):
        raise InvalidValueError(f"{field}={values!r} must be a list of texts; write [{values!r}]")
    try:
        return _distinct(tuple(values))
    except TypeError:
        raise InvalidValueError(f"{field}={values!r} must be a list of texts") from None


@lru_cache(maxsize=1024)
def _distinct(words: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the words in order, each once, in normal form; remembered, since agents ask with the same few sets."""
    "".join(words)
    return tuple(sorted({normal_text(word) for word in words}))


class Page(tuple[SkillDefinition, ...]):
    """The skills found, as a tuple, with .total (matches of the whole query), .next_offset and .as_of (registry revision)."""

    total: int
    next_offset: int | None
    as_of: int

    def __new__(cls, skills: Iterable[SkillDefinition], total: int, next_offset: int | None, as_of: int = 0) -> Page:
        page = tuple.__new__(cls, skills)
        facts = page.__dict__
        facts["total"] = total
        facts["next_offset"] = next_offset
        facts["as_of"] = as_of
        return page

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError(f"a page is frozen: {name!r} cannot be set")

    __delattr__ = __setattr__

    def __deepcopy__(self, memo: object) -> Page:
        return self

    def __reduce__(self) -> Any:
        return Page, (tuple(self), self.total, self.next_offset, self.as_of)

    def __repr__(self) -> str:
        shown = ", ".join(skill.id for skill in self[:5])
        return f"<Page of {len(self)} of {self.total} skills: {shown}{' …' if len(self) > 5 else ''}>"
