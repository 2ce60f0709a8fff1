"""Ways to write a skill: the @skill decorator, and skills that are a command, a script or a request."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from skilllab.define import command_skill, definition_of, http_skill, script_skill, skill
from skilllab.errors import InvalidDefinitionError, InvalidValueError
from skilllab.loading import load
from skilllab.model import (
    CommandHandler,
    FunctionHandler,
    ResourceLimits,
    ResourceRequirements,
    ScriptHandler,
    SkillDefinition,
)


@skill(id="word-count-v1", category="text", tags=["text", "utility"], cacheable=True, examples=[{"text": "a b"}])
def count_words(text: str, least: Annotated[int, Field(ge=1)] = 1) -> dict[str, int]:
    """Counts the words of a text,
    case folded.

    Punctuation counts.
    """
    words = text.casefold().split()
    return {word: words.count(word) for word in words if words.count(word) >= least}


@skill(id="slow-v1")
async def slow_answer(kind: Literal["yes", "no"]) -> str:
    return kind


def test_the_function_stays_a_function() -> None:
    """A decorated function is called as before, def or async def, and is still itself."""
    assert count_words("A a b") == {"a": 2, "b": 1}
    assert asyncio.run(slow_answer("yes")) == "yes"
    assert count_words.__name__ == "count_words"


def test_the_definition_says_what_the_function_says() -> None:
    """Name, description, target and schemas come from the function, the rest from the decorator."""
    definition = count_words.definition
    assert definition.id == "word-count-v1"
    assert definition.name == "count words"
    assert definition.description == "Counts the words of a text, case folded."
    assert (definition.layer, definition.category, definition.tags, definition.cacheable) == (
        1,
        "text",
        ("text", "utility"),
        True,
    )
    assert definition.input_schema == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "least": {"type": "integer", "minimum": 1, "default": 1}},
        "required": ("text",),
        "additionalProperties": False,
        "examples": ({"text": "a b"},),
    }
    assert definition.output_schema == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert isinstance(definition.handler, FunctionHandler)
    assert definition.handler.function is count_words
    assert definition.handler.target == f"{__name__}:count_words"


def test_everything_can_be_said() -> None:
    """What is given wins over what the function says."""
    limits, needs = ResourceLimits(max_memory=5), ResourceRequirements(cpu="high")

    @skill(
        id="a",
        name="other",
        version="2",
        description="What.",
        author="me",
        cache_key="input.x",
        resource_limits=limits,
        resource_requirements=needs,
        check_output=False,
    )
    def function(x: int) -> int:
        """Not this."""
        return x

    definition = function.definition
    assert (definition.name, definition.version, definition.description, definition.author) == (
        "other",
        "2",
        "What.",
        "me",
    )
    assert (definition.cache_key, definition.resource_limits, definition.resource_requirements) == (
        "input.x",
        limits,
        needs,
    )
    assert definition.output_schema is None


def test_how_it_runs_can_be_said() -> None:
    """Time to live, places and timeout are the definition's; left out they are the engine's."""

    @skill(id="a", cacheable=True, cache_ttl=5.0, max_concurrency=3, timeout=None)
    def function(x: int) -> int:
        return x

    definition, plain = function.definition, slow_answer.definition
    assert (definition.cache_ttl, definition.max_concurrency, definition.timeout) == (5.0, 3, None)
    assert (plain.cache_ttl, plain.max_concurrency, plain.timeout) == ("inherit", None, "inherit")
    assert skill(id="b", cache_ttl=None, timeout=0.5)(lambda_free).definition.timeout == 0.5
    assert plain.isolation is None
    assert skill(id="c", isolation="bubblewrap")(lambda_free).definition.isolation == "bubblewrap"


def lambda_free(x: int) -> int:
    return x


async def count_many(items: list[dict[str, Any]], db: Any) -> list[int]:
    return [len(items)] * len(items)


@skill(id="leased", leases=["db"], batch=count_many)
async def leased(table: str, db: sqlite3.Connection) -> int:
    """Counts rows."""
    ((rows,),) = db.execute(f"SELECT count(*) FROM {table}")
    return int(rows)


def test_leases_are_no_part_of_the_schema() -> None:
    """What the engine fills in, no caller gives: it may have any hint; the batch function is found by its name as well."""
    definition = leased.definition
    assert definition.input_schema == {
        "type": "object",
        "properties": {"table": {"type": "string"}},
        "required": ("table",),
        "additionalProperties": False,
    }
    assert definition.output_schema == {"type": "integer"}
    assert isinstance(definition.handler, FunctionHandler)
    assert definition.handler.leases == ("db",)
    assert definition.handler.batch == f"{__name__}:count_many"
    assert load(definition, 1).batch is count_many


def test_a_batch_function_and_leases_come_back_from_json() -> None:
    """Read back from JSON a definition names its batch function and its leases."""
    again = SkillDefinition.model_validate_json(leased.definition.model_dump_json())
    assert again.model_dump() == leased.definition.model_dump()


def generates(items: list[Any]) -> Iterator[Any]:
    yield from items


async def streams_on(x: int) -> AsyncIterator[int]:
    yield x


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda_free, {"leases": "db"}, r"leases='db' must be a list of texts; write \['db'\]"),
        (lambda_free, {"leases": ["x", "db", "y"]}, r"leases='db', 'y': lambda_free\(\) has no such parameter; add it"),
        (lambda_free, {"batch": "m:f"}, "batch='m:f' must be a def or async def that returns a list"),
        (lambda_free, {"batch": len}, "must be a def or async def"),
        (lambda_free, {"batch": functools.partial(count_many, db=1)}, "must be a def or async def"),
        (lambda_free, {"batch": generates}, "must be a def or async def"),
        (streams_on, {"batch": count_many, "streaming": True}, "a skill that streams cannot answer in batches"),
    ],
)
def test_leases_and_batches_that_cannot_work_are_refused(function: Any, options: dict[str, Any], message: str) -> None:
    """A lease without its parameter and what is no batch function are refused, with the field's name."""
    with pytest.raises(InvalidDefinitionError, match=message) as caught:
        skill(id="a", **options)(function)
    assert caught.value.field == next(iter(options))


