"""What a trial may call, and with which parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidParametersError, InvalidValueError
from skilllab.experiments.trial.made_up import made_up
from skilllab.experiments.trial.plan import planned
from skilllab.experiments.trial.target import Target, kind_of
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.schema import Validator

NEEDS = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]}


async def nothing(**_: Any) -> None:
    return None


def tool(name: str, schema: Mapping[str, Any] | None) -> SkillDefinition:
    handler = FunctionHandler(target="tests:nothing", function=nothing)
    return SkillDefinition(id=name, name=name, layer=1, handler=handler, input_schema=schema)


TARGET = Target(
    kind="mcp",
    text="my-server",
    title="",
    tools={"list": tool("list", None), "find": tool("find", NEEDS), "order": tool("order", None)},
    allowed=frozenset(["list", "find"]),
    connect=0.0,
    connecting="",
    nothing=tool("skilllab-nothing", None),
)


def test_only_tools_that_say_they_read_are_called() -> None:
    """A tool that does not say so is passed over with the reason, until it is named."""
    plan = planned(TARGET, params={"find": {"a": 5}})
    assert dict(plan.calls) == {"list": {}, "find": {"a": 5}}
    assert plan.passed_over == {"order": "does not say that it only reads: --allow order"}
    assert set(planned(TARGET, allow=["order"], params={"find": {"a": 5}}).calls) == {"list", "find", "order"}


def test_choosing_a_tool_does_not_allow_it() -> None:
    """--tool chooses among what may be called; it gives no leave."""
    with pytest.raises(InvalidValueError, match=r"nothing to call at my-server: .*order: does not say"):
        planned(TARGET, tools=["order"], params={})
    assert set(planned(TARGET, tools=["order"], allow=["order"]).calls) == {"order"}


def test_made_up_parameters_are_asked_about() -> None:
    """Whoever is asked sees them; with a no, and where nobody is there, the tool is not called."""
    shown = []

    def yes(name: str, params: Mapping[str, Any]) -> bool:
        shown.append((name, dict(params)))
        return True

    assert planned(TARGET, ask=yes).calls["find"] == {"a": 3}
    assert shown == [("find", {"a": 3})]  # list takes none, so nothing was made up
    assert "find" not in planned(TARGET, ask=lambda *_: False).calls
    assert "nobody is there" in planned(TARGET).passed_over["find"]


def test_parameters_of_one_tool_need_no_name() -> None:
    """With one tool to call, the object is its parameters; written by tool it is understood as well."""
    assert planned(TARGET, tools=["find"], params={"a": 4}).calls == {"find": {"a": 4}}
    assert planned(TARGET, tools=["find"], params={"find": {"a": 4}}).calls == {"find": {"a": 4}}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tools": ["fnd"]}, "no tool is called 'fnd': my-server has list, find, order"),
        ({"allow": ["ordr"]}, "no tool is called 'ordr'"),
        ({"params": {"a": 1}}, "'a' is no tool that is to be called"),
        ({"params": {"order": {}}}, "'order' is no tool that is to be called"),
        ({"params": {"find": 3}}, "'find' must have an object"),
        ({"tools": ["find"]}, "nothing to call at my-server"),
    ],
)
def test_a_plan_that_cannot_be(options: dict[str, Any], told: str) -> None:
    """Unknown tools, parameters that belong to none, and nothing left to call are refused with what there is."""
    with pytest.raises(InvalidValueError, match=told):
        planned(TARGET, **options)


def test_parameters_that_do_not_fit() -> None:
    """Parameters are checked before anything is called, and the message points at the offence."""
    with pytest.raises(InvalidParametersError, match="find: parameters at /a: 2 is less than"):
        planned(TARGET, tools=["find"], params={"a": 2})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("my_tools:search", "module"),
        ("package.module:Class.method", "module"),
        ("http://127.0.0.1:8000/mcp", "mcp"),
        ("https://example.org/api/mcp/", "mcp"),
        ("https://example.org//mcp?key=1", "mcp"),
        ("https://mcp", "http"),
        ("https://example.org/?next=/mcp", "http"),
        ("http://[x/", "http"),
        ("https://example.org/users/{id}", "http"),
        ("HTTP://example.org", "http"),
        ("python server.py", "mcp"),
        ("uvx some-server", "mcp"),
        ("server", "mcp"),
    ],
)
def test_kinds_of_targets(text: str, kind: str) -> None:
    """What a target is shows in how it is written; nothing is sent to find out."""
    assert kind_of(text) == kind


# parameters from schemas


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        ({}, {}),
        ({"type": "object", "examples": [{"a": 1}]}, {"a": 1}),
        ({"required": ["a"], "properties": {"a": {"default": 7, "type": "integer"}}}, {"a": 7}),
        ({"required": ["a"], "properties": {"a": {"enum": ["x", "y"]}}}, {"a": "x"}),
        ({"required": ["a"], "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "number"}]}}}, {"a": 1}),
        ({"required": ["a"], "properties": {"a": {"type": ["null", "boolean"]}}}, {"a": False}),
        (
            {"required": ["a"], "properties": {"a": {"type": "array", "items": {"type": "string"}, "minItems": 2}}},
            {"a": ["example"] * 2},
        ),
        ({"required": ["a"], "properties": {"a": {"type": "string", "format": "date"}}}, {"a": "2026-01-01"}),
        ({"required": ["a"], "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"const": 4}}}, {"a": 4}),
        (
            {"required": ["a"], "properties": {"a": {"properties": {"b": {"type": "integer"}}, "required": ["b"]}}},
            {"a": {"b": 1}},
        ),
    ],
)
def test_parameters_are_the_plainest_that_fit(schema: dict[str, Any], made: dict[str, Any]) -> None:
    """Examples, defaults and enums are taken as they are; else the least value of the type, required members only."""
    assert made_up(schema) == made
    Validator(schema, skill_id="x")(made)


def test_a_schema_that_refers_to_itself_ends() -> None:
    """A tree without a leaf cannot be made; that shows in its check, and takes no time."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
    schema = {"$ref": "#/$defs/node", "$defs": {"node": node}}
    assert not Validator(schema, skill_id="x").fits(made_up(schema))


bound = st.integers(-50, 50)


@given(low=bound, span=st.integers(2, 20), exclusive=st.booleans(), step=st.sampled_from([1, 2]))
def test_numbers_keep_their_bounds(low: int, span: int, exclusive: bool, step: int) -> None:
    """A number made for bounds at least twice its step apart lies within them and is a multiple of it."""
    keys = ("exclusiveMinimum", "exclusiveMaximum") if exclusive else ("minimum", "maximum")
    number = {"type": "integer", keys[0]: low, keys[1]: low + 2 * span, "multipleOf": step}
    schema = {"type": "object", "properties": {"a": number}, "required": ["a"]}
    Validator(schema, skill_id="x")(made_up(schema))


@given(least=st.integers(0, 30), more=st.integers(0, 30))
def test_texts_keep_their_length(least: int, more: int) -> None:
    """A text made for lengths has one of them."""
    text = {"type": "string", "minLength": least, "maxLength": least + more}
    schema = {"type": "object", "properties": {"a": text}, "required": ["a"]}
    Validator(schema, skill_id="x")(made_up(schema))
