"""Scenarios: what has no meaning is refused before anything starts, with its value and what to do."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
from typing import Any

import pytest

from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest import Abort, Scenario, Stage, load_test
from skilllab.model import ResourceLimits
from skilllab.registry import InMemorySkillRegistry

OPEN = (Stage(10.0, rate=5.0),)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"rate": 0.0}, r"rate\(=0.0\) must be a finite number of requests a second above 0"),
        ({"rate": math.nan}, r"rate\(=nan\)"),
        ({"rate": math.inf}, r"rate\(=inf\)"),
        ({"rate": -3}, r"rate\(=-3\)"),
        ({"rate": "10"}, r"rate\(='10'\)"),
        ({"rate": True}, r"rate\(=True\)"),
        ({"concurrency": 0}, r"concurrency\(=0\) must be a whole number of workers"),
        ({"concurrency": 2.5}, r"concurrency\(=2.5\)"),
        ({"concurrency": 5, "rate": 10.0}, "give one of them"),
        ({"duration": 0.0}, r"duration\(=0.0\)"),
        ({"duration": math.nan}, r"duration\(=nan\)"),
        ({"duration": 5.0, "warmup": 5.0}, r"duration\(=5 s\) must be longer than warmup\(=5 s\)"),
        ({"duration": 5.0, "warmup": 7.5}, "nothing would be measured"),
        ({"warmup": math.nan}, r"warmup\(=nan\)"),
        ({"warmup": -1.0}, r"warmup\(=-1.0\)"),
        ({"count": 0}, r"count\(=0\)"),
        ({"max_in_flight": 0}, r"max_in_flight\(=0\)"),
        ({"timeout": 0.0}, r"timeout\(=0.0\)"),
        ({"seed": -1}, r"seed\(=-1\) must be a whole number, 0 or above"),
        ({"seed": 1.5}, r"seed\(=1.5\)"),
        ({"seed": "7"}, r"seed\(='7'\)"),
        ({"seed": True}, r"seed\(=True\)"),
        ({"seed": None}, r"seed\(=None\)"),
        ({"params": 7}, "params=7 must be the parameters by name"),
        ({"params": []}, "with at least one"),
        ({"arrivals": "bursts", "rate": 1.0}, "arrivals='bursts' must be one of poisson"),
        ({"arrivals": "ramp", "rate": 1.0}, r"need duration\(=30.0\) and to\(=None\)"),
        ({"to": 5.0, "rate": 1.0}, "means nothing with arrivals='poisson'"),
        ({"arrivals": "constant", "concurrency": 1}, "belong to an open stage"),
        ({"stages": ()}, "must be one Stage"),
        ({"stages": OPEN, "rate": 5.0}, "leave those out"),
        ({"stages": (*OPEN, Stage(1.0, concurrency=2))}, "all must be open"),
        ({"stages": (*OPEN, Stage(None, rate=2.0)), "count": 5}, "one stage only"),
        ({"stages": (Stage(None, rate=2.0),)}, "needs a count"),
        ({"slo": "p95 < fast"}, r"slo does not parse at character 7"),
        ({"slo": "p95 < 1 s and errors <= 0 %"}, "errors <= 0 % can never be shown to hold"),
        ({"abort_on": Abort(broken=5.0)}, "needs an slo that can be broken"),
        ({"where": "there"}, "where='there'"),
    ],
)
def test_what_has_no_meaning_is_refused(test: dict[str, Any], message: str) -> None:
    """Every such argument is an InvalidValueError that gives the value, and nothing is executed."""

    async def main() -> None:
        registry = InMemorySkillRegistry()
        async with LayeredExecutionEngine(registry) as engine:
            heard: list[object] = []
            engine.on("execution-start", heard.append)
            with pytest.raises(InvalidValueError, match=message):
                await load_test(engine, "any", **test)
            assert not heard

    asyncio.run(main())


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ({"errors": 0.0}, r"errors\(=0.0\)"),
        ({"errors": 50}, "half is 0.5"),
        ({"errors": None}, "ends nothing"),
        ({"window": 0.0}, "window"),
        ({"least": 0}, "least"),
    ],
)
def test_a_guard_without_a_meaning_is_refused(guard: dict[str, Any], message: str) -> None:
    """A guard says what ends a test, in values that can."""
    with pytest.raises(InvalidValueError, match=message):
        Abort(**guard)


@pytest.mark.parametrize(
    "stage",
    [{"arrivals": "spike", "to": 9.0, "period": 11.0}, {"steps": 0}, {"to": math.nan, "arrivals": "sine"}],
)
def test_a_shape_without_a_meaning_is_refused(stage: dict[str, Any]) -> None:
    """A spike fits into its stage, steps are counted, and rates are numbers."""
    with pytest.raises(InvalidValueError):
        Stage(10.0, rate=1.0, **stage)


@pytest.mark.parametrize("params", [{"a": 1}, [{"a": 1}, {"a": [2, None]}]])
def test_a_scenario_comes_back_from_json(params: Any) -> None:
    """Everything that a scenario says survives JSON and pickle."""
    scenario = Scenario(
        "s",
        params,
        (Stage(5.0, rate=1.0, to=9.0, arrivals="sine", name="day"), *OPEN),
        warmup=1.0,
        timeout=None,
        resource_limits=ResourceLimits(max_memory=1 << 20),
        slo="p95 < 50 ms",
        abort=Abort(0.2, 3.0),
    )
    assert Scenario.from_json(json.loads(json.dumps(scenario.to_json()))) == scenario
    assert pickle.loads(pickle.dumps(scenario)) == scenario


def test_a_function_of_parameters_is_kept_by_its_name() -> None:
    """A scenario read from a file tells which function it had, and refuses to run without it."""

    def users(number: int) -> dict[str, int]:
        return {"user": number}

    saved = json.loads(json.dumps(Scenario("s", users, OPEN).to_json()))
    kept = Scenario.from_json(saved)
    assert "users" in saved["params"]
    assert kept.to_json() == saved
    with pytest.raises(InvalidValueError, match="users were not kept"):
        kept.params_of()(0)


def test_a_list_of_parameters_goes_round() -> None:
    """Request number 4 of a list of three gets the second."""
    of = Scenario("s", [{"a": 0}, {"a": 1}, {"a": 2}], OPEN).params_of()
    assert [of(number)["a"] for number in range(5)] == [0, 1, 2, 0, 1]
