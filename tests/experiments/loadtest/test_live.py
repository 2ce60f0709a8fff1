"""Live: however a test's requests come in, it shows what all of them together say, and a stall while it lasts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.live import Live, View
from skilllab.experiments.loadtest.records import Requests
from skilllab.experiments.loadtest.scenario import Scenario, Stage

OPEN = Scenario("s", {}, (Stage(10.0, rate=100.0),), warmup=1.0, seed=4)
CLOSED = Scenario("s", {}, (Stage(2.0, concurrency=3), Stage(2.0, concurrency=5)))


def filled(random: np.random.Generator, upto: int | None = None) -> list[Requests]:
    """Requests of the open scenario that take random times, in three states of one test, some failed and some dropped."""
    states, requests = [], Requests()
    arrivals = [due for due, _ in schedule(OPEN)][:upto]
    ends = sorted((due + 0.01 + float(random.exponential(0.2)), due) for due in arrivals)
    for number, (end, due) in enumerate(ends):
        if number % 50 == 7:
            requests.drop(due, warm=due < 1)
        else:
            requests.append(
                due, due + 0.001, end, end - due - 0.002, "Broken" if number % 10 == 0 else "", warm=due < 1
            )
        if number in (100, 400, len(ends) - 1):
            states.append(_copied(requests))
    return states


def _copied(requests: Requests) -> Requests:
    return Requests.from_json(requests.to_json())


def same(one: View, other: View) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in View.__dataclass_fields__
    )


def test_pieces_make_the_whole() -> None:
    """Taken in three times or once, the same requests make the same view."""
    states = filled(np.random.default_rng(0))
    piecewise = Live(OPEN)
    for state, elapsed in zip(states, (1.5, 4.5, 10.0), strict=True):
        view = piecewise.take(state, elapsed)
    assert same(view, Live(OPEN).take(states[-1], 10.0))


def test_curves_are_those_of_successes_after_the_warm_up() -> None:
    """Response and service at every percentile are numpy's to 0.4 %, without failures and the warm-up."""
    requests = filled(np.random.default_rng(1))[-1]
    view, columns = Live(OPEN).take(requests, 10.0), requests.columns()
    counted = columns.where(columns.ok & ~columns.warm)
    assert view.response == pytest.approx(np.quantile(counted.response, view.shares), rel=0.004)
    assert view.service == pytest.approx(np.quantile(counted.service, view.shares), rel=0.004)
    assert (view.finished, view.failures) == (len(columns.end), int((~columns.ok).sum()))
    assert view.failures > 50
    assert view.dropped == requests.dropped > 10


def test_in_flight_is_who_was_due_and_has_no_end() -> None:
    """At the end of each slice, in flight are the arrivals until then less those answered, failed or dropped by then."""
    requests = filled(np.random.default_rng(2))[-1]
    view, ends = Live(OPEN).take(requests, 10.0), requests.columns().end
    arrivals, (gone, _, _) = np.array([due for due, _ in schedule(OPEN)]), requests.lost("dropped")
    expected = [(arrivals < at).sum() - (ends < at).sum() - (gone < at).sum() for at in view.at]
    assert view.in_flight.tolist() == expected
    assert max(expected) > 10


def test_a_stall_shows_while_it_lasts() -> None:
    """While nothing ends, requests go on to come due and those in flight grow: nothing waits for an answer to be seen."""
    live = Live(OPEN)
    assert live.take(Requests(), 0.4).at.size == 0
    view = live.take(Requests(), 3.1)
    arrivals = np.array([due for due, _ in schedule(OPEN)])
    assert view.at.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert view.in_flight[-1] == (arrivals < 3.0).sum()
    assert view.due.sum() * live.slice == (arrivals < 3.0).sum()
    assert view.answered.sum() == 0
    assert math.isnan(view.quantile(0.5))


def test_too_few_values_have_no_percentile() -> None:
    """With 20 answers there is a p50 and no p95."""
    requests = Requests()
    for number in range(20):
        requests.append(2.0 + number / 10, 2.0 + number / 10, 2.05 + number / 10, 0.04)
    view = Live(OPEN).take(requests, 5.0)
    assert view.quantile(0.5) == pytest.approx(0.05, rel=0.004)
    assert math.isnan(view.quantile(0.95))


def test_all_users_of_a_closed_test_are_in_flight() -> None:
    """A closed test has the users of its stage under way, and what is due is what was sent."""
    requests = Requests()
    for number in range(40):
        requests.append(number / 10, number / 10, number / 10 + 0.1, 0.1)
    view = Live(CLOSED).take(requests, 4.0)
    assert view.in_flight.tolist() == [3, 3, 3, 3, 5, 5, 5, 5]
    assert view.due.tolist() == [10.0] * 8


@pytest.mark.parametrize(("duration", "width"), [(1.0, 0.25), (2.0, 0.5), (30.0, 0.5), (120.0, 2.0)])
def test_a_test_has_4_to_60_slices_of_time(duration: float, width: float) -> None:
    """A slice is half a second, unless a short test would have too few of them or a long one too many."""
    assert Live(Scenario("made", {}, (Stage(duration, rate=10.0),))).slice == width
