"""Reading and writing catalogues."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.define import skill
from skilllab.errors import CatalogueError, InvalidValueError
from skilllab.model import (
    CommandHandler,
    HttpHandler,
    ResourceLimits,
    ResourceRequirements,
    ScriptHandler,
    SkillDefinition,
)
from skilllab.skills import BUILT_IN, builtin
from skilllab.skills.catalogue import Catalogue, read_catalogue, write_catalogue

GOOD = {"id": "a-v1", "name": "a", "layer": 1, "handler": "textwrap:dedent"}


def write(path: Path, *entries: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"catalogue": 1, "skills": list(entries), **more}))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "skills.json"


def test_a_good_catalogue_is_a_read_only_mapping_in_order(path: Path) -> None:
    """Definitions come by id in the order of the file, and the mapping has no way to change it."""
    catalogue = read_catalogue(write(path, {**GOOD, "id": "z", "name": "z"}, GOOD))
    assert list(catalogue) == ["z", "a-v1"]
    assert catalogue["a-v1"] == SkillDefinition(**GOOD)
    assert (len(catalogue), catalogue.problems, catalogue.file) == (2, (), str(path))
    with pytest.raises(TypeError):
        catalogue["b"] = catalogue["z"]  # type: ignore[index]
    with pytest.raises(KeyError):
        catalogue["nope"]


BAD: dict[str, tuple[Any, str | None, str, str]] = {
    "unknown field": ({**GOOD, "colour": "red"}, "a-v1", "colour", "Extra inputs"),
    "field named self": ({**GOOD, "self": 1}, "a-v1", "self", "Extra inputs"),
    "no id": ({"name": "a", "layer": 1}, None, "id", "id is missing"),
    "id of a wrong type": ({**GOOD, "id": ["a"]}, "['a']", "id", "valid string"),
    "id with a space": ({**GOOD, "id": "a b"}, "a b", "id", "pattern"),
    "layer 9": ({**GOOD, "layer": 9}, "a-v1", "layer", "1, 2 or 3"),
    "layer true": ({**GOOD, "layer": True}, "a-v1", "layer", "as a whole number"),
    "tags as text": ({**GOOD, "tags": "io"}, "a-v1", "tags", "valid tuple"),
    "handler of another layer": ({**GOOD, "layer": 2}, "a-v1", "definition", "belongs to layer 1, not 2"),
    "handler of no kind": ({**GOOD, "handler": {"kind": "magic"}}, "a-v1", "handler", "'magic'"),
    "handler with a wrong part": (
        {**GOOD, "layer": 2, "handler": {"kind": "command", "argv": ["wc", 1]}},
        "a-v1",
        "handler.command.argv.1",
        "valid string",
    ),
    "negative limit": (
        {**GOOD, "resource_limits": {"max_memory": -1}},
        "a-v1",
        "resource_limits.max_memory",
        "max_memory=-1",
    ),
    "bad schema": (
        {**GOOD, "input_schema": {"type": "text"}},
        "a-v1",
        "input_schema",
        "input_schema/type is no valid JSON Schema",
    ),
    "bad output schema": ({**GOOD, "output_schema": {"$ref": "#/no"}}, "a-v1", "output_schema", "no valid JSON Schema"),
    "no object": (5, None, "", "5 is no object"),
    "null": (None, None, "", "None is no object"),
    "id twice": ({**GOOD, "id": "first"}, "first", "id", r"id of skills\[0\] as well"),
    "name twice": ({**GOOD, "name": "one"}, "a-v1", "name", r"name of skills\[0\] as well"),
}
FIRST = {"id": "first", "name": "one", "layer": 1}


@pytest.mark.parametrize(("entry", "skill_id", "field", "reason"), BAD.values(), ids=BAD)
def test_bad_entries_are_reported(path: Path, entry: Any, skill_id: str | None, field: str, reason: str) -> None:
    """A bad entry is reported with file, place, id, field and reason; asked to, the reader returns the others."""
    write(path, FIRST, entry, {**GOOD, "id": "last", "name": "last"})
    with pytest.raises(CatalogueError, match=reason) as caught:
        read_catalogue(path)
    [problem] = caught.value.problems
    assert (problem.file, problem.index, problem.skill_id, problem.field) == (str(path), 1, skill_id, field)
    assert str(problem) in str(caught.value)
    catalogue = read_catalogue(path, skip_bad=True)
    assert list(catalogue) == ["first", "last"]
    assert catalogue.problems == (problem,)


def test_every_bad_entry_is_in_the_message(path: Path) -> None:
    """With all kinds of bad entries in one file the message has a line for each, under one count."""
    entries = [entry for entry, *_ in BAD.values()]
    write(path, FIRST, *entries)
    with pytest.raises(CatalogueError, match=f"{len(BAD)} entries are bad") as caught:
        read_catalogue(path)
    lines = str(caught.value).splitlines()[1:]
    assert [line.partition(": skills[")[2].partition("]")[0] for line in lines] == [
        str(i) for i in range(1, len(BAD) + 1)
    ]


def test_one_name_may_stand_in_two_layers(path: Path) -> None:
    """Names are unique within a layer only."""
    assert len(read_catalogue(write(path, GOOD, {"id": "b", "name": "a", "layer": 2}))) == 2


def test_the_id_of_a_bad_entry_is_not_taken(path: Path) -> None:
    """A good entry may have the id of a bad one before it."""
    catalogue = read_catalogue(write(path, {**GOOD, "layer": 7}, GOOD), skip_bad=True)
    assert list(catalogue) == ["a-v1"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"id": "a", "id": "b", "name": "n", "layer": 1}', "id"),
        (
            '{"id": "a", "name": "n", "layer": 1, "input_schema": {"allOf": [{"type": "object", "type": "array"}]}}',
            "input_schema.allOf.0.type",
        ),
    ],
)
def test_keys_written_twice_are_bad_entries(path: Path, text: str, field: str) -> None:
    """JSON lets a key stand twice and the last wins in silence; here it is a problem of the entry, however deep."""
    path.write_text(f'{{"catalogue": 1, "skills": [{text}]}}')
    [problem] = read_catalogue(path, skip_bad=True).problems
    assert (problem.field, problem.reason) == (field, f"{field.split('.')[-1]!r} stands twice: keep one")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1, column 1: .*end too early"),
        (b'{"catalogue": 1,\n "skills": [{"id": "a"', r"line 2, column 23: .*end too early"),
        (b'{"catalogue": 1,\n "skills": [}]}', r"line 2, column 13: Expecting value$"),
        (b'{"catalogue": 1, "skills": [NaN]}', "holds NaN"),
        (b'{"catalogue": 1, "skills": ["\xe9"]}', "byte 29 is not UTF-8"),
        (b"[]", "no catalogue"),
        (b'{"skills": []}', "catalogue=None is a version that is not known"),
        (b'{"catalogue": 2, "skills": []}', "catalogue=2 is a version"),
        (b'{"catalogue": true, "skills": []}', "catalogue=True is a version"),
        (b'{"catalogue": 1}', "skills=None must be a list"),
        (b'{"catalogue": 1, "skills": {}}', "must be a list"),
        (b'{"catalogue": 1, "skills": [], "skills": []}', "skills stands twice"),
        (b'{"catalogue": 1, "skills": [], "extra": 1}', "extra is not known"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"catalogue": ' + b"9" * 5000 + b"}", "integer string conversion"),
    ],
)
def test_files_that_are_no_catalogue(path: Path, data: bytes, message: str) -> None:
    """A file that is not UTF-8, not whole, not JSON, or of another make is refused as a whole, even with skip_bad."""
    path.write_bytes(data)
    for skip_bad in (False, True):
        with pytest.raises(CatalogueError, match=message) as caught:
            read_catalogue(path, skip_bad=skip_bad)
        assert str(caught.value).startswith(f"{path}: ")
        assert caught.value.problems == ()


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file and a folder are errors that name the path as it was given."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatalogueError, match=r"^none.json: cannot be read: No such file"):
        read_catalogue("none.json")
    with pytest.raises(CatalogueError, match=r"^\.: cannot be read: Is a directory"):
        read_catalogue(os.curdir)


def test_a_byte_order_mark_is_allowed(path: Path) -> None:
    """A file that an editor saved with a mark is read."""
    write(path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read_catalogue(path)) == ["a-v1"]


def test_problems_travel(path: Path) -> None:
    """The error, its problems included, survives pickling, as between processes."""
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(write(path, 1))
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.problems) == (str(caught.value), caught.value.problems)


def test_reading_imports_nothing(path: Path) -> None:
    """A catalogue may name modules that are not installed: they are imported when the skill is loaded."""
    assert list(read_catalogue(write(path, {**GOOD, "handler": "no.such.module:function"}))) == ["a-v1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = st.text("abcé ß", min_size=1, max_size=6).filter(str.strip)
LITERAL = st.text(st.characters(exclude_characters="{}\0", exclude_categories=["Cs"]), max_size=4)
HANDLERS = {
    1: st.sampled_from(["textwrap:dedent", None]),
    2: st.builds(lambda rest: CommandHandler(argv=("x", *rest)), st.lists(LITERAL, max_size=3))
    | st.builds(lambda value: ScriptHandler(source=f"def run(params): return {value!r}"), st.text()),
    3: st.builds(
        lambda method, body, query: HttpHandler(method=method, url="http://127.0.0.1/{x}", body=body, query=query),
        st.sampled_from(["GET", "POST"]),
        JSON,
        st.dictionaries(st.text(max_size=3), JSON, max_size=2),
    ),
}


@st.composite
def definitions(draw: st.DrawFn) -> SkillDefinition:
    layer = draw(st.sampled_from([1, 2, 3]))
    number = draw(st.integers(0, 10**6))
    return SkillDefinition(
        id=f"skill-{number}",
        name=f"{draw(NAMES)} {number}",
        layer=layer,
        version=draw(NAMES),
        handler=draw(HANDLERS[layer]),
        tags=tuple(draw(st.lists(NAMES, max_size=3))),
        input_schema=draw(st.none() | st.builds(lambda value: {"const": value, "examples": [value]}, JSON)),
        resource_limits=draw(
            st.none() | st.builds(lambda size: ResourceLimits(max_memory=size), st.integers(1, 10**12))
        ),
        resource_requirements=ResourceRequirements(cpu=draw(st.sampled_from(["none", "low", "medium", "high"]))),
        cacheable=draw(st.booleans()),
        cache_key=draw(st.none() | st.just("input.hash")),
    )


@pytest.mark.slow
@given(st.lists(definitions(), max_size=4, unique_by=lambda definition: definition.id))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, skills: list[SkillDefinition]) -> None:
    """Any definitions come back equal and in order."""
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    write_catalogue(path, skills)
    catalogue = read_catalogue(path)
    assert isinstance(catalogue, Catalogue)
    assert list(catalogue.values()) == skills


def test_what_cannot_be_written_is_refused(path: Path) -> None:
    """A function as cache_key or inside another function is no JSON; the file that was there stays as it was."""
    path.write_text("before")

    @skill(id="inner")
    def inner() -> int:
        """Cannot be imported."""
        return 1

    with pytest.raises(InvalidValueError, match=r"<locals>.*could not be imported elsewhere"):
        write_catalogue(path, [inner.definition])
    with pytest.raises(InvalidValueError, match=r"cache_key=.* cannot be written"):
        write_catalogue(path, [SkillDefinition(**GOOD, cache_key=len)])
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == [path.name]


def test_the_built_in_skills() -> None:
    """Six skills of layer 1, each by its id, none of which can be changed."""
    skills = builtin()
    assert list(skills) == [f"{name.replace('_', '-')}-v1" for name in BUILT_IN]
    assert all(
        definition.layer == 1 and definition.category and definition.tags and definition.description
        for definition in skills.values()
    )
    with pytest.raises(TypeError, match="frozen"):
        skills["x"] = skills["checksum-v1"]  # type: ignore[index]