def test_a_module_level_function_comes_back_from_json() -> None:
    """Read back from JSON the definition is the same but for the callable, and loading imports the same function."""
    from skilllab.skills.checksum import checksum

    definition = checksum.definition
    again = SkillDefinition.model_validate_json(definition.model_dump_json())
    assert again.model_dump() == definition.model_dump()
    assert load(again, 1).function is checksum


def test_a_function_inside_another_runs_here() -> None:
    """A function made in a function, as in a notebook cell or a test, is loaded from the definition itself."""

    @skill(id="inner")
    def inner(x: int) -> int:
        return x + 1

    loaded = load(inner.definition, 1)
    assert loaded.function is inner
    assert inner.definition.handler is not None
    assert "<locals>" in inner.definition.handler.target


def test_outputs_without_a_json_type_are_not_checked() -> None:
    """No return hint, Any, and what is no JSON type give no output schema; None is a type like others."""

    @skill(id="a")
    def unhinted(x: int):
        return x

    @skill(id="b")
    def anything(x: int) -> Any:
        return x

    @skill(id="c")
    def foreign(x: int) -> set[int]:
        return {x}

    @skill(id="d")
    def nothing(x: int) -> None:
        return None

    assert [f.definition.output_schema for f in (unhinted, anything, foreign)] == [None] * 3
    assert nothing.definition.output_schema == {"type": "null"}


def test_functions_that_yield_must_say_so() -> None:
    """A generator is refused unless the skill says that it streams, and then has no output schema."""

    def numbers() -> Iterator[int]:
        yield 1

    async def more() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, more):
        with pytest.raises(InvalidDefinitionError, match="yields; return a value, or say streaming=True"):
            skill(id="a")(function)
        assert skill(id="a", streaming=True)(function).definition.streaming


