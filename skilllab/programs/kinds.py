"""Functions and scripts in a worker: each loads once, then turns the bytes of a call into those of an answer."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import pickle
import sys
import traceback  # noqa: F401 - for the worker, which needs it when something has failed already
import types
from collections.abc import Iterator, Mapping
from typing import Any

from skilllab.programs import rlimits
from skilllab.programs.worker import UnsendableError

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LARGEST_CAUSE = 1 << 20
_END = object()
_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _Python:
    """What functions and scripts have in common: Python that runs in the worker itself."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def resting(self) -> int:
        """Returns the bytes of address space that the worker has before it runs anything."""
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * _PAGE

    def descriptors(self) -> set[int]:
        """Returns the descriptors that are open before the skill runs."""
        listing = os.open("/proc/self/fd", os.O_RDONLY)
        taken = set(map(int, os.listdir(listing))) - {listing}
        os.close(listing)
        return {number for number in taken if _is_open(number)}

    def hold(self, limits: Mapping[str, Any]) -> None:
        """Sets the limits on the worker."""
        rlimits.hold(limits)

    def _prepare(self, flags: int) -> None:
        """Makes the event loop now for what is going to need one, so that its descriptors are not the skill's."""
        if flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            self._runner = asyncio.Runner()
            self._runner.get_loop()

    def _awaited(self, awaitable: Any) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(awaitable if inspect.iscoroutine(awaitable) else _await(awaitable))

    def _output(self, value: Any) -> Any:
        return self._awaited(value) if inspect.isawaitable(value) else value

    def _chunks(self, made: Any) -> Iterator[Any]:
        """Yields the chunks of a generator, asynchronous or not."""
        if not hasattr(made, "__anext__"):
            yield from made
            return
        try:
            while (chunk := self._awaited(_next(made))) is not _END:
                yield chunk
        finally:
            self._awaited(made.aclose())


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def _await(awaitable: Any) -> Any:
    return await awaitable


async def _next(chunks: Any) -> Any:
    try:
        return await chunks.__anext__()
    except StopAsyncIteration:
        return _END


class Function(_Python):
    """A function, by reference or pickled by value. Arguments, answers and errors are pickled."""

    def __init__(self, load: Mapping[str, Any], content: bytes) -> None:
        super().__init__()
        if load["reference"]:
            module, _, name = load["reference"].partition(":")
            self._function: Any = importlib.import_module(module)
            for part in name.split("."):
                self._function = getattr(self._function, part)
        else:
            self._function = pickle.loads(content)
        self._prepare(getattr(getattr(self._function, "__code__", None), "co_flags", 0))

    def call(self, body: bytes) -> bytes:
        """Returns the pickled output of the function for pickled keywords."""
        return dumps(self._output(self._function(**pickle.loads(body))))

    def stream(self, body: bytes) -> Iterator[bytes]:
        """Yields the pickled chunks of a generator function."""
        return map_chunks(dumps, self._chunks(self._function(**pickle.loads(body))))

    def failure(self, error: BaseException | None, told: dict[str, Any]) -> bytes:
        """Returns what is told of an error, with the error itself if it can be pickled and read again."""
        cause = None
        if error is not None and not isinstance(error, MemoryError):
            try:
                cause = dumps(error)
                pickle.loads(cause)
                cause = cause if len(cause) <= _LARGEST_CAUSE else None
            except Exception:  # noqa: BLE001 - what keeps a foreign error from travelling is foreign code
                cause = None
        return pickle.dumps((told, cause))


class Script(_Python):
    """Python source that defines run(params). Parameters and answers are JSON: nothing from inside is unpickled outside."""

    def __init__(self, load: Mapping[str, Any], content: bytes) -> None:
        super().__init__()
        self._code: Any = compile(content, f"<{load['skill']}>", "exec", dont_inherit=True)
        self._run: Any = None
        for constant in self._code.co_consts:
            if getattr(constant, "co_name", "") == "run":
                self._prepare(constant.co_flags)

    def call(self, body: bytes) -> bytes:
        """Returns the output of run(params) as JSON."""
        return _json(self._output(self._function()(json.loads(body))))

    def stream(self, body: bytes) -> Iterator[bytes]:
        """Yields the chunks of run(params) as JSON."""
        return map_chunks(_json, self._chunks(self._function()(json.loads(body))))

    def failure(self, error: BaseException | None, told: dict[str, Any]) -> bytes:
        """Returns what is told of an error as JSON."""
        return json.dumps(told).encode()

    def _function(self) -> Any:
        """Returns `run`; what stands around it runs with the first call, within its limits."""
        if self._run is None:
            module = types.ModuleType("__skill__")
            sys.modules[module.__name__] = module  # where dataclasses, pickle and typing look for it
            exec(self._code, module.__dict__)
            self._run = module.__dict__["run"]
        return self._run


def map_chunks(function: Any, chunks: Iterator[Any]) -> Iterator[bytes]:
    """Yields the chunks as bytes; closes their source when it is closed."""
    try:
        for chunk in chunks:
            yield function(chunk)
    finally:
        getattr(chunks, "close", lambda: None)()


def dumps(value: Any) -> bytes:
    """Returns the value pickled: by reference where that works, by value for what a notebook defined."""
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        import cloudpickle

        pickled: bytes = cloudpickle.dumps(value)
        return pickled


def _json(value: Any) -> bytes:
    try:
        return _encoded(value).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsendableError(
            {
                "type": type(error).__name__,
                "message": f"its output is no JSON: {error}; return texts, numbers, lists and dicts",
                "limit": None,
                "trace": "",
            }
        ) from None
