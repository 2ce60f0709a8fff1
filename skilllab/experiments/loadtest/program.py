"""The program of a load test's process: makes an engine as it is told, runs scenarios, and says what it measures."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
from typing import Any

import cloudpickle

from skilllab.cache.cache import SkillCache
from skilllab.engine import LayeredExecutionEngine
from skilllab.experiments.loadtest.generator import run
from skilllab.experiments.loadtest.records import Requests
from skilllab.model import HttpHandler
from skilllab.programs.lifeline import die_with
from skilllab.programs.values import Values, pack
from skilllab.registry import InMemorySkillRegistry

_EVERY = 0.25  # s between two batches
_PATIENCE = 0.02  # s that what was stopped may take to end; then it ends with this process


def main() -> None:
    """Serves whoever started this process, until they close the connection or die; SIGTERM stops a scenario."""
    sock, lifeline, parent = map(int, sys.argv[1:4])
    die_with(lifeline, parent)
    asyncio.run(_serve(socket.socket(fileno=sock)))


async def _serve(sock: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.transport.set_write_buffer_limits(0)  # what is drained is sent
    program = _Program(writer)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, program.terminate)
    values = Values(reader)
    following = asyncio.create_task(values.read())
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            sys.path[:], said = await following
            following = asyncio.create_task(values.read())
            scenario = asyncio.create_task(program.run(said))
            await asyncio.wait((scenario, following), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()  # raises where they are gone; a scenario follows as soon as the last has told its end
            await scenario
    # The supervisor of workers ends with this process, and all of them with it: nothing has to be waited for.
    os._exit(0)


class _Program:
    """One engine, and the scenario that runs on it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._engine: LayeredExecutionEngine | None = None
        self._made_of: bytes = b""
        self._requests = Requests()
        self._stop = asyncio.Event()
        self._running = False

    def terminate(self) -> None:
        """Stops the scenario; at once what it has measured is on its way."""
        if not self._running:
            os._exit(0)
        self._batch()
        self._stop.set()
        asyncio.get_running_loop().call_later(_PATIENCE, os._exit, 0)

    async def run(self, said: bytes) -> None:
        """Runs a scenario and says begin, batches, and the end or the error; leaves the process when it was stopped."""
        self._requests, self._stop, self._running = Requests(), asyncio.Event(), True
        batches: asyncio.Task[None] | None = None
        try:
            definition, options, keeps, scenario = cloudpickle.loads(said)
            engine = await self._made(definition, options, keeps)
            await engine.registry.load(scenario.skill_id)
            if isinstance(definition.handler, HttpHandler):
                importlib.import_module("skilllab.engine.http.calls")  # else the first requests would wait for this
            gc.collect()
            gc.freeze()  # what is there now stays: no collection during the test has to look at it
            self._say("begin", None)
            batches = asyncio.create_task(self._report())
            ending = await run(engine, scenario, self._requests, stop=self._stop, home=os.getppid())
            self._batch()
            self._say("end", ending)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side is told
            self._batch()
            self._say("error", (_pickled(error), "".join(traceback.format_exception(error))))
        finally:
            self._running = False
            if batches is not None:
                batches.cancel()
                await asyncio.gather(batches, return_exceptions=True)
        await self._writer.drain()
        if self._stop.is_set():
            os._exit(0)

    async def _made(self, definition: Any, options: Any, keeps: int | None) -> LayeredExecutionEngine:
        """Returns the engine: that of the scenario before if it is the same, so that its connections and workers are warm."""
        made_of: bytes = cloudpickle.dumps((definition, options, keeps))
        if self._engine is None or made_of != self._made_of:
            if self._engine is not None:
                await self._engine.aclose()
            registry = InMemorySkillRegistry()
            await registry.register(definition)
            results = None if keeps is None else SkillCache(keeps)
            functions, sandbox, http, guards, _ = options
            self._engine = LayeredExecutionEngine(
                registry, functions=functions, sandbox=sandbox, http=http, guards=guards, results=results
            )
            self._made_of = made_of
        return self._engine

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            self._batch()
            await self._writer.drain()  # whoever does not read gets larger batches, not more of them

    def _batch(self) -> None:
        self._say("batch", self._requests.batch())

    def _say(self, kind: str, said: object) -> None:
        self._writer.write(pack((kind, said)))


def _pickled(error: Exception) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:  # noqa: BLE001 - then its text has to do
        return b""
