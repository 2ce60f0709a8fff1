"""MCP servers as sources of skills, tried on a real one that was made with the SDK and runs as a process."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, cli
from skilllab.errors import (
    ExecutionTimeoutError,
    InvalidParametersError,
    InvalidResponseError,
    InvalidValueError,
    ServerLostError,
    SkilllabError,
    ToolError,
)
from skilllab.outcome import ExecutionResult
from skilllab.skills import _session
from skilllab.skills._session import Server
from skilllab.skills.mcp import READ_ONLY, McpSource, from_mcp

SCRIPT = str(Path(__file__).with_name("mcp_server.py"))
COMMAND = [sys.executable, SCRIPT]
BARE = [sys.executable, str(Path(__file__).with_name("bare_server.py"))]
TOOLS = ("add", "nap", "stall", "fail", "crash", "words", "order", "seen")


@contextmanager
def served(port: int = 0) -> Iterator[tuple[str, int]]:
    """The server over streamable HTTP: its address and its process."""
    command = [*COMMAND, "--http"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PORT": str(port)}) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp", process.pid
        finally:
            process.kill()


@contextmanager
def reached_by(transport: str) -> Iterator[Any]:
    if transport == "stdio":
        yield COMMAND
        return
    with served() as (url, _):
        yield url


async def engine_of(source: McpSource) -> LayeredExecutionEngine:
    registry = InMemorySkillRegistry()
    for definition in source.values():
        await registry.register(definition)
    return LayeredExecutionEngine(registry)


def is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def runs(pid: int) -> bool:
    """Whether a process has not ended; nobody may have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_ended(pid: int, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while runs(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not runs(pid)


# a server that works


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_tools_are_skills_like_any_other(transport: str) -> None:
    """Tools carry name, schema and hint; answers are outputs, failures typed errors; cancellation arrives."""

    async def main(target: Any) -> None:
        async with await from_mcp(target, prefix="shop/") as source, await engine_of(source) as engine:
            assert (source.name, source.version, len(source.connects)) == ("workshop", "3.1", 1)
            assert list(source) == [f"shop/{name}" for name in TOOLS]
            add, order = source["shop/add"], source["shop/order"]
            assert READ_ONLY in add.tags
            assert READ_ONLY not in order.tags
            assert add.description == "Adds two whole numbers."
            assert await engine.call("shop/add", {"a": 2}) == {"result": 3}

            wrong = await engine.execute("shop/add", {"a": "two"})
            assert isinstance(wrong.error, InvalidParametersError)
            failed = await engine.execute("shop/fail", {"about": "tea"})
            assert type(failed.error) is ToolError
            assert "no tea here" in str(failed.error)

            late = await engine.execute("shop/nap", {"seconds": 60}, timeout=0.1)
            assert isinstance(late.error, ExecutionTimeoutError)
            asked = asyncio.create_task(engine.execute("shop/nap", {"seconds": 60}))
            await asyncio.sleep(0.1)
            asked.cancel()
            await asyncio.wait([asked])
            seen: dict[str, int] = {}
            while seen.get("cancelled") != 2:  # what never arrives meets the timeout of the test
                seen = await engine.call("shop/seen")
            assert seen["add"] == 1  # the wrong parameters never came there
            assert 0 < await source.ping() < 30

    with reached_by(transport) as target:
        asyncio.run(main(target))


@pytest.mark.slow
def test_any_task_may_open_call_and_close() -> None:
    """The connection belongs to a task of its own: one task opens it, others call, another closes, and the process is gone."""

    async def main() -> None:
        source = await asyncio.create_task(from_mcp(COMMAND))
        pid = source.pid
        assert pid is not None
        assert os.getpid() != pid
        async with await engine_of(source) as engine:
            calls = [asyncio.create_task(engine.call("add", {"a": number})) for number in range(20)]
            assert [output["result"] for output in await asyncio.gather(*calls)] == list(range(1, 21))
        await asyncio.create_task(source.aclose())
        assert is_gone(pid)
        assert source.pid is None
        with pytest.raises(ServerLostError, match="closed"):
            await source.ping()

    asyncio.run(main())


# a server that ends


@pytest.mark.slow
def test_a_crash_fails_what_is_under_way_and_the_next_call_connects_again() -> None:
    """All calls under way fail with ServerLostError, which trips a breaker and quotes the server; then a new process serves."""

    async def main() -> None:
        async with await from_mcp(COMMAND) as source, await engine_of(source) as engine:
            first = source.pid
            naps = [asyncio.create_task(engine.execute("nap", {"seconds": 60})) for _ in range(3)]
            await asyncio.sleep(0.1)
            results: list[ExecutionResult] = [await engine.execute("crash"), *await asyncio.gather(*naps)]
            assert [type(result.error) for result in results] == [ServerLostError] * 4
            assert "out of luck" in str(results[0].error)
            breaker = engine.breaker("crash")
            assert breaker is not None
            assert breaker.failures == 1
            assert source.pid is None
            assert await engine.call("add", {"a": 1}) == {"result": 2}
            assert len(source.connects) == 2
            second = source.pid
        assert first is not None
        assert second not in (None, first)
        assert is_gone(first)
        assert is_gone(second or 0)

    asyncio.run(main())


@pytest.mark.slow
def test_a_crash_over_http() -> None:
    """A call fails with ServerLostError when the server ends or is not there, and works once it is back at its address."""

    async def main(url: str, pid: int) -> None:
        async with await from_mcp(url) as source, await engine_of(source) as engine:
            results = [await engine.execute("crash"), await engine.execute("add", {"a": 1})]
            assert [type(result.error) for result in results] == [ServerLostError] * 2
            assert source.pid is None  # not ours
            port = int(url.split(":")[2].split("/")[0])
            with served(port):
                assert await engine.call("add", {"a": 1}) == {"result": 2}

    with served() as (url, pid):
        asyncio.run(main(url, pid))


KILLED = """
import asyncio, os, signal, sys
from skilllab.skills import _guard
from skilllab.skills._session import Server, Session

async def main():
    session = Session(Server(argv=tuple(sys.argv[1:])))
    opening = asyncio.create_task(session.open(60))
    while session.pid is None:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    print(session.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

_guard._GRACE = 0.5
asyncio.run(main())
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"


def server_of_a_killed_program(*command: str) -> int:
    """Runs a program that starts a server and is killed a moment later; returns the server's process."""
    program = [sys.executable, "-c", KILLED, *command]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    return int(done.stdout)


@pytest.mark.slow
def test_the_server_ends_with_a_killed_program() -> None:
    """A program that is killed leaves no server behind, since its end closes the pipes."""
    assert wait_until_ended(server_of_a_killed_program(*BARE, "chatty"))


@pytest.mark.slow
def test_a_server_that_ignores_the_end_goes_with_a_killed_program() -> None:
    """A server that heeds neither the end of its pipes nor SIGTERM is killed a moment after a program that was killed."""
    pid = server_of_a_killed_program(sys.executable, "-c", STUBBORN)
    assert runs(pid)
    assert wait_until_ended(pid)


# a server that never begins


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("cat > /dev/null", "did not answer `initialize` within 500 ms"),
        ("trap '' TERM; while :; do sleep 1; done", "did not answer `initialize` within 500 ms"),
        ("echo no licence found >&2; exit 3", "no licence found"),
    ],
    ids=["mute", "mute-and-stubborn", "exits"],
)
def test_a_server_that_never_begins(script: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stays mute, even one that will not end, or that ends at once is ServerLostError, and nothing is left."""
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 0.3)
    monkeypatch.setattr("mcp.client.stdio.FORCE_KILL_TIMEOUT", 0.3)
    before = children()
    with pytest.raises(ServerLostError, match=told):
        asyncio.run(from_mcp(["sh", "-c", script], timeout=30.0 if "exit" in script else 0.5))  # type: ignore[arg-type]
    assert children() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "timeout", "kind", "told"),
    [
        ("mute", 1.0, ServerLostError, "did not answer `tools/list` within 1.00 s"),
        ("refuse", 30.0, ToolError, "refused `tools/list`: no tools today"),
        ("nonsense", 30.0, InvalidResponseError, "answered `tools/list` with no list of tools"),
        ("endless", 30.0, InvalidResponseError, "the server's list of tools has no end: 100 pages"),
        ("end", 30.0, ServerLostError, "tools/list: the MCP server ended.*out of tools"),
    ],
)
def test_a_server_that_does_not_list_its_tools(
    mode: str, timeout: float, kind: type[SkilllabError], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that begins and then lists no tools is a typed error, code 1 of the command, and nothing is left of it."""
    before = children()
    with pytest.raises(kind, match=told):
        asyncio.run(from_mcp([*BARE, mode], timeout=timeout))  # type: ignore[arg-type]
    limits = ["--connect-timeout", f"{timeout}", "--no-store"]
    assert cli.main(["try", shlex.join([*BARE, mode]), *limits]) == 1
    assert re.search(told, capsys.readouterr().err)
    assert children() == before


@pytest.mark.slow
def test_connections_that_ended_are_not_kept() -> None:
    """Of ten calls to a server that cannot be reached not one connection is kept beside the last."""

    async def main() -> None:
        source = McpSource(Server(url=f"http://127.0.0.1:{port}/mcp"), "", 5.0)
        for _ in range(10):
            with pytest.raises(ServerLostError):
                await source.ping()
        assert not source._ended
        await source.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    asyncio.run(main())


@pytest.mark.parametrize("turns", [1, 20])
def test_closing_while_another_task_connects(turns: int) -> None:
    """Who waits for a connection that another task closes gets ServerLostError, and not a cancellation that nobody sent."""

    async def main(url: str) -> None:
        source = McpSource(Server(url=url), "", 30.0)
        waiting = asyncio.create_task(source.ping())
        for _ in range(turns):
            await asyncio.sleep(0)
        await source.aclose()
        with pytest.raises(ServerLostError, match="closed"):
            await waiting
        cancelled = asyncio.create_task(McpSource(Server(url=url), "", 30.0).ping())
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(main(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"))


@pytest.mark.slow
def test_what_a_server_writes_to_standard_error_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that writes a megabyte with each call only the last words are kept, and they are the last ones."""
    monkeypatch.setattr(_session, "_LOOK", 0.01)

    async def main() -> None:
        async with await from_mcp([*BARE, "chatty"]) as source, await engine_of(source) as engine:
            session = source._session
            assert session is not None
            for number in range(1, 6):
                assert await engine.call("talk") == "said"
                while (size := os.fstat(session._words.fileno()).st_size) > 2**20:  # noqa: ASYNC110 - a file tells nobody
                    await asyncio.sleep(0.01)
                assert 0 < size <= 2**20
                assert session.last_words() == f"talk {number}"

    asyncio.run(main())


def test_a_refused_connection() -> None:
    """An address where nobody listens is ServerLostError with the address, without password and query."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerLostError, match=f"127.0.0.1:{port}/mcp cannot be connected to") as caught:
        asyncio.run(from_mcp(f"http://me:hidden@127.0.0.1:{port}/mcp?key=hidden"))  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)


def test_a_command_is_told_without_its_secrets() -> None:
    """The message of a server that does not begin names its command, with *** for a token."""
    command = ["sh", "-c", "exit 3", "--token", "hidden", "--api-key=hidden"]
    with pytest.raises(ServerLostError, match=r"sh -c exit 3 --token \*\*\* --api-key=\*\*\*") as caught:
        asyncio.run(from_mcp(command))  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)


def test_an_address_that_never_answers() -> None:
    """A server that takes the connection and says nothing is given up after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        with pytest.raises(ServerLostError, match="did not answer `initialize` within 100 ms"):
            asyncio.run(from_mcp(url, timeout=0.1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("", {}, "must be the command"),
        ([], {}, "must be the command"),
        ([1], {}, "must be the command"),
        ('python "unclosed', {}, "is no command"),
        ("no-such-program-here --stdio", {}, "'no-such-program-here' is no program"),
        ("http:///mcp", {}, "has no host"),
        ("http://[x/mcp", {}, "has no host"),
        ("python --token hidden 'unclosed", {}, r"--token \*\*\*"),
        ("~/no-such-program-here", {}, f"'{Path.home()}/no-such-program-here' is no program"),
        (COMMAND, {"timeout": 0}, "timeout=0"),
        (COMMAND, {"timeout": float("nan")}, "timeout=nan"),
    ],
)
def test_a_target_that_cannot_be_one(target: Any, options: dict[str, Any], told: str) -> None:
    """What can be no server is refused with its value, before anything starts."""
    with pytest.raises(InvalidValueError, match=told):
        asyncio.run(from_mcp(target, **options))  # type: ignore[arg-type]


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the SDK is missing the message says which extra brings it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidValueError, match=r'pip install "skilllab\[mcp\]"'):
        asyncio.run(from_mcp(COMMAND))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_file_that_hides_the_sdk(tmp_path: Path) -> None:
    """Where a file of one's own is called mcp.py the message names it."""
    (tmp_path / "mcp.py").write_text("")
    code = "import asyncio, skilllab\nasyncio.run(skilllab.from_mcp('cat'))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "InvalidValueError" in done.stderr
    assert str(tmp_path / "mcp.py") in done.stderr


# what a server may say


def described(name: str, schema: Any = None, description: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        title=None,
        description=description,
        annotations=None,
        input_schema={"type": "object"} if schema is None else schema,
        output_schema=None,
    )


class Lister:
    """What the SDK's client is for a source that lists: `pages` of tools, and the last again and again when it has no end."""

    protocol_version = "2026-07-28"
    server_info = None

    def __init__(self, *pages: list[SimpleNamespace], endless: bool = False) -> None:
        self.pages, self.endless, self.asked = pages, endless, 0

    async def list_tools(self, cursor: str | None = None) -> SimpleNamespace:
        page = int(cursor or 0)
        self.asked += 1
        more = self.endless or page + 1 < len(self.pages)
        return SimpleNamespace(
            tools=self.pages[min(page, len(self.pages) - 1)], next_cursor=str(page + 1) if more else None
        )


def listed(client: Lister, monkeypatch: pytest.MonkeyPatch) -> McpSource:
    async def main() -> McpSource:
        source = McpSource(Server(argv=("unused",)), "", 1.0)

        async def connected(_: str) -> Any:
            return SimpleNamespace(client=client)

        monkeypatch.setattr(source, "_connected", connected)
        await source._list()
        return source

    return asyncio.run(main())


def test_tools_come_from_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in pages is read to its end, and a list without an end is no answer, which a hundred pages tell."""
    assert list(listed(Lister([described("a")], [described("b"), described("c")]), monkeypatch)) == ["a", "b", "c"]
    endless = Lister([described("a")], endless=True)
    with pytest.raises(InvalidResponseError, match="has no end"):
        listed(endless, monkeypatch)
    assert endless.asked == 101


def test_tools_that_cannot_be_skills_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that is none or points elsewhere, a name that is no id, and a name twice cost that tool and no other."""
    tools = [
        described("good"),
        described("typo", {"type": "objekt"}),
        described("far", {"$ref": "https://example.org/schema.json"}),
        described("has blanks"),
        described("good", description="the second of that name"),
    ]
    source = listed(Lister(tools), monkeypatch)
    assert list(source) == ["good"]
    assert source["good"].description == ""
    assert [problem.partition(":")[0] for problem in source.problems] == ["typo", "far", "has blanks", "good"]


def test_errors_survive_pickling() -> None:
    """ToolError and ServerLostError keep what they carry when they come out of another process."""
    import pickle

    errors: list[SkilllabError] = [ToolError("x", skill_id="a", code=-3), ServerLostError("y", skill_id="b")]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
