"""What precise invalidation keeps of the hits that flushing loses."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from skilllab.errors import InvalidValueError
from skilllab.experiments.churn import Churn, churn
from skilllab.plots import summary

SMALL = {"queries": 2000, "skills": 100, "categories": 10, "distinct": 100}


def by_hand() -> Churn:
    """20 queries in windows of 5, one change after ten: all hit, all but one hit, and all but two in a new start."""
    return Churn(20, 1, 10, 5, np.array([0, 5, 5, 5]), np.array([0, 5, 4, 5]), np.array([0, 5, 1, 4]))


def test_the_share_by_hand() -> None:
    """Flushing loses 15 - 10 = 5 hits, precise invalidation one of them: it keeps four fifths."""
    result = by_hand()
    assert (result.hits_no_change, result.hits_precise, result.hits_flush) == (15, 14, 10)
    assert result.kept_share == pytest.approx(0.8)
    assert "keeps 80.0 %" in str(result)


def test_nothing_lost_has_no_share() -> None:
    """Where flushing loses no hit there is nothing to keep: NaN, not a division by zero."""
    same = np.array([1, 2])
    assert math.isnan(Churn(20, 1, 10, 10, same, same, same).kept_share)


def test_frames_by_hand() -> None:
    """Windows stand at their middle; the means since a change leave out the time before the first one."""
    frame = by_hand().frame()
    assert frame["query"].tolist() == [2.5, 7.5, 12.5, 17.5]
    assert frame["flush at every change"].tolist() == [0.0, 1.0, 0.2, 0.8]
    since = by_hand().since_change()
    assert since["query"].tolist() == [2.5, 7.5]
    assert since["flush at every change"].tolist() == pytest.approx([0.2, 0.8])


def test_the_plot_says_what_was_found() -> None:
    """Its title is the finding, and its axis begins at the change."""
    ax = by_hand().plot()
    assert "keeps 80 % of the hits that flushing loses" in summary(ax)
    assert ax.get_xlim() == (0, 10)


@pytest.mark.parametrize("seed", range(3))
def test_precise_invalidation_lies_between_flushing_and_no_change(seed: int) -> None:
    """Changes cost hits, precise invalidation fewer than flushing, in any seed; it keeps at least 60 %."""
    result = churn(seed=seed, **SMALL)
    assert result.hits_flush < result.hits_precise < result.hits_no_change < result.queries
    assert result.kept_share >= 0.6
    assert result.changes == 19


def test_it_is_seeded() -> None:
    """The same seed gives the same counts, another seed others."""
    one, again, other = churn(seed=1, **SMALL), churn(seed=1, **SMALL), churn(seed=2, **SMALL)
    assert str(one) == str(again) != str(other)
    assert all(np.array_equal(getattr(one, f.name), getattr(again, f.name)) for f in dataclasses.fields(Churn))


def test_before_the_first_change_all_are_alike() -> None:
    """Until something changes the three registries serve the same hits."""
    result = churn(seed=0, **SMALL)
    first = slice(0, result.change_every // result.window)
    assert result.no_change[first].tolist() == result.precise[first].tolist() == result.flush[first].tolist()


def test_an_endless_life_leaves_only_first_queries_to_miss() -> None:
    """Without TTL and without changes every query that was asked before is a hit."""
    result = churn(seed=0, ttl=None, **{**SMALL, "queries": 4000})
    assert result.queries - result.hits_no_change <= 100


@pytest.mark.slow
def test_the_workload_of_the_goal() -> None:
    """20 categories, Zipf 1.0 over 200 queries, one change per 100 queries, TTL 2 min: the counts that notebook 01 shows."""
    result = churn(seed=0)
    assert (result.hits_no_change, result.hits_precise, result.hits_flush) == (17_602, 17_092, 10_076)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"queries": 2005}, "queries"),
        ({"change_every": 15}, "change_every"),
        ({"change_every": 0}, "change_every"),
        ({"window": 0}, "window"),
        ({"distinct": 101}, "distinct"),
        ({"distinct": 0}, "distinct"),
        ({"ttl": 0}, "ttl"),
        ({"rate": 0}, "rate"),
        ({"skills": 0}, "skills"),
    ],
)
def test_bad_input_is_refused(bad: dict[str, float], named: str) -> None:
    """A workload that cannot be made is refused with the value that is wrong."""
    with pytest.raises(InvalidValueError, match=named):
        churn(**{**SMALL, **bad})
