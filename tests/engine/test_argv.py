"""Arguments and standard input of a command: parameters stay where their placeholders stand."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.engine.argv import arguments, standard_input
from skilllab.errors import InvalidParametersError
from skilllab.model import CommandHandler


def filled(*argv: str, **params: Any) -> list[str]:
    """The arguments after the program."""
    program, *rest = arguments(CommandHandler(argv=("x", *argv)), params, "s")
    assert program == "x"
    return rest


def read(stdin: str | None, **params: Any) -> str | None:
    return standard_input(CommandHandler(argv=("x",), stdin=stdin), params, "s")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("a b; $(rm) * \n'\"", "a b; $(rm) * \n'\""),
        ("{b}", "{b}"),
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (-5, "-5"),
        (1.5, "1.5"),
        (-1e300, "-1e+300"),
        (2.0, "2.0"),
        ("ä\U0001f600", "ä\U0001f600"),
    ],
)
def test_values(value: Any, text: str) -> None:
    """A text is itself, other values are written as in JSON; alone, within a text and in standard input alike."""
    assert filled("{a}", a=value) == [text]
    assert filled("--a={a}.", a=value) == [f"--a={text}."]
    assert (read("{a}", a=value), read("<{a}>", a=value)) == (text, f"<{text}>")
    if not isinstance(value, str):
        assert text == json.dumps(value)


@pytest.mark.parametrize(
    ("argv", "params", "expected"),
    [
        (["-l"], {}, ["-l"]),
        (["{{a}}", "{{{a}}}"], {"a": 1}, ["{a}", "{1}"]),
        (["{a}", "{b}"], {"a": ["x", 1, True], "b": []}, ["x", "1", "true"]),
        (["{a}", "z"], {"a": ("x", None, "y")}, ["x", "y", "z"]),
        (["{a}", "{b}", "z"], {"a": None}, ["z"]),
        (["{a}{b}", "{a}"], {"a": "x", "b": "y"}, ["xy", "x"]),
        (["{a}"], {"a": "x", "other": {}}, ["x"]),
    ],
)
def test_items(argv: list[str], params: dict[str, Any], expected: list[str]) -> None:
    """A placeholder alone is several arguments for a list, and none for null and what is not given."""
    assert filled(*argv, **params) == expected


def test_the_program_is_as_it_is_written() -> None:
    """Doubled braces are braces there too."""
    assert arguments(CommandHandler(argv=("./a{{b}}",)), {}, "s") == ["./a{b}"]


@pytest.mark.parametrize(
    ("template", "value", "message"),
    [
        ("{a}", {"x": 1}, "it must be a text, a number, true or false here, not {'x': 1}"),
        ("{a}", [["x"]], "it must be a text, a number, true or false here, not ['x']"),
        ("{a}", float("nan"), "it must be a text, a number, true or false here, not nan"),
        ("{a}", [float("inf")], "it must be a text, a number, true or false here, not inf"),
        ("{a}", "x\0", "it holds a NUL, which no command can be given: take it out"),
        ("{a}", ["x", "\0"], "it holds a NUL, which no command can be given: take it out"),
        ("{a}", "\ud800", "it holds half a character, which no command can be given: take it out"),
        ("-{a}", None, "it must be a text, a number, true or false here, not None"),
        ("-{a}", ["x"], "it must be a text, a number, true or false here, not ['x']"),
        ("-{a}", "\0", "it holds a NUL, which no command can be given: take it out"),
    ],
)
def test_a_value_that_is_no_argument_is_refused(template: str, value: Any, message: str) -> None:
    """What has no text, or one that no program can be started with, is an error with the parameter's path."""
    with pytest.raises(InvalidParametersError) as caught:
        filled(template, a=value)
    assert str(caught.value) == f"s: parameters at /a: {message}"
    assert (caught.value.skill_id, caught.value.path) == ("s", "/a")


def test_a_missing_parameter_within_a_text() -> None:
    """A text cannot do without it, in argv and in standard input alike."""
    for call in (lambda: filled("--a={a}"), lambda: read("<{a}>")):
        with pytest.raises(InvalidParametersError) as caught:
            call()
        assert str(caught.value) == "s: parameters at /a: it is missing, and the command needs it: give 'a'"
        assert caught.value.path == "/a"


# options


