"""Definitions, queries, pages and results: frozen, checked, and able to travel."""

from __future__ import annotations

import copy
import json
import pickle
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidDefinitionError, InvalidValueError
from skilllab.frozen import FrozenDict, freeze, normal_text
from skilllab.model import (
    LAYER_OF_HANDLER,
    CommandHandler,
    FunctionHandler,
    HttpHandler,
    ResourceLimits,
    ResourceRequirements,
    ScriptHandler,
    SkillDefinition,
)
from skilllab.query import Page, SkillQuery

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
FULL: dict[str, Any] = {
    "id": "full-v1",
    "name": "full",
    "version": "2.1",
    "layer": 3,
    "description": "All fields.",
    "category": "api",
    "tags": ("b", "a"),
    "author": "me",
    "handler": HttpHandler(
        url="https://example.org/{x}", headers={"a": "b"}, query={"q": ["{x}"]}, body={"c": [{"d": 1}]}
    ),
    "input_schema": {"type": "object", "properties": {"x": {"enum": [1, "a"]}}},
    "output_schema": {"type": "string"},
    "cacheable": True,
    "cache_key": "input.x",
    "streaming": True,
    "resource_requirements": ResourceRequirements(cpu="high"),
    "resource_limits": ResourceLimits(max_memory=5, max_duration=1.5),
}