class Callable_:  # noqa: N801
    def __call__(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda: 1, "a lambda has neither name nor type hints"),
        (len, "@skill decorates functions, not <built-in function len>"),
        (functools.partial(count_words, "a"), "@skill decorates functions"),
        (Callable_(), "@skill decorates functions"),
        (Callable_, "@skill decorates functions"),
        (5, "@skill decorates functions, not 5"),
    ],
)
def test_what_is_no_named_function_is_refused(thing: Any, message: str) -> None:
    """Lambdas, built-ins, partials, classes and objects are refused with what to write instead."""
    with pytest.raises(InvalidDefinitionError, match=message):
        skill(id="a")(thing)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "a b"}, "id"),
        ({"id": 5}, "id"),
        ({"id": "a", "tags": "io"}, "tags"),
        ({"id": "a", "tags": [1]}, "tags.0"),
        ({"id": "a", "name": " "}, "name"),
        ({"id": "a", "cacheable": "yes"}, "cacheable"),
        ({"id": "a", "max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], field: str) -> None:
    """A wrong option is an error that names the field, and leaves the function as it was."""

    def function() -> int:
        return 1

    with pytest.raises(InvalidDefinitionError) as caught:
        skill(**options)(function)
    assert caught.value.field == field
    assert not hasattr(function, "definition")


@pytest.mark.parametrize("options", [{"cache_ttl": 0}, {"timeout": -1.0}, {"timeout": "never"}, {"cache_ttl": True}])
def test_times_that_are_none_are_refused(options: dict[str, Any]) -> None:
    """Seconds above 0, None and "inherit" are what a time may be."""
    ((field, value),) = options.items()
    with pytest.raises(InvalidDefinitionError, match=f"{field}.*{value!r}") as caught:
        skill(id="a", **options)(lambda_free)
    assert caught.value.field.split(".")[0] == field


def test_definition_of() -> None:
    """A definition and a decorated function have one; anything else is an error that shows it."""
    assert definition_of(count_words) is count_words.definition
    assert definition_of(count_words.definition) is count_words.definition
    for thing in (5, len, None, Callable_):
        with pytest.raises(InvalidValueError, match="is no skill: give a SkillDefinition"):
            definition_of(thing)


# commands, scripts and requests

RUN = "def run(params):\n    return params\n"
WRITERS: dict[str, Any] = {
    "command": lambda **fields: command_skill(**{"id": "s", "argv": ["wc", "{path}"], **fields}),
    "script": lambda **fields: script_skill(**{"id": "s", "source": RUN, **fields}),
    "http": lambda **fields: http_skill(**{"id": "s", "url": "http://h/{path}", **fields}),
}


def test_a_command_is_a_skill() -> None:
    """Its definition is of layer 2, is named by its id, and requires each placeholder, of any type."""
    definition = command_skill(id="count-v1", argv=["wc", "-l", "--", "{path}", "{more}"], stdin="{text}{path}")
    assert definition.handler == CommandHandler(argv=("wc", "-l", "--", "{path}", "{more}"), stdin="{text}{path}")
    assert (definition.id, definition.name, definition.layer) == ("count-v1", "count-v1", 2)
    assert definition.input_schema == {
        "type": "object",
        "properties": {"path": {}, "more": {}, "text": {}},
        "required": ("path", "more", "text"),
    }
    assert definition.resource_requirements == ResourceRequirements()
    assert (definition.isolation, definition.streaming) == (None, False)


def test_a_script_is_a_skill() -> None:
    """Its definition is of layer 2 and takes any parameters."""
    definition = script_skill(id="echo-v1", source=RUN)
    assert definition.handler == ScriptHandler(source=RUN)
    assert (definition.id, definition.name, definition.layer) == ("echo-v1", "echo-v1", 2)
    assert (definition.input_schema, definition.output_schema) == (None, None)
    assert definition.resource_requirements == ResourceRequirements()
    assert (definition.isolation, definition.streaming) == (None, False)


def test_everything_can_be_said_of_a_command_and_a_script() -> None:
    """The fields of the handler reach the handler, lists as tuples."""
    command = command_skill(
        id="s",
        argv=("x",),
        output="json",
        exit_codes=[0, 3],
        cwd="/srv",
        paths=["/a"],
        env={"A": "b"},
        isolation="process",
    )
    script = script_skill(
        id="s", source=RUN, preload=["json"], paths=["/a"], env={"A": "b"}, streaming=True, isolation="bubblewrap"
    )
    assert command.handler == CommandHandler(
        argv=("x",), output="json", exit_codes=(0, 3), cwd="/srv", paths=("/a",), env={"A": "b"}
    )
    assert script.handler == ScriptHandler(source=RUN, preload=("json",), paths=("/a",), env={"A": "b"})
    assert command.isolation == "process"
    assert (script.isolation, script.streaming) == ("bubblewrap", True)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_further_fields_are_the_same_for_every_kind(write: Any) -> None:
    """What is given wins over what stands in for it; None stands for what is not given."""
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    fields: dict[str, Any] = {
        "name": "other",
        "version": "2",
        "description": "What.",
        "category": "text",
        "author": "me",
        "output_schema": {"type": "string"},
        "cacheable": True,
        "cache_key": "input.path",
        "cache_ttl": 5.0,
        "max_concurrency": 3,
        "timeout": None,
        "resource_requirements": ResourceRequirements(memory="high"),
        "resource_limits": ResourceLimits(max_memory=5),
    }
    definition = write(**fields, tags=["b", "a"], input_schema=schema, examples=[{"path": "x"}])
    assert {field: getattr(definition, field) for field in fields} == fields
    assert definition.tags == ("b", "a")
    assert definition.input_schema == {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "examples": ({"path": "x"},),
    }
    assert write(name=None, input_schema=None, resource_requirements=None) == write()


def test_examples_of_a_script_without_a_schema() -> None:
    """They are kept in a schema that refuses nothing."""
    assert script_skill(id="s", source=RUN, examples=[{"a": 1}]).input_schema == {"examples": ({"a": 1},)}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tags": "io"}, r"skill 's': tags='io' must be a list of texts; write \['io'\]"),
        ({"colour": "red"}, "skill 's': colour='red': it has no such field; known are name, version"),
        ({"handler": None}, "skill 's': handler=None: it has no such field"),
        ({"timeout": -1.0}, r"timeout.*-1\.0"),
        ({"id": "a b"}, "SkillDefinition 'a b': id='a b'"),
        ({"id": "a b", "name": None, "cacheable": 1}, "cacheable=1"),
    ],
)
def test_a_wrong_further_field_is_refused(write: Any, fields: dict[str, Any], message: str) -> None:
    """A wrong value and a field that does not exist are errors that show both, whatever kind of skill it is."""
    with pytest.raises(InvalidDefinitionError, match=message) as caught:
        write(**fields)
    assert caught.value.field.split(".")[0] in fields


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("command", {"argv": "wc -l {path}"}, r"argv='wc -l \{path\}' must be a list of texts; write \['wc', '-l', "),
        ("command", {"argv": []}, r"argv=\[\]: .* at least 1 item"),
        ("command", {"argv": ["{path}"]}, r"argv=.* has no place in the program"),
        ("command", {"argv": 5}, "argv=5: .*valid tuple"),
        ("command", {"paths": "/srv"}, r"paths='/srv' must be a list of texts; write \['/srv'\]"),
        ("command", {"paths": ["srv"]}, r"paths\.0='srv': it is no absolute path"),
        ("command", {"cwd": "srv"}, "cwd='srv': it is no absolute path"),
        ("command", {"env": {"A=": "b"}}, "env=.*: 'A=' is no name"),
        ("command", {"exit_codes": 1}, "exit_codes=1: .*valid tuple"),
        ("command", {"streaming": True}, "streaming=True: it has no such field"),
        ("script", {"source": "def run(params):\n    retrun 1"}, "source=.*: it is no Python: line 2: invalid syntax"),
        ("script", {"source": "def main(): ..."}, "source=.*: it has no run"),
        ("script", {"preload": "json"}, r"preload='json' must be a list of texts; write \['json'\]"),
        ("script", {"preload": ["a b"]}, r"preload\.0='a b': it is no module"),
        ("script", {"env": {"A": 5}}, "env.A=5: .*valid string"),
        ("http", {"isolation": "process"}, "isolation='process': it has no such field"),
        ("http", {"allowed_hosts": "h"}, "allowed_hosts='h' must be a list of texts"),
    ],
)
def test_a_wrong_handler_names_the_skill(kind: str, fields: dict[str, Any], message: str) -> None:
    """What cannot run is refused when it is written, with the id of the skill and the name of the field."""
    with pytest.raises(InvalidDefinitionError, match=f"^skill 's': {message}") as caught:
        WRITERS[kind](**fields)
    assert caught.value.field.split(".")[0] in fields


def test_a_closed_schema_must_have_every_placeholder() -> None:
    """A parameter that no call could give is told at once."""
    schema = {"type": "object", "properties": {"file": {}}, "additionalProperties": False}
    with pytest.raises(InvalidDefinitionError, match=r"\{path\} is no parameter of input_schema"):
        command_skill(id="s", argv=["wc", "{path}"], input_schema=schema)


def test_a_wrong_isolation_is_refused() -> None:
    """There are two kinds, and the error names them."""
    for write in (WRITERS["command"], WRITERS["script"], lambda **fields: skill(id="s", **fields)(lambda_free)):
        with pytest.raises(InvalidDefinitionError, match=r"isolation='docker': .*'process' or 'bubblewrap'"):
            write(isolation="docker")
