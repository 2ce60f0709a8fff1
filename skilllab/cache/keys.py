"""Canonical keys: two values have one key exactly when they are the same JSON value."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast

from skilllab.errors import InvalidValueError
from skilllab.frozen import normal_text

DEFAULT = "default"
SKILL = "skill"
QUERY = "query"
VALIDATION = "validation"


class Key(NamedTuple):
    """A key in the namespace of its kind; `value` is hashable and canonical."""

    kind: str
    value: Hashable


def canonical_key(value: Any, *, normal_form: Literal["NFC"] | None = "NFC") -> Hashable:
    """Returns a hashable key for `value`, equal for equal JSON values and only for them.

    The order of an object's keys does not matter; 1, True and 1.0 are three values (equal in Python, not to a skill);
    lists and tuples are one, since both are JSON arrays. Text is compared in Unicode normal form C; normal_form=None
    compares code points instead: right where a skill can tell the forms apart, as a checksum or a file name can.
    Named tuples and other kinds of tuple, and frozensets, are compared by type and by the canonical keys of their items.
    Any other hashable value is its own key, kept apart by type.
    Raises InvalidValueError for values that cannot be hashed, and for two keys of one object that differ in form only.
    """
    try:
        return _canonical(value, normal_form is not None)
    except RecursionError:
        raise InvalidValueError(
            "the value is nested too deeply, or contains itself: it cannot be a cache key"
        ) from None


def _canonical(value: Any, normalise: bool) -> Hashable:
    kind = type(value)
    if kind is str:
        return normal_text(value) if normalise else str(value)
    if kind is int or value is None:
        return cast(Hashable, value)
    if kind is bool:
        return ("bool", value)
    if kind is float:
        return ("float", repr(value))
    if isinstance(value, Mapping):
        return ("object", _canonical_items(value, normalise))
    if kind is list or kind is tuple:
        return ("array", tuple([_canonical(item, normalise) for item in value]))
    if isinstance(value, tuple | frozenset):
        items = [_canonical(item, normalise) for item in value]
        return ("other", kind, frozenset(items) if isinstance(value, frozenset) else tuple(items))
    return ("other", kind, hashable(value))


def _canonical_items(mapping: Mapping[Any, Any], normalise: bool) -> tuple[Hashable, ...]:
    items = {}
    for key, item in mapping.items():
        if type(key) is not str:
            raise InvalidValueError(f"key {key!r} of an object must be text to be part of a cache key")
        items[normal_text(key) if normalise else key] = _canonical(item, normalise)
    if len(items) < len(mapping):
        raise InvalidValueError(
            f"keys of {_listed(mapping)} differ in Unicode form only: rename one, or use normal_form=None"
        )
    return tuple(sorted(items.items(), key=_first))


def _first(pair: tuple[str, Hashable]) -> str:
    return pair[0]


def hashable(value: Any) -> Hashable:
    """Returns `value`; raises InvalidValueError when it cannot be hashed."""
    try:
        hash(value)
    except TypeError:
        raise InvalidValueError(
            f"{value!r} of type {type(value).__name__} cannot be a cache key: give JSON values or something hashable"
        ) from None
    return cast(Hashable, value)


def _listed(keys: Iterable[object]) -> str:
    return ", ".join(ascii(key) for key in keys)


def as_key(key: Any) -> str | Key:
    """Returns the key under which a cache stores what a caller calls `key`: ASCII text and Keys are their own."""
    if type(key) is Key:
        return key
    if type(key) is str:
        return normal_text(key)
    return Key(DEFAULT, canonical_key(key))
