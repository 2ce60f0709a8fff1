"""From a definition to something that runs."""

from __future__ import annotations

import copy
import dataclasses
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from skilllab.errors import HandlerNotRunnableError, InvalidDefinitionError, InvalidParametersError
from skilllab.loading import Validation, check, compile_schemas, import_function, load
from skilllab.model import CommandHandler, FunctionHandler, SkillDefinition


class Tool:
    """Something with a method to point at."""

    @staticmethod
    def work(x: int) -> int:
        return x


def definition(**fields: Any) -> SkillDefinition:
    return SkillDefinition(**{"id": "a", "name": "a", "layer": 1, "handler": "textwrap:dedent", **fields})


def test_a_loaded_skill_has_its_function_and_validators() -> None:
    """Loading imports the function and compiles both schemas; the revision is kept; a deep copy is the skill itself."""
    loaded = load(definition(input_schema={"type": "object"}, output_schema={"type": "string"}), 7)
    assert loaded.function is not None
    assert loaded.function("  a") == "a"
    assert loaded.revision == 7
    with pytest.raises(InvalidParametersError, match="a: parameters"):
        loaded.check_input([])
    assert loaded.check_output is not None
    with pytest.raises(InvalidParametersError, match="a: output"):
        loaded.check_output(5)
    assert copy.deepcopy(loaded) is loaded
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.revision = 8  # type: ignore[misc]


def test_without_an_output_schema_outputs_are_not_checked() -> None:
    """No output schema, no validator; no input schema, one that accepts all."""
    loaded = load(definition(), 1)
    assert loaded.check_output is None
    assert loaded.check_input({"anything": 1}) is None


def test_other_handlers_load_without_a_function() -> None:
    """A command is loaded for its schemas; there is nothing to import."""
    assert load(definition(layer=2, handler=CommandHandler(argv=("true",))), 1).function is None
    assert load(definition(handler=None), 1).function is None


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module_here:f", "No module named 'no_such_module_here'"),
        ("textwrap:no_such_function", "has no attribute 'no_such_function'"),
        ("textwrap:dedent.deeper", "has no attribute 'deeper'"),
        ("textwrap.dedent:f", "No module named"),
        ("math:pi", "'math:pi' is float, not a function"),
        ("__main__:f.<locals>.g", "cannot be imported"),
        (".:f", "cannot be imported"),
        ("..a:f", "cannot be imported"),
    ],
)
def test_what_cannot_be_imported_is_refused(target: str, reason: str) -> None:
    """A missing module, a missing name and what is no function are errors that name the target."""
    with pytest.raises(HandlerNotRunnableError, match=reason) as caught:
        load(definition(handler=target), 1)
    assert repr(target) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "its module raised ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "its module raised SystemExit: 3"),
        ("def f(:", "its module raised SyntaxError"),
        ("import not_there_either", "No module named 'not_there_either'"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    """Whatever a module does while it is imported, sys.exit() included, is an error of the skill and not of the program."""
    (tmp_path / "broken_module_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(HandlerNotRunnableError, match=reason):
        load(definition(handler="broken_module_of_a_test:f"), 1)
    assert "broken_module_of_a_test" not in sys.modules


def test_a_given_callable_wins_over_its_name() -> None:
    """A handler that carries its callable needs no import; a qualified name reaches into a class."""
    assert import_function("nowhere:at_all", len, "a") is len
    assert import_function("pathlib:Path.exists", None, "a") is Path.exists


def test_a_batch_function_is_loaded_with_its_function() -> None:
    """The function that answers many calls is imported like the other, and missing when none is declared."""
    handler = FunctionHandler(target="textwrap:dedent", batch="textwrap:wrap")
    assert load(definition(handler=handler), 1).batch is textwrap.wrap
    assert load(definition(), 1).batch is None


@pytest.mark.parametrize(("field", "of"), [("input_schema", "input_schema"), ("output_schema", "output_schema")])
def test_a_bad_schema_is_refused(field: str, of: str) -> None:
    """A schema that is not valid is an error with its field."""
    with pytest.raises(InvalidDefinitionError) as caught:
        compile_schemas(definition(**{field: {"type": "text"}}))
    assert caught.value.field == of


def test_check_returns_what_load_would_raise() -> None:
    """check gives the problems as texts; a definition that loads has none."""
    assert check(definition(), 3) == Validation("a", 3)
    assert check(definition(), 3).valid
    for wrong, reason in (
        (definition(handler="no.such:f"), "cannot be imported"),
        (definition(input_schema={"type": "text"}), "no valid JSON Schema"),
        (definition(handler=None), "no handler"),
    ):
        validation = check(wrong, 3)
        assert not validation.valid
        [problem] = validation.problems
        assert reason in problem
        assert copy.deepcopy(validation) is validation
    both = check(definition(handler=None, output_schema={"type": "text"}), 1)
    assert len(both.problems) == 2
