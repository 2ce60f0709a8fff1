"""Functions and scripts: the bytes of a call become those of an answer."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from typing import Any

import cloudpickle
import pytest

from skilllab.programs.kinds import Function, Script, dumps, map_chunks
from skilllab.programs.worker import UnsendableError


@pytest.fixture
def kept() -> Iterator[Callable[[Any], Any]]:
    """A function that closes the event loop of a function or script after the test, as the end of a worker does."""
    made: list[Any] = []

    def keep(kind: Any) -> Any:
        made.append(kind)
        return kind

    yield keep
    for kind in made:
        if kind._runner is not None:
            kind._runner.close()


@pytest.fixture
def function(kept: Callable[[Any], Any]) -> Callable[[Any], Function]:
    """A function that has another one travel: by reference where it is a text, else by value."""

    def travel(what: Any) -> Function:
        reference = what if isinstance(what, str) else ""
        content = b"" if reference else cloudpickle.dumps(what)
        return kept(Function({"reference": reference}, content))  # type: ignore[no-any-return]

    return travel


@pytest.fixture
def script(kept: Callable[[Any], Any]) -> Callable[[str], Script]:
    def travel(source: str) -> Script:
        return kept(Script({"skill": "tested"}, textwrap.dedent(source).encode()))  # type: ignore[no-any-return]

    return travel


def call(kind: Function, **params: Any) -> Any:
    return pickle.loads(kind.call(pickle.dumps(params)))


def chunks(kind: Function, **params: Any) -> list[Any]:
    return [pickle.loads(chunk) for chunk in kind.stream(pickle.dumps(params))]


def run(kind: Script, params: Any = None) -> Any:
    return json.loads(kind.call(json.dumps(params or {}).encode()))


# functions


def test_a_function_by_reference(function: Callable[[Any], Function]) -> None:
    """A name finds the function of a module, one inside a class included."""
    assert call(function("textwrap:indent"), text="a", prefix="> ") == "> a"
    assert call(function("fractions:Fraction.limit_denominator"), self=Fraction(7, 5), max_denominator=2) == Fraction(
        3, 2
    )


def test_a_function_by_value(function: Callable[[Any], Function]) -> None:
    """What is nowhere to import travels with what it closes over and its defaults."""
    factor = 3

    def multiply(x: int, *, more: int = 1) -> int:
        return factor * x + more

    assert call(function(multiply), x=2) == 7
    assert call(function(lambda **params: params), a=1, b=None) == {"a": 1, "b": None}


@pytest.mark.parametrize("name", ["textwrap:gone", "no_such_module_anywhere:run", "textwrap:dedent.more"])
def test_a_function_that_is_not_there(function: Callable[[Any], Function], name: str) -> None:
    """A name that leads nowhere raises the error of the import."""
    with pytest.raises((ImportError, AttributeError)):
        function(name)


def test_an_async_function(function: Callable[[Any], Function]) -> None:
    """A coroutine is awaited, in a loop that is there before the first call and serves all calls."""

    async def add(x: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return x + 1, id(asyncio.get_running_loop())

    kind = function(add)
    loop = id(kind._runner.get_loop())  # type: ignore[union-attr]
    assert [call(kind, x=n) for n in (1, 2)] == [(2, loop), (3, loop)]


def test_an_awaitable_that_a_function_returns(function: Callable[[Any], Function]) -> None:
    """What a plain function returns is awaited where it can be, a coroutine or not."""

    class Later:
        def __await__(self) -> Iterator[Any]:
            yield from asyncio.sleep(0).__await__()
            return "later"

    async def soon() -> str:
        return "soon"

    def start() -> Any:
        return soon()

    assert call(function(Later)) == "later"
    assert call(function(start)) == "soon"


def test_a_plain_function_needs_no_loop(function: Callable[[Any], Function]) -> None:
    """No event loop is made for what never asks for one."""
    kind = function(lambda: 1)
    assert call(kind) == 1
    assert kind._runner is None


def test_a_generator(function: Callable[[Any], Function]) -> None:
    """Each value is a chunk, made when it is asked for."""
    made = []

    def count(n: int) -> Iterator[int]:
        for each in range(n):
            made.append(each)
            yield each

    kind = function("textwrap:dedent")
    kind._function = count
    stream = kind.stream(pickle.dumps({"n": 3}))
    assert pickle.loads(next(stream)) == 0
    assert made == [0]
    assert [pickle.loads(chunk) for chunk in stream] == [1, 2]


def test_an_async_generator(function: Callable[[Any], Function]) -> None:
    """An asynchronous generator gives its chunks in the same way."""

    async def count(n: int) -> AsyncIterator[int]:
        for each in range(n):
            await asyncio.sleep(0)
            yield each

    assert chunks(function(count), n=3) == [0, 1, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_that_is_closed_closes_its_source(function: Callable[[Any], Function], asynchronous: bool) -> None:
    """Whoever has enough has the generator cleaned up, and what it raises then comes out."""
    closed = []

    def plain() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("plain")

    async def other() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("async")

    kind = function("textwrap:dedent")
    kind._function = other if asynchronous else plain
    stream = kind.stream(pickle.dumps({}))
    assert pickle.loads(next(stream)) == 1
    stream.close()  # type: ignore[attr-defined]
    assert closed == ["async" if asynchronous else "plain"]


def test_what_cannot_be_pickled_is_the_skills_error(function: Callable[[Any], Function]) -> None:
    """An output that no pickle can hold raises."""
    with pytest.raises(TypeError, match="cannot pickle"):
        call(function(lambda: (each for each in ())))


def test_an_error_travels_whole(function: Callable[[Any], Function]) -> None:
    """What is told of an error comes with the error itself, its arguments and fields included."""
    error = OSError(2, "No such file", "/gone")
    told, cause = pickle.loads(function("textwrap:dedent").failure(error, {"type": "OSError"}))
    assert told == {"type": "OSError"}
    assert (type(again := pickle.loads(cause)), again.args, again.filename) == (
        FileNotFoundError,
        (2, "No such file"),
        "/gone",
    )


class NeedsMore(Exception):  # noqa: N818 - what matters is its signature
    def __init__(self, one: int, *, other: int) -> None:
        super().__init__(one)


@pytest.mark.parametrize("error", [NeedsMore(1, other=2), ValueError(lambda: 1), MemoryError(), None])
def test_an_error_that_cannot_travel_is_told_only(function: Callable[[Any], Function], error: Any) -> None:
    """An error that cannot be pickled and read again comes back as what is told of it, and so does one of memory."""
    told, cause = pickle.loads(function("textwrap:dedent").failure(error, {"type": "E"}))
    assert told == {"type": "E"}
    if not isinstance(error, ValueError):  # a function travels by value
        assert cause is None


def test_values_of_a_notebook_travel_by_value() -> None:
    """Plain values are pickled plainly, and what only this process defines travels with its definition."""
    assert dumps({"a": [1, None]}) == pickle.dumps({"a": [1, None]}, protocol=5)

    class Local:
        x = 5

    assert pickle.loads(dumps(Local())).x == 5
    assert pickle.loads(dumps(lambda: 7))() == 7


def test_resting_size_and_descriptors_are_those_of_this_process(function: Callable[[Any], Function]) -> None:
    """The resting size is the address space in bytes, and the descriptors are those open before, not the one that looks."""
    kind = function("textwrap:dedent")
    with open("/proc/self/status", encoding="ascii") as file:
        size = next(int(row.split()[1]) * 1024 for row in file if row.startswith("VmSize"))
    assert abs(kind.resting() - size) < 16 << 20
    read, write = os.pipe()
    before = kind.descriptors()
    os.close(read)
    os.close(write)
    assert before - kind.descriptors() == {read, write}


# scripts


def test_a_script_gets_and_gives_json(script: Callable[[str], Script]) -> None:
    """Parameters come as JSON values, and what `run` returns goes out as one, in UTF-8."""
    params = {"text": "ä€𝄞\ud800", "list": [1, 2.5, None, True], "object": {}}
    assert run(script("def run(params): return params"), params) == params
    assert script("def run(params): return 'ä'").call(b"{}") == '"ä"'.encode()


@pytest.mark.parametrize("output", ["{1, 2}", "object()", "b'bytes'", "{(1, 2): 3}", "deep()"])
def test_what_is_no_json_is_told(script: Callable[[str], Script], output: str) -> None:
    """An output that is no JSON is told as such, with what to return instead."""
    source = f"""
        def deep():
            inner = []
            inner.append(inner)
            return inner
        def run(params):
            return {output}
    """
    with pytest.raises(
        UnsendableError, match=r"its output is no JSON.*return texts, numbers, lists and dicts"
    ) as caught:
        run(script(source))
    assert caught.value.said["limit"] is None


def test_an_async_script(script: Callable[[str], Script]) -> None:
    """An async run is awaited, in a loop that is made before its first call."""
    kind = script(
        """
        import asyncio
        async def run(params):
            await asyncio.sleep(0)
            return params["x"] + 1
        """
    )
    assert kind._runner is not None
    assert [run(kind, {"x": n}) for n in (1, 2)] == [2, 3]


def test_a_run_by_another_name(script: Callable[[str], Script]) -> None:
    """Where `run` is another name of an async function, a loop is made when it is needed."""
    kind = script("async def other(params): return 1\nrun = other")
    assert (run(kind), run(kind)) == (1, 1)


@pytest.mark.parametrize("form", ["def", "async def"])
def test_a_script_that_streams(script: Callable[[str], Script], form: str) -> None:
    """A generator's values are chunks of JSON, and one that is no JSON is told."""
    source = f"{form} run(params):\n    for each in params['all']:\n        yield each"
    assert list(script(source).stream(b'{"all": [1, "a", null]}')) == [b"1", b'"a"', b"null"]
    with pytest.raises(UnsendableError):
        list(script(f"{form} run(params):\n    yield b''").stream(b"{}"))


