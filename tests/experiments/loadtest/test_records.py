"""Records of requests: parts that add up, batches that travel, JSON to the nanosecond."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest

from skilllab.experiments.loadtest.records import Requests


@pytest.fixture
def requests() -> Requests:
    """A success, a failure that did not run, a kept result of the warm-up, a drop and two without an end."""
    made = Requests()
    made.append(1.0, 1.25, 2.0, 0.5, stage=1)
    made.append(1.5, 1.5, 1.75, None, "QueueFullError", stage=2)
    made.append(0.0, 0.0, 0.001, None, cached=True, warm=True)
    made.drop(1.6, 2)
    made.give_up(0.5, 9.0, warm=True)
    made.give_up(2.5, 9.0, 1)
    return made


def test_lag_waiting_and_service_add_up_to_the_response(requests: Requests) -> None:
    """Each part is its own column, service NaN where the skill did not run, and their sum is the response."""
    columns = requests.columns()
    assert columns.lag.tolist() == [0.25, 0, 0]
    assert columns.waiting.tolist() == [0.25, 0.25, 0.001]
    assert columns.service[0] == 0.5
    assert np.isnan(columns.service[1:]).all()
    assert columns.response == pytest.approx(columns.lag + columns.waiting + np.nan_to_num(columns.service))
    assert columns.ok.tolist() == [True, False, True]
    assert columns.error.tolist() == ["", "QueueFullError", ""]
    assert columns.cached.tolist() == [False, False, True]
    assert columns.stage.tolist() == [1, 2, 0]
    assert columns.warm.tolist() == [False, False, True]
    assert columns.errors() == {"QueueFullError": 1}


def test_what_was_lost_is_counted_and_in_no_column(requests: Requests) -> None:
    """Drops and requests without an end have intended start, stage and warm, and add no row."""
    assert (len(requests), requests.dropped, requests.unfinished) == (3, 1, 2)
    due, stage, warm = requests.lost("unfinished")
    assert (due.tolist(), stage.tolist(), warm.tolist()) == ([0.5, 2.5], [0, 1], [True, False])


def test_batches_carry_everything_once(requests: Requests) -> None:
    """What comes in batches, pickled, equals what was recorded, though the error kinds have other numbers there."""
    there = Requests()
    there.append(0.0, 0.0, 1.0, 1.0, "ValueError")
    there.extend(pickle.loads(pickle.dumps(requests.batch())))
    assert len(requests.batch().rows) == 0
    requests.append(3.0, 3.0, 4.0, 1.0, "KeyError")
    requests.drop(3.5)
    there.extend(requests.batch())
    sent, got = requests.frame(), there.frame().iloc[1:].reset_index(drop=True)
    assert got.equals(sent)
    assert got["error"].tolist() == ["", "QueueFullError", "", "KeyError"]
    assert (there.dropped, there.unfinished) == (2, 2)


def test_columns_are_copies_and_may_begin_later(requests: Requests) -> None:
    """A reader holds its columns while more is recorded, and may ask for what came after a row."""
    columns = requests.columns(1)
    requests.append(5.0, 5.0, 6.0, 1.0)
    assert columns.intended.tolist() == [1.5, 0.0]
    assert requests.columns(3).intended.tolist() == [5.0]
    assert len(requests.columns(9).ok) == 0


def test_json_keeps_nanoseconds_in_little_room() -> None:
    """Times come back to the nanosecond, a million requests would take less than 20 MB, and a second round changes nothing."""
    random, made = np.random.default_rng(0), Requests()
    for due in np.cumsum(random.exponential(0.01, 5000)).tolist():
        start = due + 1e-4 * random.exponential()
        made.append(due, start, start + 0.02 * random.exponential() + 0.001, 0.001, stage=3)
    made.append(50.0, 50.0, 50.5, None, "TransportError", cached=True, warm=True)
    made.drop(1.0)
    saved = json.loads(json.dumps(made.to_json()))
    assert len(json.dumps(saved)) < 20 * 5000
    back = Requests.from_json(saved)
    before, after = made.columns(), back.columns()
    for name in ("intended", "start", "end", "service"):
        assert np.nanmax(abs(getattr(before, name) - getattr(after, name))) < 1.1e-9
    for name in ("ok", "error", "cached", "stage", "warm"):
        assert (getattr(before, name) == getattr(after, name)).all()
    assert math.isnan(after.service[-1])
    assert back.to_json() == saved


def test_no_requests_are_no_rows() -> None:
    """An empty test has columns, a frame, a batch and JSON."""
    empty = Requests()
    assert len(empty.frame()) == 0
    assert len(Requests.from_json(empty.to_json())) == 0
    other = Requests()
    other.extend(empty.batch())
    assert len(other.columns().ok) == 0
