"""Load tests in a process of their own: its event loop, interpreter lock and clock are nobody else's.

What travels there: the skill's definition with its function (by reference where it can be imported, else pickled by
value), the engine's options and the scenario. What comes back, four times a second: the requests that have ended. The
process ends with `aclose`, when this one dies, and after a stop: by itself within 60 ms, or killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import cloudpickle

from skilllab.engine import LayeredExecutionEngine
from skilllab.engine.confined import by_value
from skilllab.engine.workers.rooms import PACKAGE
from skilllab.errors import InvalidValueError, SkilllabError, WorkerLostError
from skilllab.experiments.loadtest.generator import Ending
from skilllab.experiments.loadtest.records import Progress, Requests
from skilllab.experiments.loadtest.result import LoadTestResult
from skilllab.experiments.loadtest.scenario import Scenario
from skilllab.frozen import FrozenDict
from skilllab.model import FunctionHandler
from skilllab.programs.values import Values, pack

_BOOT = "import sys; sys.path.insert(0, {!r}); from skilllab.experiments.loadtest.program import main; main()"
_START = 60.0  # s that the process may take to start: far beyond any import
_GRACE = 0.06  # s between the SIGTERM of a stop and the SIGKILL
_LOOK = 0.002  # s between two looks whether the process has ended


async def run_in_child(
    engine: LayeredExecutionEngine,
    scenario: Scenario,
    requests: Requests | None = None,
    *,
    stop: asyncio.Event | None = None,
    on_progress: Progress | None = None,
) -> LoadTestResult:
    """Runs a scenario in a child and returns what it measured.

    requests: where they are collected, so that they are kept whatever happens. stop: ends all work within 150 ms: SIGTERM,
    then SIGKILL; what was measured is kept. on_progress: told (seconds, requests) four times a second.
    Raises InvalidValueError for what cannot travel, SkillNotFoundError, WorkerLostError when the process ends before it has
    measured anything, and what the scenario's own code raises there.
    """
    found, begin = Requests() if requests is None else requests, time.time()
    async with Child(engine) as child:
        ending = await child.run(scenario, found, stop=stop, on_progress=on_progress)
    return LoadTestResult(scenario, found, ending, begin)


class Child:
    """A process with an engine like the given one, for one scenario after another; used with `async with`."""

    def __init__(self, engine: LayeredExecutionEngine) -> None:
        if engine.options.runners:
            raise InvalidValueError(
                f"the engine's own runners ({', '.join(engine.options.runners)}) do not travel to a process: "
                'leave where="process" out'
            )
        self._engine = engine
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._values: Values | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._begin: float | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process, None before its start and after its end."""
        return None if self._process is None else self._process.pid

    @property
    def elapsed(self) -> float:
        """Seconds since the begin of the scenario."""
        return 0.0 if self._begin is None else time.monotonic() - self._begin

    async def run(
        self,
        scenario: Scenario,
        requests: Requests,
        *,
        stop: asyncio.Event | None = None,
        on_progress: Progress | None = None,
    ) -> Ending:
        """Runs a scenario; `requests` has what ended, also when this is cancelled. Raises what `run_in_child` does."""
        message = sys.path, await _packed(self._engine, scenario)
        self._begin = None
        if self._process is None:
            await self._start()
        told = asyncio.create_task(self._listen(message, requests, on_progress))
        stopping = asyncio.create_task((stop or asyncio.Event()).wait())
        try:
            await asyncio.wait((told, stopping), return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                return await told
            return await self._stopped(told)
        except BaseException:
            await self._end(grace=0.0)
            raise
        finally:
            for task in (told, stopping):
                task.cancel()
            await asyncio.gather(told, stopping, return_exceptions=True)

    async def aclose(self) -> None:
        """Ends the process."""
        await self._end(grace=_GRACE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        watched, self._lifeline = os.pipe()
        argv = [sys.executable, "-c", _BOOT.format(str(PACKAGE.parent))]
        shared = (theirs.fileno(), watched)
        try:
            # A session of its own: Ctrl-C in a terminal is not for it. What skills print has nobody to read it.
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a few milliseconds, and it follows no thread
                [*argv, *map(str, shared), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=shared,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise WorkerLostError(f"the process of a load test cannot be started: {error}") from error
        finally:
            theirs.close()
            os.close(watched)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._values = Values(reader)

    async def _listen(self, message: tuple[Any, ...], requests: Requests, on_progress: Progress | None) -> Ending:
        """Sends the scenario, takes what comes, and returns how it ended; raises what it ended with."""
        assert self._writer is not None
        try:
            self._writer.write(pack(message))
            await self._writer.drain()
            async for kind, said in self._messages():
                if kind == "begin":
                    self._begin = time.monotonic()
                elif kind == "batch":
                    requests.extend(said)
                    if on_progress is not None:
                        on_progress(self.elapsed, requests)
                elif kind == "end":
                    ending: Ending = replace(said, apart=True)
                    return ending
                else:
                    raise _error(said)
        except ConnectionError:
            pass
        return await self._lost(requests)

    async def _messages(self) -> AsyncIterator[tuple[str, Any]]:
        assert self._values is not None
        while True:
            try:
                async with asyncio.timeout(_START if self._begin is None else None):
                    said = await self._values.read()
            except EOFError:
                return
            except TimeoutError:
                raise WorkerLostError(f"the process of a load test said nothing for {_START:g} s: ended") from None
            yield said

    async def _lost(self, requests: Requests) -> Ending:
        """Says that the process ended by itself; what it had measured stands."""
        seconds, process = self.elapsed, self._process
        await self._end(grace=_GRACE)
        status = None if process is None else process.returncode
        why = f"the process of the load test ended with status {status}"
        if not len(requests):
            raise WorkerLostError(f"{why} before it had measured anything", status=status)
        return Ending("aborted", seconds, why, apart=True, lost=True)

    async def _stopped(self, told: asyncio.Task[Ending]) -> Ending:
        """Ends the process: asks it first, so that it sends what it has measured."""
        seconds = self.elapsed
        assert self._process is not None
        self._process.terminate()
        await asyncio.wait((told,), timeout=_GRACE)
        done = told.done() and not told.cancelled() and told.exception() is None
        ending = told.result() if done else None
        await self._end(grace=0.0)
        return ending if ending is not None and ending.reason != "aborted" else Ending("stopped", seconds, apart=True)

    async def _end(self, grace: float) -> None:
        """Has the process end, by closing what it listens to, or by killing it after the grace; returns when it has."""
        process, self._process = self._process, None
        writer, self._writer = self._writer, None
        lifeline, self._lifeline = self._lifeline, None
        try:
            if writer is not None:
                writer.close()
            if process is not None and grace:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await _ended(process)
        finally:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
            if lifeline is not None:
                os.close(lifeline)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:  # noqa: ASYNC110 - no event tells it on every Python and system
        await asyncio.sleep(_LOOK)


async def _packed(engine: LayeredExecutionEngine, scenario: Scenario) -> bytes:
    """Returns what the other process needs; raises InvalidValueError when it cannot travel."""
    definition = (await engine.registry.load(scenario.skill_id)).definition
    handler, options = definition.handler, engine.options
    functions: list[Any] = [scenario.params] if callable(scenario.params) else []
    if isinstance(handler, FunctionHandler):
        functions += [each for each in (handler.function, handler.batch_function) if each is not None]
    if not getattr(handler, "leases", ()):
        options = options._replace(functions=replace(options.functions, pools=FrozenDict()))
    keeps = None if engine.results is None else engine.results.max_size
    try:
        with by_value(functions):
            pickled: bytes = cloudpickle.dumps((definition, options, keeps, scenario))
    except Exception as error:
        raise InvalidValueError(
            f'{scenario.skill_id}: where="process" takes what can be pickled, and its function, parameters or options '
            f"cannot: {type(error).__name__}: {error}; let the function make what it needs itself"
        ) from error
    return pickled


def _error(said: Any) -> BaseException:
    pickled, text = said
    try:
        error = pickle.loads(pickled)
    except Exception:  # noqa: BLE001 - an error whose class is only over there comes back as its text
        error = None
    return error if isinstance(error, Exception) else SkilllabError(f"the load test failed in its process: {text}")
