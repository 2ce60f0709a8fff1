"""The engine against bare awaits, other frameworks' ways to call a tool, and bare aiohttp.

The engine is as it comes: parameters validated, its limit, deadline and breaker on, CPU time measured; listeners to both
events record. What validating the output and limits for layer and skill add is said beside it. Every sample awaits one
thing many times in a row, in an event loop, whose start counts for every side; ours and theirs have loops of their own,
since an engine sets a task factory on its loop. Layer 3 asks a server in a process of its own, which answers with stored
bytes, so that it is the client that takes the time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import aiohttp
from harness import Row, report, row

from skilllab import format as fmt
from skilllab.define import http_skill, skill
from skilllab.engine import CircuitBreaker, GuardOptions, HttpOptions, LayeredExecutionEngine
from skilllab.outcome import ExecutionEvent
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import interleave, quantile

ROUNDS = 60
BARE, OURS, PEERS, REQUESTS = 20_000, 200, 10, 60  # awaits in one sample
USER = {"user_id": 17, "name": "Ada", "city": "Bergen", "tags": ["a", "b", "c"]}
PARAMS = {"number": 1}
KEPT: list[asyncio.Task[None]] = []  # what stays connected until its loop ends
PATH = "layer 1: whole path of a no-op"
GUARDS = GuardOptions(layer_concurrency={1: 100, 3: 100}, skill_concurrency=50)
"""More limits than an engine has by itself."""

Call = Callable[[], Awaitable[object]]
Arm = tuple[Callable[[], object], int]
"""What one sample calls, and how many operations that is."""


async def nothing(number: int) -> int:
    """Gives its number back."""
    return number


class Recorder:
    """Listens to both events of an engine and keeps every duration; remembers what failed."""

    def __init__(self, engine: LayeredExecutionEngine) -> None:
        self.started = 0
        self.durations: list[float | None] = []
        self.failures: list[Exception] = []
        engine.on("execution-start", self.start)
        engine.on("execution-complete", self.complete)

    def start(self, event: ExecutionEvent) -> None:
        self.started += 1

    def complete(self, event: ExecutionEvent) -> None:
        result = event.result
        assert result is not None
        self.durations.append(result.metadata.duration)
        if result.error is not None:
            self.failures.append(result.error)


async def bare(times: int) -> None:
    """What everything is measured by: nothing stands between the loop and the await."""
    for _ in range(times):
        await nothing(1)


async def repeated(call: Call, times: int) -> None:
    for _ in range(times):
        await call()


async def at_once(call: Call, times: int, workers: int) -> None:
    await asyncio.gather(*(repeated(call, times // workers) for _ in range(workers)))


def sample(loop: asyncio.AbstractEventLoop, call: Call, times: int, workers: int = 1) -> Arm:
    """Returns the arm that awaits `times` calls, split among tasks that run at once."""
    if workers == 1:
        return lambda: loop.run_until_complete(repeated(call, times)), times
    return lambda: loop.run_until_complete(at_once(call, times, workers)), times


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise SystemExit(f"got {found!r} instead of {wanted!r}: nothing was measured")


def measure(arms: dict[str, Arm]) -> dict[str, Any]:
    """Returns seconds of one operation, by arm and round."""
    times = interleave({name: call for name, (call, _) in arms.items()}, ROUNDS)
    return {name: times[name] / operations for name, (_, operations) in arms.items()}


def typical(seconds: Any) -> str:
    return fmt.duration(quantile(seconds, 0.5))


# layer 1


def layer_1(ours: asyncio.AbstractEventLoop, theirs: asyncio.AbstractEventLoop) -> tuple[list[Row], list[str]]:
    registry = InMemorySkillRegistry()
    engine = LayeredExecutionEngine(registry)
    recorder = Recorder(engine)
    for skill_id in ("nothing", "cached", "checked"):
        made = skill(id=skill_id, cacheable=skill_id == "cached", check_output=skill_id == "checked")(nothing)
        ours.run_until_complete(registry.register(made.definition.model_copy(update={"name": skill_id})))
    limited = LayeredExecutionEngine(registry, guards=GUARDS)
    Recorder(limited)
    breaker = CircuitBreaker()

    def closed_path() -> None:
        for _ in range(OURS):
            breaker.report(breaker.admit(), True)

    for _ in range(2):
        result = ours.run_until_complete(engine.execute("cached", PARAMS))
        expect((result.output, result.error), (1, None))
    expect(result.metadata.cached, True)
    arms = {
        "bare": (lambda: theirs.run_until_complete(bare(BARE)), BARE),
        "path": sample(ours, partial(engine.execute, "nothing", PARAMS), OURS),
        "cached": sample(ours, partial(engine.execute, "cached", PARAMS), OURS),
        "checked": sample(ours, partial(limited.execute, "checked", PARAMS), OURS),
        "breaker": (closed_path, OURS),
    }
    found, remarks = peers(theirs)
    arms.update({name: arm for name, (_, arm) in found.items()})
    times = measure(arms)
    expect(recorder.failures, [])
    expect(len(recorder.durations), recorder.started)
    path, await_ = times["path"], times["bare"]
    note = f"bare await {typical(await_)}, path {typical(path)}"
    rows = [row(PATH, "bare await", path, await_, at_most=80, note=note)]
    for name, (goal, _) in found.items():
        rows.append(row(PATH, name, path, times[name], at_most=1 / goal, note=f"peer {typical(times[name])}"))
    rows.append(row("hit in the result cache", "the path", times["cached"], path, at_most=0.5))
    rows.append(row("breaker, closed: admit and report", "bare await", times["breaker"], await_, at_most=5))
    more = quantile(times["checked"] / await_, 0.5)
    remarks.append(f"        with its output validated, and limits for layer and skill: {fmt.number(more)} bare awaits")
    for each in (engine, limited):
        ours.run_until_complete(each.aclose())
    return rows, remarks


def peers(loop: asyncio.AbstractEventLoop) -> tuple[dict[str, tuple[float, Arm]], list[str]]:
    """Returns the goal and the arm of each peer that is installed, by name, and remarks on those that are not."""
    found, remarks = {}, []
    for package, goal, make in (("langchain-core", 15, langchain), ("fastmcp", 60, fastmcp)):
        if find_spec(package.replace("-", "_")) is None:
            remarks.append(f"skipped {package}: it is not installed; pip install -e '.[peers]'")
            continue
        name, call = make(loop)
        found[f"{name}, {package} {version(package)}"] = (goal, sample(loop, call, PEERS))
    return found, remarks


def langchain(loop: asyncio.AbstractEventLoop) -> tuple[str, Call]:
    os.environ.update(dict.fromkeys(("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"), "false"))  # it tells nobody
    from langchain_core.tools import StructuredTool

    tool = StructuredTool.from_function(coroutine=nothing)
    expect(loop.run_until_complete(tool.ainvoke(PARAMS)), 1)
    return "StructuredTool.ainvoke", partial(tool.ainvoke, PARAMS)


def fastmcp(loop: asyncio.AbstractEventLoop) -> tuple[str, Call]:
    from fastmcp import Client, FastMCP

    server = FastMCP("bench")
    server.tool(nothing)
    client = Client(server)
    connected, end = asyncio.Event(), asyncio.Event()

    async def stay_connected() -> None:
        async with client:  # in one task from beginning to end, as its cancel scope asks for
            connected.set()
            await end.wait()

    KEPT.append(loop.create_task(stay_connected()))
    loop.run_until_complete(connected.wait())
    expect(loop.run_until_complete(client.call_tool("nothing", PARAMS)).data, 1)
    return "call_tool in memory", partial(client.call_tool, "nothing", PARAMS)


# layer 3


class Answers(asyncio.Protocol):
    """Answers every request with the same stored bytes."""

    BODY = json.dumps(USER).encode()
    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.ANSWER * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]


async def serve() -> None:
    """Serves until the standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answers, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server in a process of its own, which ends with the block or with this process."""
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def layer_3(ours: asyncio.AbstractEventLoop, theirs: asyncio.AbstractEventLoop, url: str) -> list[Row]:
    arms: dict[str, Arm] = {}
    closing: list[tuple[asyncio.AbstractEventLoop, Call]] = []
    recorders = []
    for connections in (1, 10):
        call, recorder, close = ours.run_until_complete(through_engine(url, connections))
        arms[f"ours {connections}"] = sample(ours, call, REQUESTS, connections)
        recorders.append(recorder)
        closing.append((ours, close))
        bare, close = theirs.run_until_complete(through_aiohttp(url, connections))
        arms[f"theirs {connections}"] = sample(theirs, bare, REQUESTS, connections)
        closing.append((theirs, close))
    times = measure(arms)
    for loop, close in closing:
        loop.run_until_complete(close())
    for recorder in recorders:
        expect(recorder.failures, [])
    return [
        row(
            f"layer 3: a request at {connections} connection{'s' if connections > 1 else ''}",
            f"aiohttp {aiohttp.__version__}: get and json",
            times[f"ours {connections}"],
            times[f"theirs {connections}"],
            at_most=goal,
            note=f"peer {typical(times[f'theirs {connections}'])}",
        )
        for connections, goal in ((1, 1.2), (10, 1.5))
    ]


async def through_engine(url: str, connections: int) -> tuple[Any, Recorder, Call]:
    registry = InMemorySkillRegistry()
    schema = {"type": "object", "properties": {"user_id": {"type": "integer"}}, "required": ["user_id"]}
    await registry.register(http_skill(id="user", url=f"{url}/users/{{user_id}}", input_schema=schema))
    engine = LayeredExecutionEngine(registry, guards=GUARDS, http=HttpOptions(max_sockets=connections))
    recorder = Recorder(engine)
    params = {"user_id": 17}
    expect(await engine.call("user", params), USER)
    return partial(engine.execute, "user", params), recorder, engine.aclose


async def through_aiohttp(url: str, connections: int) -> tuple[Any, Call]:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections))

    async def get() -> object:
        async with session.get(f"{url}/users/{17}") as answer:
            return await answer.json()

    expect(await get(), USER)
    return get, session.close


def main() -> None:
    with asyncio.Runner() as ours, asyncio.Runner() as theirs, serving() as url:
        loops = ours.get_loop(), theirs.get_loop()
        rows, remarks = layer_1(*loops)
        rows += layer_3(*loops, url)
    report(rows, remarks)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve())
    else:
        main()