def plain(value: Any) -> Any:
    """Lists and dicts again, to compare with what JSON gives."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


# freezing


@pytest.mark.slow
@given(JSON)
def test_freezing_keeps_the_value_and_loses_every_way_to_change_it(value: Any) -> None:
    """A frozen JSON value is equal once lists are lists again; it has no list, set or plain dict inside, and a hash."""
    frozen = freeze(value)
    assert plain(frozen) == value
    assert freeze(frozen) == frozen
    assert isinstance(hash(frozen), int)
    stack = [frozen]
    while stack:
        item = stack.pop()
        assert type(item) not in (dict, list, set)
        stack += item.values() if isinstance(item, dict) else item if isinstance(item, tuple) else []


@given(JSON)
def test_frozen_values_travel(value: Any) -> None:
    """Pickling gives an equal frozen value; a deep copy is the value itself; JSON writes it as it was."""
    frozen = freeze({"value": value})
    again = pickle.loads(pickle.dumps(frozen))
    assert again == frozen
    assert type(again) is FrozenDict
    assert copy.deepcopy(frozen) is frozen
    assert copy.copy(frozen) is frozen
    assert json.loads(json.dumps(frozen)) == {"value": value}


def test_every_way_to_change_a_mapping_is_closed() -> None:
    """Each method of dict that changes it raises, says what to do, and changes nothing."""
    mapping = FrozenDict(a=1)

    def merge() -> None:
        nonlocal mapping
        mapping |= {"b": 2}

    changes = (
        lambda: mapping.__setitem__("b", 2),
        lambda: mapping.__delitem__("a"),
        lambda: mapping.update(b=2),
        lambda: mapping.setdefault("b", 2),
        lambda: mapping.pop("a"),
        mapping.popitem,
        mapping.clear,
        merge,
    )
    for change in changes:
        with pytest.raises(TypeError, match="frozen: make a changed copy"):
            change()
    assert mapping == {"a": 1}
    with pytest.raises(AttributeError):
        mapping.extra = 1  # type: ignore[attr-defined]


def test_frozen_mappings_are_equal_to_and_hash_by_their_content() -> None:
    """Order does not count; sets become frozen sets."""
    assert hash(FrozenDict(a=1, b=2)) == hash(FrozenDict(b=2, a=1))
    assert FrozenDict(a=1) == {"a": 1}
    assert freeze({"s": {1, 2}}) == {"s": frozenset({1, 2})}


@given(st.text())
def test_normal_text_is_unicode_normal_form_c(text: str) -> None:
    """The same as the standard library, and doing it twice changes nothing."""
    assert normal_text(text) == unicodedata.normalize("NFC", text) == normal_text(normal_text(text))


# definitions


def test_a_definition_cannot_be_changed_anywhere() -> None:
    """Neither a field nor anything inside a schema, a handler or a limit can be set."""
    definition = SkillDefinition(**FULL)
    for thing, name in ((definition, "name"), (definition.handler, "url"), (definition.resource_limits, "max_memory")):
        with pytest.raises(Exception, match="frozen"):
            setattr(thing, name, "x")
    assert definition.input_schema is not None
    assert isinstance(definition.handler, HttpHandler)
    for mapping in (
        definition.input_schema,
        definition.input_schema["properties"]["x"],
        definition.handler.query,
        definition.handler.body,
    ):
        with pytest.raises(TypeError, match="frozen"):
            mapping["y"] = 1  # type: ignore[index]
    assert definition.input_schema["properties"]["x"]["enum"] == (1, "a")


def test_a_definition_does_not_follow_the_dict_it_was_made_of() -> None:
    """What the caller changes afterwards does not reach the definition."""
    schema = {"type": "object", "required": ["a"]}
    definition = SkillDefinition(id="a", name="a", layer=1, input_schema=schema)
    schema["required"].append("b")  # type: ignore[attr-defined]
    assert definition.input_schema == {"type": "object", "required": ("a",)}


def test_a_definition_travels() -> None:
    """JSON, pickle and copies give an equal definition with an equal hash; a deep copy shares, as nothing can change."""
    definition = SkillDefinition(**FULL)
    for again in (
        SkillDefinition.model_validate_json(definition.model_dump_json()),
        pickle.loads(pickle.dumps(definition)),
    ):
        assert again == definition
        assert hash(again) == hash(definition)
        with pytest.raises(TypeError, match="frozen"):
            again.input_schema["x"] = 1
    assert copy.deepcopy(definition) is copy.copy(definition) is definition


def test_a_changed_copy_is_checked() -> None:
    """model_copy changes what it is told, and refuses what a new definition would refuse."""
    definition = SkillDefinition(**FULL)
    changed = definition.model_copy(update={"version": "3", "resource_limits": None})
    assert (changed.version, changed.resource_limits, changed.handler) == ("3", None, definition.handler)
    with pytest.raises(InvalidDefinitionError, match="layer=4"):
        definition.model_copy(update={"layer": 4})


def test_names_are_compared_in_one_normal_form() -> None:
    """An accent typed as one character or as two gives the same name, tag and category."""
    one, two = (
        SkillDefinition(id="a", name=text, layer=1, category=text, tags=(text,)) for text in ("caf\u00e9", "cafe\u0301")
    )
    assert (one.name, one.category, one.tags) == (two.name, two.category, two.tags)


@pytest.mark.parametrize("tags", [("b", "a"), ["b", "a"]])
def test_tags_keep_the_order_of_a_list(tags: Any) -> None:
    """A list of tags becomes a tuple in order; a set, which has none, is sorted."""
    assert SkillDefinition(id="a", name="a", layer=1, tags=tags).tags == ("b", "a")
    assert SkillDefinition(id="a", name="a", layer=1, tags={"b", "a"}).tags == ("a", "b")  # type: ignore[arg-type]


def test_a_handler_may_be_written_short() -> None:
    """A callable or "module:name" is a function handler; a callable object is named by its class."""
    by_name = SkillDefinition(id="a", name="a", layer=1, handler="textwrap:dedent")  # type: ignore[arg-type]
    assert by_name.handler == FunctionHandler(target="textwrap:dedent")
    by_callable = SkillDefinition(id="a", name="a", layer=1, handler=json.dumps)  # type: ignore[arg-type]
    assert by_callable.handler == FunctionHandler(target="json:dumps", function=json.dumps)


@pytest.mark.parametrize(
    ("handler", "layer"),
    [
        (FunctionHandler(target="a:b"), 1),
        (CommandHandler(argv=("wc",)), 2),
        (ScriptHandler(source="def run(params): ..."), 2),
        (HttpHandler(url="http://x"), 3),
    ],
)
def test_a_handler_belongs_to_its_layer(handler: Any, layer: int) -> None:
    """Each kind of handler suits one layer; another is an error that says which."""
    assert LAYER_OF_HANDLER[handler.kind] == layer
    for other in {1, 2, 3} - {layer}:
        with pytest.raises(InvalidDefinitionError, match=f"belongs to layer {layer}, not {other}"):
            SkillDefinition(id="a", name="a", layer=other, handler=handler)
    assert SkillDefinition(id="a", name="a", layer=layer, handler=handler).handler is handler


# commands and scripts

RUN = "def run(params): ..."
COMMAND: dict[str, Any] = {
    "argv": ["wc", "-l", "--", "{path}"],
    "stdin": "{text}",
    "output": "json",
    "exit_codes": [0, 1],
    "cwd": "/srv",
    "paths": ["/srv/data", "/etc/hosts"],
    "env": {"LANG": "C", "EMPTY": ""},
}
SCRIPT: dict[str, Any] = {"source": RUN, "preload": ["json", "os.path"], "paths": ["/srv"], "env": {"A": "b=c"}}
OPEN = {"type": "object", "properties": {"path": {}}}
CLOSED = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(("kind", "fields"), [(CommandHandler, COMMAND), (ScriptHandler, SCRIPT)])
def test_a_handler_of_layer_2_travels(kind: Any, fields: dict[str, Any]) -> None:
    """JSON and pickle give an equal handler; lists in it are tuples, and nothing inside can be set."""
    handler = kind(**fields)
    definition = SkillDefinition(id="a", name="a", layer=2, handler=handler)
    assert SkillDefinition.model_validate_json(definition.model_dump_json()) == definition
    assert pickle.loads(pickle.dumps(handler)) == handler
    assert plain({name: getattr(handler, name) for name in fields}) == fields
    with pytest.raises(TypeError, match="frozen"):
        handler.env["B"] = "c"


def test_what_a_command_and_a_script_are_unless_told() -> None:
    """Text comes out, 0 is success, and the program gets no input, no folder, no file and no variable of its own."""
    command, script = CommandHandler(argv=("true",)), ScriptHandler(source=RUN)
    assert (command.stdin, command.output, command.exit_codes, command.cwd) == (None, "text", (0,), None)
    assert (command.paths, command.env) == (script.paths, script.env) == ((), {})
    assert script.preload == ()


def test_placeholders_of_a_command() -> None:
    """They come from argv and then from stdin, each once; doubled braces are none."""
    handler = CommandHandler(argv=("x", "{b}", "--{{c}}={a}{b}"), stdin="{d} {a}")
    assert handler.placeholders() == ("b", "a", "d")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("argv", [], "at least 1 item"),
        ("argv", "wc", "valid tuple"),
        ("argv", [""], "it names no program"),
        ("argv", ["{program}", "-l"], r"\{program\} has no place in the program"),
        ("argv", ["./{a}"], r"\{a\} has no place in the program"),
        ("argv", ["x", "a\0b"], "holds NUL"),
        ("argv", ["x", "\ud800"], "half a character"),
        ("argv", ["x", "{"], "a brace stands alone"),
        ("argv", ["x", "{a.b}"], "is no placeholder"),
        ("stdin", "}", "a brace stands alone"),
        ("stdin", 5, "valid string"),
        ("output", "xml", "'text', 'lines' or 'json'"),
        ("exit_codes", [], "at least 1 item"),
        ("exit_codes", 0, "valid tuple"),
        ("exit_codes", [256], "less than or equal to 255"),
        ("exit_codes", [-1], "greater than or equal to 0"),
        ("exit_codes", [True], "valid integer"),
        ("cwd", "srv", "'srv': it is no absolute path"),
        ("cwd", "", "no absolute path"),
        ("cwd", "/srv/{name}", r"\{name\} has no place in it"),
    ],
)
def test_a_command_that_cannot_work_is_refused(field: str, value: Any, message: str) -> None:
    """Each field of a command is checked when it is written, and the error names it."""
    with pytest.raises(InvalidDefinitionError, match=f"CommandHandler: {field}.*{message}") as caught:
        CommandHandler(**{"argv": ("true",), field: value})
    assert caught.value.field.split(".")[0] == field


@pytest.mark.parametrize(
    "handler", [lambda **f: CommandHandler(argv=("x",), **f), lambda **f: ScriptHandler(source=RUN, **f)]
)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("paths", ["/srv", "data"], "paths.1='data': it is no absolute path"),
        ("paths", ["~/data"], "no absolute path"),
        ("paths", ["/a\0"], "no absolute path"),
        ("paths", ["/{name}"], r"\{name\} has no place in it"),
        ("paths", "/srv", "valid tuple"),
        ("env", {"": "a"}, "'' is no name"),
        ("env", {"A=B": "a"}, "'A=B' is no name"),
        ("env", {"A\0": "a"}, "is no name"),
        ("env", {"A": "b\0"}, "'A' must have a text without NUL"),
        ("env", {"A": 5}, "env.A=5: .*valid string"),
        ("env", {5: "a"}, "valid string"),
        ("env", ["A=b"], r"env=\['A=b'\]: .*valid"),
    ],
)
def test_paths_and_variables_that_cannot_be_are_refused(handler: Any, field: str, value: Any, message: str) -> None:
    """Paths start at the root and take no parameter; variables have a name and a text."""
    with pytest.raises(InvalidDefinitionError, match=message) as caught:
        handler(**{field: value})
    assert caught.value.field.split(".")[0] == field


def test_a_path_keeps_the_form_it_was_written_in() -> None:
    """Names of files are bytes to the system: an accent typed as two characters stays two."""
    assert CommandHandler(argv=("x",), paths=("/cafe\u0301",)).paths == ("/cafe\u0301",)


@pytest.mark.parametrize(
    "source",
    [
        RUN,
        "async def run(params): ...",
        "def run(*params): ...",
        "def run(params, /, more=1): yield 1",
        "run = print",
        "run = lambda params: 1",
        "from json import dumps as run",
        "from here import run",
        "if True:\n    def run(params): ...",
        "try:\n    from fast import run\nexcept ImportError:\n    def run(params): ...",
    ],
)
def test_a_script_has_run(source: str) -> None:
    """A def, an assignment or an import binds it at the top level; nothing of the source is executed or imported."""
    assert ScriptHandler(source=source).source == source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "at least 1 character"),
        ("x = 1", "it has no run at its top level"),
        ("run(1)", "it has no run at its top level"),
        ("import run.x as other", "it has no run"),
        ("def main(params):\n    def run(params): ...", "it has no run"),
        ("class A:\n    def run(self): ...", "it has no run"),
        ("def run(params):\n    return [", r"it is no Python: line 2: '\[' was never closed"),
        ("def run(params):\nreturn 1", "line 2: expected an indented block"),
        ("\0", "it is no Python: source code .* null bytes"),
        ("(" * 1000, "it is no Python: line 1: too many nested"),
        ("import os\n\ndef run(): ...", "line 3: run takes no positional parameter"),
        ("async def run(*, params): ...", "line 1: run takes no positional parameter"),
        ("def run(**params): ...", "line 1: run takes no positional parameter"),
    ],
)
def test_a_script_that_cannot_run_is_refused(source: str, message: str) -> None:
    """What is no Python, and what has no run that takes the parameters, is told with the line where there is one."""
    with pytest.raises(InvalidDefinitionError, match=f"ScriptHandler: source=.*{message}") as caught:
        ScriptHandler(source=source)
    assert caught.value.field == "source"


@pytest.mark.parametrize("module", ["", ".", "a.", "a b", "a-b", "a;b", "5", 5])
def test_what_is_no_module_is_refused(module: Any) -> None:
    """A module to import before the first call has a dotted name."""
    with pytest.raises(InvalidDefinitionError, match=r"preload\.0"):
        ScriptHandler(source=RUN, preload=[module])


def test_a_placeholder_that_a_closed_schema_lacks_is_refused() -> None:
    """In argv and in stdin alike; a schema that lets further parameters through says nothing against it."""
    for handler in (CommandHandler(argv=("x", "{file}")), CommandHandler(argv=("x", "{path}"), stdin="{file}")):
        with pytest.raises(
            InvalidDefinitionError, match=r"handler: \{file\} is no parameter of input_schema"
        ) as caught:
            SkillDefinition(id="a", name="a", layer=2, handler=handler, input_schema=CLOSED)
        assert caught.value.field == "handler"
        for schema in (OPEN, None):
            assert SkillDefinition(id="a", name="a", layer=2, handler=handler, input_schema=schema).handler is handler


@pytest.mark.parametrize(
    ("handler", "layer"),
    [(FunctionHandler(target="a:b"), 1), (CommandHandler(argv=("x",)), 2), (ScriptHandler(source=RUN), 2), (None, 1)],
)
@pytest.mark.parametrize("isolation", ["process", "bubblewrap", None])
def test_what_runs_in_a_process_may_ask_for_isolation(handler: Any, layer: Any, isolation: Any) -> None:
    """Functions, commands and scripts may demand a kind of isolation, or take what the engine has."""
    definition = SkillDefinition(id="a", name="a", layer=layer, handler=handler, isolation=isolation)
    assert definition.isolation == isolation
    assert SkillDefinition(id="a", name="a", layer=layer, handler=handler).isolation is None


def test_a_request_cannot_be_isolated() -> None:
    """An http handler starts no process, so that asking for one is an error that names the field."""
    with pytest.raises(
        InvalidDefinitionError, match="isolation='process': an http handler starts no process"
    ) as caught:
        SkillDefinition(id="a", name="a", layer=3, handler=HttpHandler(url="http://x"), isolation="process")
    assert caught.value.field == "isolation"


def test_a_command_does_not_stream() -> None:
    """Its output comes when it has ended, which the definition says and not the first call; a script may stream."""
    with pytest.raises(InvalidDefinitionError, match="streaming=True: a command's output comes when it has") as caught:
        SkillDefinition(id="a", name="a", layer=2, handler=CommandHandler(argv=("x",)), streaming=True)
    assert caught.value.field == "streaming"
    assert SkillDefinition(id="a", name="a", layer=2, handler=ScriptHandler(source=RUN), streaming=True).streaming


BAD_FIELDS: list[tuple[str, Any]] = [
    *(("id", value) for value in ("", " ", "a b", "-a", "é", "a" * 201, 5, None)),
    *(("name", value) for value in ("", "   ", 5, None, "a" * 201)),
    *(("layer", value) for value in (0, 4, "1", 1.0, True, None)),
    *(("version", value) for value in ("", 1)),
    *(("tags", value) for value in ("io", 5, None)),
    ("category", None),
    ("input_schema", "object"),
    ("cacheable", 1),
    ("cache_key", 5),
    ("streaming", None),
    *(("isolation", value) for value in ("docker", True, "")),
    ("handler", 5),
    ("resource_limits", {"max_memory": 5, "unknown": 1}),
    ("resource_requirements", {"memory": "huge"}),
    ("colour", "red"),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    """A wrong type or value, and a field that does not exist, is an InvalidDefinitionError with the field and the value."""
    with pytest.raises(InvalidDefinitionError) as caught:
        SkillDefinition(**{"id": "a", "name": "a", "layer": 1, field: value})
    assert caught.value.field.split(".")[0] == field
    assert field in str(caught.value)


def test_every_wrong_field_is_in_the_message() -> None:
    """One error speaks of all fields, missing ones and those inside a part included; `field` is the first."""
    with pytest.raises(InvalidDefinitionError) as caught:
        SkillDefinition(id="a b", layer=1, resource_limits={"max_memory": -1, "max_duration": 0.0})  # type: ignore[call-arg, arg-type]
    message = str(caught.value)
    assert message.startswith("SkillDefinition 'a b': id='a b': ")
    assert "name is missing" in message
    assert "resource_limits.max_memory=-1" in message
    assert "max_duration=0.0" in message
    assert caught.value.field == "id"
    assert pickle.loads(pickle.dumps(caught.value)).field == "id"


def test_a_long_value_is_cut_in_the_message() -> None:
    """A megabyte in a wrong place does not make a message of a megabyte."""
    with pytest.raises(InvalidDefinitionError) as caught:
        SkillDefinition(id="a", name="a", layer=1, version="", category=["x" * 10**6])  # type: ignore[arg-type]
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ResourceLimits.model_fields)
def test_limits_refuse_what_has_no_meaning(name: str) -> None:
    """No limit takes a negative number, a text, a truth value or infinity; only the request budget may be 0."""
    for value in (-1, "5", True, float("inf"), float("nan")):
        with pytest.raises(InvalidDefinitionError, match=name):
            ResourceLimits(**{name: value})
    if name == "max_network_requests":
        assert ResourceLimits(max_network_requests=0).asked() == (name,)
    else:
        with pytest.raises(InvalidDefinitionError, match=name):
            ResourceLimits(**{name: 0})
    assert ResourceLimits(**{name: 5}).asked() == (name,)
    assert ResourceLimits().asked() == ()


# queries


WORDS = st.lists(st.text("abé", min_size=1, max_size=2), max_size=4)


@pytest.mark.slow
@given(WORDS, WORDS, st.randoms())
def test_one_set_of_tags_is_one_query(tags: list[str], all_tags: list[str], rng: Any) -> None:
    """Order, repetition and normal form of tags make no difference, nor does giving the query as a mapping."""
    shuffled = [unicodedata.normalize("NFD", tag) for tag in tags * 2]
    rng.shuffle(shuffled)
    query = SkillQuery(tags=tags, all_tags=all_tags, limit=3)
    same = SkillQuery.of({"tags": shuffled, "all_tags": set(all_tags), "limit": 3})
    assert query == same
    assert hash(query) == hash(same)
    assert query.tags == tuple(sorted(set(tags)))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"layer": 0}, "layer=0 must be 1, 2 or 3"),
        ({"layer": True}, "layer=True must be"),
        ({"layer": "1"}, "layer='1' must be"),
        ({"limit": -1}, "limit=-1 must be"),
        ({"limit": 2.0}, "limit=2.0 must be"),
        ({"offset": -1}, "offset=-1 must be"),
        ({"offset": None}, "offset=None must be"),
        ({"tags": "io"}, r"tags='io' must be a list of texts; write \['io'\]"),
        ({"tags": 5}, "tags=5 must be a list"),
        ({"tags": [1]}, "must be a list of texts"),
        ({"all_tags": [b"a"]}, "must be a list of texts"),
        ({"category": 5}, "category=5 must be text or None"),
        ({"name": ["a"]}, "name=.* must be text or None"),
        ({"text": 1}, "text=1 must be text"),
        ({"author": b"a"}, "author=b'a' must be text"),
        ({"colour": "red", "layer": 1}, "unknown condition colour: known are layer, category"),
    ],
)
def test_wrong_conditions_are_refused(conditions: dict[str, Any], message: str) -> None:
    """A wrong type, a number without a meaning and an unknown field are errors that show the value."""
    with pytest.raises(InvalidValueError, match=message):
        SkillQuery.of(conditions)


def test_a_query_asks_for_nothing_by_default() -> None:
    """The query without conditions has no limit and no offset, and cannot be changed."""
    query = SkillQuery()
    assert query == SkillQuery.of({})
    assert (query.limit, query.offset, query.tags) == (None, 0, ())
    with pytest.raises(AttributeError):
        query.limit = 5  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(SkillQuery(layer=2, tags=["a"]))) == SkillQuery(layer=2, tags=["a"])


# pages and results


def test_a_page_is_a_frozen_tuple_that_travels() -> None:
    """A page is its skills, with the total, the next offset and the registry's revision; nothing of it can be set."""
    skills = [SkillDefinition(id=f"s{n}", name=f"s{n}", layer=1) for n in range(7)]
    page = Page(skills, total=20, next_offset=7, as_of=3)
    assert list(page) == skills
    for again in (page, pickle.loads(pickle.dumps(page)), copy.deepcopy(page)):
        assert (tuple(again), again.total, again.next_offset, again.as_of) == (tuple(skills), 20, 7, 3)
    for name in ("total", "extra"):
        with pytest.raises(AttributeError, match="frozen"):
            setattr(page, name, 1)
    with pytest.raises(AttributeError, match="frozen"):
        del page.total
    assert repr(page) == "<Page of 7 of 20 skills: s0, s1, s2, s3, s4 …>"
    assert repr(Page((), 0, None)) == "<Page of 0 of 0 skills: >"