def test_what_stands_around_run_runs_with_the_first_call(script: Callable[[str], Script]) -> None:
    """Code of the script runs neither when it is loaded nor again with the second call."""
    kind = script(
        """
        import os
        loaded = os.environ["skilllab-test"]
        def run(params):
            global loaded
            loaded += "."
            return loaded
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("skilllab-test", "first")
        assert run(kind) == "first."
        patch.setenv("skilllab-test", "second")
        assert run(kind) == "first.."


def test_what_fails_around_run_is_tried_again(script: Callable[[str], Script]) -> None:
    """An error of the code around `run` is the call's error, and the next call begins anew."""
    kind = script('import os\nfirst = os.environ["skilllab-test"]\ndef run(params): return first')
    with pytest.raises(KeyError):
        run(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("skilllab-test", "there")
        assert run(kind) == "there"


def test_a_script_that_is_no_python(script: Callable[[str], Script]) -> None:
    """What cannot be compiled fails when it is loaded, and names the skill in place of a file."""
    with pytest.raises(SyntaxError) as caught:
        script("def run(:")
    assert caught.value.filename == "<tested>"


def test_a_script_does_not_see_what_ran_before(script: Callable[[str], Script]) -> None:
    """Two scripts share no names, and none is called __main__."""
    script("x = 1\ndef run(params): return 1").call(b"{}")
    assert run(script("def run(params): return 'x' in globals() or __name__ == '__main__'")) is False


def test_a_script_is_a_module_like_any_other(script: Callable[[str], Script]) -> None:
    """What looks its module up works in it: data classes with annotations as texts, type hints and pickle."""
    kind = script(
        """
        from __future__ import annotations
        import pickle
        import typing
        from dataclasses import dataclass
        @dataclass
        class Point:
            x: int
            y: typing.ClassVar[int] = 2
        def run(params):
            again = pickle.loads(pickle.dumps(Point(**params)))
            return [again.x, typing.get_type_hints(Point)["x"].__name__]
        """
    )
    assert run(kind, {"x": 5}) == [5, "int"]


def test_an_error_of_a_script_is_told_as_json(script: Callable[[str], Script]) -> None:
    """Nothing of a script's error but what is told of it leaves the worker."""
    kind = script("def run(params): return 1")
    assert json.loads(kind.failure(ValueError(object()), {"type": "ValueError"})) == {"type": "ValueError"}


def test_chunks_are_turned_one_by_one() -> None:
    """What turns chunks into bytes closes their source when it is closed, and asks for none ahead."""
    closed = []

    def source() -> Iterator[int]:
        try:
            yield 1
            raise AssertionError("asked for ahead")
        finally:
            closed.append(True)

    turned = map_chunks(str, source())
    assert next(turned) == "1"
    turned.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert list(map_chunks(str, iter([1, 2]))) == ["1", "2"]
