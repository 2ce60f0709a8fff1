"""Which entries carry a tag: an index beside the store, as the expiry queue is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from skilllab.errors import InvalidValueError


class TagIndex:
    """The keys of each tag; a tag that nobody carries any more is forgotten."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[str, set[Hashable]] = {}

    def __len__(self) -> int:
        """The number of tags in use."""
        return len(self._keys)

    def add(self, key: Hashable, tags: tuple[str, ...]) -> None:
        """Notes that `key` carries the tags."""
        for tag in tags:
            self._keys.setdefault(tag, set()).add(key)

    def remove(self, key: Hashable, tags: tuple[str, ...]) -> None:
        """Forgets `key`, which was added with these tags."""
        for tag in tags:
            keys = self._keys[tag]
            keys.discard(key)
            if not keys:
                del self._keys[tag]

    def carriers(self, tags: tuple[str, ...]) -> set[Hashable]:
        """Returns every key that carries one of the tags."""
        return set().union(*(self._keys.get(tag, ()) for tag in tags))


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct tags in order; raises InvalidValueError for what is no list of texts."""
    if isinstance(tags, str):
        raise InvalidValueError(f"tags={tags!r} must be a list of texts; write [{tags!r}]")
    try:
        checked = tuple(dict.fromkeys(tags))
    except TypeError:
        raise InvalidValueError(f"tags={tags!r} must be a list of texts") from None
    if not all(isinstance(tag, str) for tag in checked):
        raise InvalidValueError(f"tags={checked!r} must hold texts only")
    return checked