@pytest.mark.parametrize(
    ("argv", "params"),
    [
        (["{a}"], {"a": "-rf"}),
        (["{a}"], {"a": "-"}),
        (["{a}"], {"a": "--"}),
        (["{a}"], {"a": "-5"}),
        (["{a}"], {"a": ["x", "-rf"]}),
        (["{a}.txt"], {"a": "-rf"}),
        (["{a}{b}"], {"a": "", "b": "-rf"}),
        (["{a}", "--"], {"a": "-rf"}),
        (["---", "-- ", "{a}"], {"a": "-rf"}),
    ],
)
def test_a_value_cannot_become_an_option(argv: list[str], params: dict[str, Any]) -> None:
    """An argument that begins with a parameter does not begin with "-"; the error says how to write the command."""
    with pytest.raises(InvalidParametersError, match="could be taken for an option") as caught:
        filled(*argv, **params)
    assert 'put "--" before it in argv, or write it as "--name={value}"' in str(caught.value)
    assert caught.value.path == "/a"


@pytest.mark.parametrize(
    ("argv", "params", "expected"),
    [
        (["--", "{a}", "{a}.txt"], {"a": "-rf"}, ["--", "-rf", "-rf.txt"]),
        (["{b}", "--", "{a}"], {"a": ["-x", "--"]}, ["--", "-x", "--"]),
        (["--name={a}"], {"a": "-rf"}, ["--name=-rf"]),
        (["-n{a}"], {"a": "-5"}, ["-n-5"]),
        (["{a}", "{a}/{b}"], {"a": -5, "b": -1.5}, ["-5", "-5/-1.5"]),
        (["{a}"], {"a": "a-b"}, ["a-b"]),
    ],
)
def test_values_with_a_dash_where_they_cannot_be_options(
    argv: list[str], params: dict[str, Any], expected: list[str]
) -> None:
    """After "--" and within an option a value may begin with "-"; a negative number may anywhere."""
    assert filled(*argv, **params) == expected


def test_a_long_value_is_cut_in_the_message() -> None:
    """A megabyte as a parameter does not make a message of a megabyte."""
    for value in ("-" * 10**6, {"x": "y" * 10**6}):
        with pytest.raises(InvalidParametersError) as caught:
            filled("{a}", a=value)
        assert len(str(caught.value)) < 300


# standard input


@pytest.mark.parametrize(
    ("stdin", "params", "expected"),
    [
        (None, {"a": "x"}, None),
        ("", {}, ""),
        ("plain {{}}\n", {}, "plain {}\n"),
        ("{a}", {}, None),
        ("{a}", {"a": None}, None),
        ("{a}", {"a": "-rf"}, "-rf"),
        ("{a}\n{b}\n", {"a": 1, "b": False}, "1\nfalse\n"),
    ],
)
def test_standard_input(stdin: str | None, params: dict[str, Any], expected: str | None) -> None:
    """It is a text with the parameters in it; None where there is none, or it is one parameter that is not given."""
    assert read(stdin, **params) == expected


@pytest.mark.parametrize("value", [["x"], {"x": 1}, "\0", "\ud800", float("nan")])
def test_a_value_that_cannot_be_read_is_refused(value: Any) -> None:
    """Standard input is one text, so that lists and objects have no place in it."""
    with pytest.raises(InvalidParametersError, match="s: parameters at /a: it ") as caught:
        read("{a}", a=value)
    assert caught.value.path == "/a"


# what the program gets


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(TEXT, max_size=3), TEXT)
def test_any_text_stays_in_its_place(items: list[str], text: str) -> None:
    """After "--" the arguments are the values, one for one, whatever they hold."""
    assert filled("--", "{items}", "={text}", items=items, text=text) == ["--", *items, f"={text}"]


@pytest.mark.slow
def test_a_program_gets_what_was_given() -> None:
    """A real process finds each value as one argument: nothing expands or splits it."""
    values = ["a b", "$HOME", "*", "`id`", "", "-x", "ä\n'\""]
    code = "import json, sys; print(json.dumps([sys.argv[1:], sys.stdin.read()]))"
    handler = CommandHandler(argv=(sys.executable, "-X", "utf8", "-c", code, "--", "{values}"), stdin="{first};{last}")
    params = {"values": values, "first": values[0], "last": values[-1]}
    argv, stdin = arguments(handler, params, "s"), standard_input(handler, params, "s")
    done = subprocess.run(argv, input=stdin, capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert json.loads(done.stdout) == [["--", *values], f"{values[0]};{values[-1]}"]
