"""The first finding of a trial, and the next command: gravest first, with figures, and never what was just run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from skilllab.experiments.trial import ToolTrial, TrialResult
from skilllab.experiments.trial.advice import command, first_finding, seen_at
from skilllab.experiments.trial.page import page

from .results import MESSAGES, STEADY, trial_of


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (trial_of(STEADY), "No call failed; the slowest tool, work, takes 10.5 ms at the median and 11.0 ms at p95."),
        (
            trial_of([*STEADY[:399], 1.0]),
            "work stalls: 1 of 400 calls took 105 ms or more, the longest 1.00 s, 95.2× the median.",
        ),
        (trial_of([0.1] * 400), "One at a time work does 10 /s, fewer than the ceiling of 20 /s."),
        (trial_of(STEADY[:60]), "60 calls of work are too few for a p95 with an interval"),
        (trial_of(STEADY, connect=3.0), "Keep the connection: the connection takes 3.00 s, as long as 286 calls."),
        (trial_of(STEADY, tool={"first": 1.0}), "The first call of work took 1.00 s, 95.2× the median."),
        (trial_of(STEADY, floor=(0.009,) * 400), "work takes 10.5 ms, and a call that does nothing 9.00 ms"),
        (trial_of(STEADY, tool={"size": (2.0**20,) * 400}), "Results of work have 1.00 MiB"),
        (
            trial_of(STEADY, memory=tuple((number, (50 + number) * 2**20) for number in range(10))),
            "The server's memory grew by 8.00 MiB to 59.0 MiB, 20.4 KiB a call.",
        ),
        (trial_of([], tool={"first": None, "cut": 1}), "No call ended within 10.0 s: work did not answer."),
    ],
)
def test_the_first_finding(result: TrialResult, told: str) -> None:
    """The gravest thing is said first, with its figures; when nothing is wrong, that is said."""
    assert told in first_finding(result).text
    assert first_finding(result).text.replace(" ", "") in page(result).replace("\n", "").replace(" ", "")


def test_what_an_open_client_would_have_seen() -> None:
    """By hand: at 10 a second, calls of 0.05 s and one of 0.35 s among 72; three that come meanwhile wait 0.25, 0.2 and so on.

    The waits after the long call fall by 0.05 each: 0.25, 0.20, 0.15, 0.10, 0.05. With the work of 0.05 the largest
    responses are 0.35, 0.30, 0.25, 0.20, 0.15, 0.10; of 72 values p95 lies at rank 67.45 (from 0), between 0.15 and 0.20.
    """
    values = [0.05] * 30 + [0.35] + [0.05] * 41
    (only,) = trial_of(values).tools
    assert seen_at(10.0, only) == pytest.approx(0.15 + 0.45 * 0.05)
    assert seen_at(25.0, only) is None  # more than one at a time can do
    assert seen_at(10.0, trial_of(values[:71]).tools[0]) is None  # too few for a p95


def test_the_command_can_be_copied() -> None:
    """The next command has what the trial was given: allowed tools, parameters in quotes, a rate and a kind of its own."""
    result = trial_of(
        STEADY, target="http://127.0.0.1:1/mcp", kind="http", rate=50.0, allow=("work",), tool={"params": {"a": "b c"}}
    )
    assert command(result, result.tools[0], duration=60) == (
        'skilllab try http://127.0.0.1:1/mcp --as http --allow work --params \'{"a": "b c"}\' --rate 50 --duration 60'
    )


def test_the_command_repeats_what_the_target_needs() -> None:
    """The next command hands on the same variables and headers, by name, and keeps its time-out and seed."""
    options = ("--env", "TOKEN", "--header", "Authorization:AUTH", "--no-store")
    result = trial_of(STEADY, options=options, timeout=2.5, seed=4)
    assert command(result) == (
        "skilllab try my-server --timeout 2.5 --seed 4 --env TOKEN --header Authorization:AUTH --no-store"
    )
    again = TrialResult.from_json(json.loads(json.dumps(result.to_json())))
    assert command(again) == command(result)


def test_the_command_repeats_parameters_of_all_its_tools() -> None:
    """Without a tool of its own the command has the parameters by tool, and chooses the tools that were chosen."""
    tools = (ToolTrial("add", {"a": 1}), ToolTrial("list", {}), ToolTrial("find", {"query": "tea"}))
    params = """--params '{"add": {"a": 1}, "find": {"query": "tea"}}'"""
    assert command(trial_of([], tools=tools)) == f"skilllab try my-server {params}"
    chosen = trial_of([], tools=tools, passed_over={"order": "not chosen"})
    assert command(chosen) == f"skilllab try my-server --tool add --tool list --tool find {params}"
    assert command(chosen, tools[2]) == """skilllab try my-server --tool find --params '{"query": "tea"}'"""
    alike = trial_of([], tools=(ToolTrial("find", {"find": {"query": "tea"}}),))  # looks as if it were by tool
    assert command(alike) == """skilllab try my-server --params '{"find": {"find": {"query": "tea"}}}'"""


def failed(kind: str, **fields: Any) -> TrialResult:
    return trial_of(STEADY, tool={"error": (kind,) * 400, "messages": MESSAGES}, **fields)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (failed("ToolError"), "No next command: mend what the message names, or give other parameters"),
        (failed("ServerLostError"), "No next command: start the server by hand"),
        (failed("ExecutionTimeoutError"), "Next: skilllab try my-server --duration 60 --timeout 60"),
        (failed("ExecutionTimeoutError", timeout=60.0), "No next command: mend"),
        (failed("ToolError", passed_over={"other": "no"}), "No next command: mend"),  # alone already, if not by name
        (trial_of(STEADY, tool={"size": (2.0**20,) * 400}), "No next command: let it return less"),
        (trial_of(STEADY), "Next: skilllab try my-server --duration 60"),
        (trial_of(STEADY, duration=60.0), "No next command: load_test() and find_capacity()"),
        (trial_of(STEADY, duration=60.0, stopped=True), "Next: skilllab try my-server --duration 60"),
        (trial_of([0.1] * 400, duration=60.0), "No next command: find_capacity()"),
        (trial_of([*STEADY[:399], 1.0], duration=60.0), "No next command: load_test()"),
        (trial_of(STEADY[:60], duration=60.0, rate=1.0), "Next: skilllab try my-server --rate 4 --duration 60"),
        (trial_of([1e-4] * 60, duration=60.0, rate=1000.0, floor=()), "No next command: load_test()"),
        (trial_of(STEADY, connect=3.0, duration=60.0), "No next command: connect once"),
        (trial_of([], tool={"first": None, "cut": 1}, duration=60.0), "No next command: see on the server's side"),
    ],
)
def test_the_next_command_shows_more(result: TrialResult, told: str) -> None:
    """The next command is never the one that was just run; where nothing shows more, the page says what to do instead."""
    assert f"\n{told}" in page(result)
    assert told in str(result)
    assert first_finding(result).command != command(result) or result.stopped


def test_one_of_many_that_fails_is_tried_alone() -> None:
    """Where other tools were called as well, the next command calls the one that failed, and no other."""
    bad = ToolTrial("bad", {"a": 1}, first=0.1, first_error="ToolError", messages={"ToolError": "bad: no tea"})
    result = trial_of([], tools=(bad, ToolTrial("good", {}, first=0.1)))
    assert first_finding(result).command == """skilllab try my-server --tool bad --params '{"a": 1}'"""
