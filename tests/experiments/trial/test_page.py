"""The page of a trial: all that was seen, on one page, without secrets."""

from __future__ import annotations

import json
from typing import Any

from skilllab.experiments.trial import ToolTrial
from skilllab.experiments.trial.page import WIDTH, page

from .results import MESSAGES, STEADY, trial_of


def test_no_secret_is_printed() -> None:
    """Neither the page nor what a notebook saves has a secret of the command or of parameters, and the page says so."""
    command_line = "server --token hidden 'API_KEY=hidden' --url https://me:hidden@host/?k=hidden"
    result = trial_of(STEADY, target=command_line, tool={"params": {"password": "hidden", "query": "tea"}})
    told = "In this command *** stands for secrets, which are left out"
    for text in (page(result), str(result), result._repr_html_(), json.dumps(result.to_json())):
        assert "hidden" not in text
        assert "tea" in text
    assert told in page(result)
    assert told not in page(trial_of(STEADY))


def test_failures_and_cut_calls_are_counted_on_the_page() -> None:
    """A tool that was left alone is told with how many failures in a row, and cut calls with their number."""
    failing = {"error": ("", *("ToolError",) * 12), "gave_up": True, "messages": MESSAGES, "cut": 3}
    text = page(trial_of([0.1] * 13, tool=failing))
    assert "work: 12 × ToolError: no tea" in text
    assert "work: left alone after 12 failures in a row" in text
    assert "work: 3 calls were cut off and count as nothing" in text


def test_tools_that_fail_are_on_the_page() -> None:
    """Of more tools than the page has room for those that failed come first, with their errors."""
    bad = ToolTrial("bad", {}, first=0.1, first_error="ToolError", messages={"ToolError": "bad: no tea"})
    many = (*(ToolTrial(f"good_{number}", {}, first=0.1) for number in range(30)), bad)
    assert "bad: 1 × ToolError: no tea" in page(trial_of([], tools=many))


def test_the_page_is_one_page() -> None:
    """Forty tools, each with errors of three kinds, and all else that a page may have make at most 60 lines of 118 characters.

    The command, which is copied whole, is apart.
    """
    messages = dict.fromkeys(MESSAGES, "no tea " * 28)  # as long as a trial keeps them
    bad: dict[str, Any] = {
        "params": {"token": "hidden"},
        "first": 0.1,
        "first_error": "ToolError",
        "messages": messages,
        "gave_up": True,
    }
    kinds = ("ExecutionTimeoutError", "ServerLostError")
    columns: dict[str, Any] = dict.fromkeys(("at", "late", "queue", "handler", "size"), (0.1, 0.1))
    names = [f"a_tool_with_a_rather_long_name_{number}" for number in range(40)]
    many = tuple(ToolTrial(name, error=kinds, cut=2, **columns, **bad) for name in names)
    rest: dict[str, Any] = {
        "passed_over": dict.fromkeys(names, "because of this or that"),
        "problems": names,
        "others": 0.5,
    }
    rest |= {"reconnects": (1.0,) * 5, "pings": (0.1,) * 5, "memory": ((0.0, 5),), "target": "server --token hidden"}
    lines = page(trial_of([], tools=many, **rest), "Kept as run 1").split("\n")
    assert len(lines) <= 60
    assert max(len(line) for line in lines if not line.startswith("Next: ")) <= WIDTH
    assert "and 28 more, which the stored result has" in lines
    assert "and 46 more of these, which the stored result has" in lines  # five of each of twelve tools, and room for 14
    assert len([line for line in lines if "ToolError: no tea" in line and line.endswith("…")]) == 3


def test_too_few_values_are_said_and_not_guessed() -> None:
    """With 71 values there is a median and no p95; with 72 a p95, whose interval takes twice as many, as the page says."""
    (few,) = (line for line in page(trial_of(STEADY[:71])).split("\n") if line.startswith("work "))
    (some,) = (line for line in page(trial_of(STEADY[:72])).split("\n") if line.startswith("work "))
    assert "n too small" in few
    assert "(n too small)" not in few
    assert "n too small" not in some
    assert "11.0 ms (no interval)" in some
    assert trial_of(STEADY[:71]).tools[0].handler_quantile(0.95) == (None, None)
    p95, interval = trial_of(STEADY[:72]).tools[0].handler_quantile(0.95)
    assert p95 is not None
    assert interval is None
    assert trial_of(STEADY).tools[0].handler_quantile(0.95)[1] is not None
