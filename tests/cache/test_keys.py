"""Canonical keys: equal for equal JSON values, different for everything else."""

from __future__ import annotations

import enum
import json
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.cache.keys import DEFAULT, QUERY, Key, as_key, canonical_key
from skilllab.errors import InvalidValueError

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value):
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def as_json(value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


@given(json_values)
def test_the_order_of_keys_does_not_matter(value):
    """An object written in another order, at any depth, has the same key."""
    assert canonical_key(value) == canonical_key(shuffled(value))


@given(json_values, json_values)
def test_keys_agree_with_sorted_json_text(one, other):
    """Without a normal form, two values share a key exactly when their sorted JSON texts are the same."""
    same = canonical_key(one, normal_form=None) == canonical_key(other, normal_form=None)
    assert same == (as_json(one) == as_json(other))


@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: [v], lambda v: {"a": {"b": [v]}}], ids=["bare", "array", "nested"]
)
def test_one_true_and_one_point_nought_are_three_values(wrap):
    """1, True and 1.0 are equal in Python and differ to a skill: they have three keys, and so have 0, False, 0.0 and -0.0."""
    assert len({canonical_key(wrap(value)) for value in (1, True, 1.0)}) == 3
    assert len({canonical_key(wrap(value)) for value in (0, False, 0.0, -0.0)}) == 4


def test_nesting_is_part_of_the_key():
    """Brackets count: [[1], 2], [1, [2]] and [1, 2] differ, and so do a list of pairs and an object."""
    values = (
        [[1], 2],
        [1, [2]],
        [1, 2],
        [],
        [[]],
        {},
        None,
        "",
        [["a", 1]],
        {"a": 1},
        ["a", 1],
        {"a": {"b": 1}},
        "null",
    )
    assert len({canonical_key(value) for value in values}) == len(values)


def test_tuples_and_lists_are_one_array():
    """JSON knows one kind of array."""
    assert canonical_key((1, ("a",))) == canonical_key([1, ["a"]])


def test_text_is_compared_in_normal_form_unless_told_otherwise():
    """An accent typed in two ways is one key in values and in names; normal_form=None keeps the code points apart."""
    assert canonical_key({COMPOSED: COMPOSED}) == canonical_key({DECOMPOSED: DECOMPOSED})
    assert canonical_key(COMPOSED, normal_form=None) != canonical_key(DECOMPOSED, normal_form=None)


def test_names_that_collide_in_normal_form_are_refused():
    """An object with both forms of one name cannot have a key that says so: it is refused, not merged."""
    with pytest.raises(InvalidValueError, match="Unicode form"):
        canonical_key({COMPOSED: 1, DECOMPOSED: 2})
    assert canonical_key({COMPOSED: 1, DECOMPOSED: 2}, normal_form=None) is not None


def test_not_a_number_finds_itself():
    """NaN has one key, although it does not equal itself."""
    assert canonical_key(float("nan")) == canonical_key(float("nan"))


def test_other_hashable_values_are_kept_apart_by_type():
    """b"a" and an enum member with the value "a" are not the text "a"."""
    letter = enum.Enum("letter", {"a": "a"})
    assert len({canonical_key("a"), canonical_key(b"a"), canonical_key(letter.a), canonical_key(frozenset("a"))}) == 4


class Pair(NamedTuple):
    one: object
    two: object


class Other(NamedTuple):
    one: object
    two: object


@pytest.mark.parametrize(
    "wrap",
    [lambda v: Pair(v, 0), lambda v: frozenset([v, "x"]), lambda v: [frozenset([Pair(0, frozenset([v]))])]],
    ids=["named tuple", "frozenset", "nested"],
)
def test_named_tuples_and_frozensets_are_told_apart_by_their_items(wrap):
    """1, True and 1.0 inside are three keys, and text inside is compared in normal form as anywhere."""
    assert len({canonical_key(wrap(value)) for value in (1, True, 1.0)}) == 3
    assert canonical_key(wrap(COMPOSED)) == canonical_key(wrap(DECOMPOSED))
    assert canonical_key(wrap(COMPOSED), normal_form=None) != canonical_key(wrap(DECOMPOSED), normal_form=None)


def test_named_tuples_are_known_by_their_class_and_may_hold_json():
    """Two classes with equal items are two keys, neither is an array; a list inside is no hindrance, a set is."""
    assert len({canonical_key(value) for value in (Pair(1, 2), Other(1, 2), (1, 2), frozenset([1, 2]))}) == 4
    assert canonical_key(Pair([1], {"a": 1})) == canonical_key(Pair((1,), {"a": 1}))
    with pytest.raises(InvalidValueError, match="of type set"):
        canonical_key(Pair({1}, 0))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1: "a"}, "key 1 of an object"),
        ({1, 2}, "of type set"),
        ([bytearray(b"x")], "bytearray"),
        ({"a": object}, None),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_the_value(value, words):
    """Unhashable values and objects with names that are not text raise InvalidValueError."""
    if words is None:
        assert canonical_key(value) is not None
        return
    with pytest.raises(InvalidValueError, match=words):
        canonical_key(value)


def test_a_value_that_contains_itself_is_refused():
    """Endless nesting is a typed error, not a RecursionError."""
    endless: list = []
    endless.append(endless)
    with pytest.raises(InvalidValueError, match="contains itself"):
        canonical_key(endless)


def test_text_and_keys_are_keys_already():
    """ASCII text costs nothing; a Key keeps its namespace; the rest goes to the default one."""
    assert as_key("plain") == "plain"
    assert as_key(Key(QUERY, "q")) == Key(QUERY, "q")
    assert as_key(3) == Key(DEFAULT, 3)
    assert as_key(DECOMPOSED) == COMPOSED
