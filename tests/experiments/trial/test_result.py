"""What is kept of a trial, and what is drawn."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from skilllab.errors import InvalidValueError
from skilllab.experiments.history import History
from skilllab.experiments.trial import TrialResult
from skilllab.experiments.trial.page import page, paragraph

from .results import STEADY, trial_of


def test_a_result_comes_back(tmp_path: Any) -> None:
    """A result survives JSON and the history, nan included, and says the same afterwards."""
    sizes = (math.nan, *[5.0] * 399)
    result = trial_of(STEADY, memory=((0.0, 5),), pings=(0.1,), tool={"size": sizes}, passed_over={"order": "no"})
    again = TrialResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert page(again) == page(result)
    assert math.isnan(again.tools[0].size[0])
    history = History(tmp_path / "history.sqlite")
    kept = history.load(history.save(result, label="mine"))
    assert isinstance(kept, TrialResult)
    assert paragraph(kept) == paragraph(result)
    assert history.trend("work p50")["value"].tolist() == [pytest.approx(0.0105)]


@pytest.mark.parametrize("values", [{}, {"version": 2}, {"version": 1}, {"version": 1, "tools": [{"nme": "x"}]}])
def test_what_is_no_result_is_refused(values: dict[str, Any]) -> None:
    """JSON of another version, or that is no trial, is refused."""
    with pytest.raises(InvalidValueError, match=r"version|no trial"):
        TrialResult.from_json(values)


def test_no_secret_of_an_address_is_kept() -> None:
    """Password and query of an address stay out of what is stored."""
    stored = json.dumps(trial_of(STEADY, target="https://me:hidden@example.org/a?key=hidden").to_json())
    assert "hidden" not in stored
    assert "https://me:***@example.org/a?key=***" in stored


@pytest.mark.slow
def test_a_plot_has_a_line_a_tool_and_the_floor() -> None:
    """The figure shows each tool with enough values, and the noise floor; without any it is refused."""
    ax = trial_of(STEADY).plot()
    assert {line.get_label() for line in ax.get_lines()} >= {"work", "nothing"}
    with pytest.raises(InvalidValueError, match="too few"):
        trial_of([0.1], floor=()).plot()
