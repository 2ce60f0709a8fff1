"""Posting lists: sets of positions by facet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skilllab.postings import BitMap, Postings, intersection

facets = st.sampled_from("abc")


@given(st.lists(st.tuples(st.booleans(), facets, st.integers(0, 5))), st.lists(facets, max_size=3))
def test_they_are_a_dict_of_sets(steps, asked):
    """After any additions and removals each facet has what a dict of sets says, and an empty one is forgotten."""
    postings, model = Postings(), {}
    for adding, facet, position in steps:
        held = model.setdefault(facet, set())
        if adding and position not in held:
            postings.add(facet, position)
            held.add(position)
        elif not adding and position in held:
            postings.remove(facet, position)
            held.remove(position)
    postings.optimize()
    assert {facet: set(postings.having(facet)) for facet in postings} == {f: held for f, held in model.items() if held}
    assert set(postings.having_any(asked)) == set().union(*(model.get(facet, set()) for facet in asked))


@given(st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=4))
def test_an_intersection_is_what_all_share(sets):
    """However many sets there are and whichever is the smallest, none of them is changed."""
    bitmaps = [BitMap(each) for each in sets]
    assert set(intersection(list(bitmaps))) == set.intersection(*sets)
    assert [set(each) for each in bitmaps] == sets
