"""`skilllab try` on the three kinds of target, each a real one: a module, MCP servers as processes, an HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
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

import pytest

from skilllab.cli import main
from skilllab.demo import DemoProcess
from skilllab.errors import InvalidValueError, TransportError
from skilllab.experiments.history import History
from skilllab.experiments.trial import TrialResult, opened, trial
from skilllab.experiments.trial.plan import planned
from skilllab.model import FunctionHandler

SERVER = Path(__file__).parents[2] / "skills" / "mcp_server.py"
TOOLS = '''
import asyncio, time
from pathlib import Path

def search(query: str, limit: int = 3) -> list[str]:
    """Finds."""
    return [query] * limit

def broken(x):
    raise RuntimeError("no such table")

def stream():
    yield 1

async def never(**ignored):
    Path("begun").touch()
    await asyncio.sleep(600)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    return tmp_path


def skilllab_try(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command where no terminal is, as a program does."""
    command = [sys.executable, "-m", "skilllab.cli", "try", *arguments, "--history", str(folder / "history.sqlite")]
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False
    )


# modules


@pytest.mark.slow
def test_a_function_from_its_folder(folder: Path) -> None:
    """The page has connect, noise floor, queue and handler time apart, sizes and the next command, and the result is kept."""
    arguments = ("my_tools:search", "--params", '{"query": "tea"}', "--duration", "0.5", "--rate", "200")
    done = skilllab_try(folder, *arguments)
    assert done.returncode == 0, done.stderr
    for part in ("connect  ", "noise floor  ", "queue  ", "late  ", "handler p50 (95 %)", "handler p95 (95 %)", "size"):
        assert part in done.stdout
    assert "First finding: " in done.stdout
    assert 'Next: skilllab try my_tools:search --params \'{"query": "tea"}\'' in done.stdout
    assert len(done.stdout.splitlines()) <= 40
    assert f"Kept as run 1 in {folder}" in done.stdout.replace("\n    ", " ")
    (tool,) = History(folder / "history.sqlite").load(1).tools
    assert set(tool.size) == {21.0}  # ["tea", "tea", "tea"]
    assert tool.calls > 10


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("my_tools:serch",), 2, "has no 'serch'; its functions: broken, never, search, stream"),
        (("my_toolz:search",), 2, "'my_toolz' cannot be imported: No module named 'my_toolz'"),
        (("my_tools:stream",), 2, "it yields"),
        (("my_tools:search",), 2, "nobody is there to be asked about made-up ones: give --params"),
        (("my_tools:search", "--params", '{"query": 3}'), 2, "parameters at /query: 3 is not of type"),
        (("my_tools:search", "--params", "{query}"), 2, "--params is no JSON"),
        (("my_tools:search", "--params", "[1]"), 2, "must be an object"),
        (("my_tools:search", "--params", "@missing.json"), 2, "cannot be read"),
        (("my_tools:search", "--rate", "nan"), 2, "rate=nan"),
        (("my_tools:search", "--duration", "61"), 2, "duration=61.0"),
        (("my_tools:search", "--seed", "-1"), 2, "seed=-1"),
        (("my_tools:search", "--connect-timeout", "nan"), 2, "timeout=nan"),
        (("my_tools", "--as", "module"), 2, "write my_tools:function; its functions: search, broken, stream, never"),
        (("my_tools:search", "--tool", "other"), 2, "no tool is called 'other'"),
        (("my_tools:search", "--env", "NO_SUCH_VARIABLE_HERE"), 2, "no such variable"),
        (("my_tools:search", "--header", "X-Key:NO_SUCH_VARIABLE_HERE"), 2, "NAME:VARIABLE"),
        (("no-such-program-here",), 2, "is no program that can be found"),
        (("",), 2, "target is empty"),
    ],
)
def test_bad_usage(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    """What cannot be tried is said with its value, before anything is called; the code is 2, and nothing is kept."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_tools", raising=False)
    assert main(["try", *arguments, "--history", str(folder / "h.sqlite")]) == code
    assert told in capsys.readouterr().err
    assert not (folder / "h.sqlite").exists()


@pytest.mark.slow
def test_the_next_command_repeats_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Variables and headers are repeated by name, without their values, and so is the history, in which ~/ is the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TOKEN", "hidden")
    monkeypatch.setattr(sys, "path", list(sys.path))
    given = ("--env", "TOKEN", "--header", "Authorization:TOKEN", "--connect-timeout", "5", "--history", "~/h.sqlite")
    arguments = ("textwrap:dedent", "--params", '{"text": "tea"}', "--duration", "0.2", "--timeout", "2")
    assert main(["try", *arguments, *given]) == 0
    out = capsys.readouterr().out
    repeated = """--duration 60 --timeout 2 --env TOKEN --header Authorization:TOKEN --connect-timeout 5 --history '~/h.sqlite'"""
    assert f"""Next: skilllab try textwrap:dedent --params '{{"text": "tea"}}' {repeated}""" in out
    assert "hidden" not in out
    assert History(tmp_path / "h.sqlite").load(1).options == given


@pytest.mark.slow
def test_a_target_that_fails_is_code_1(folder: Path) -> None:
    """A function that always raises ends with 1, and the page says what it raised and shows no latency."""
    done = skilllab_try(folder, "my_tools:broken", "--params", '{"x": 1}', "--rate", "200", "--duration", "1")
    assert done.returncode == 1
    assert "broken: 10 of 10 calls failed with SkillFailedError: RuntimeError: no such table" in done.stdout


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(folder: Path) -> None:
    """Ctrl-C in the middle of a call that never ends prints the page within moments, and keeps the result."""
    command = [sys.executable, "-m", "skilllab.cli", "try", "my_tools:never", "--duration", "60", "--timeout", "60"]
    command += ["--history", str(folder / "h.sqlite")]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (folder / "begun").exists():  # what never begins meets the timeout of the test
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "stopped by hand" in out
    assert History(folder / "h.sqlite").load(1).stopped


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_is_asked(folder: Path, answer: str) -> None:
    """On a terminal the made-up parameters are shown, and only a yes calls the tool with them."""
    here, there = pty.openpty()
    command = [sys.executable, "-m", "skilllab.cli", "try", "my_tools:search", "--duration", "0.3", "--no-store"]
    with subprocess.Popen(command, cwd=folder, stdin=there, stdout=subprocess.PIPE, stderr=there, text=True) as process:
        os.close(there)
        said = ""
        while "[y/N]" not in said:
            said += os.read(here, 4096).decode()
        assert '{"query": "example"}' in said
        os.write(here, f"{answer}\n".encode())
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(here)
    assert process.returncode == (0 if answer == "y" else 2)
    assert bool(out) is (answer == "y")


# MCP servers


@pytest.mark.slow
def test_an_mcp_server_over_its_pipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only tools that read are called; the page names the others, connect time, round trips and memory; no process is left."""
    limits = ("--duration", "0.5", "--rate", "50", "--history", str(tmp_path / "h.sqlite"))
    with workshop("stdio", tmp_path) as target:
        assert main(["try", target, "--tool", "seen", "--tool", "order", *limits]) == 0
    said = capsys.readouterr()
    assert "add, nap, stall, fail, crash, words, order, seen" in said.err
    assert re.search(r"connect  [\d.]+ m?s \(start of the process and first answer", said.out)
    assert "round trip " in said.out
    assert re.search(r"memory of the server  [\d.]+ MiB after the first call", said.out)
    assert "order (does not say that it only reads: --allow order)" in said.out
    result = History(tmp_path / "h.sqlite").load(1)
    assert [tool.name for tool in result.tools] == ["seen"]
    assert result.calls > 3
    assert not result.errors


TROUBLE = {"add": {"a": 1}, "fail": {"about": "tea"}, "stall": {"seconds": 60}, "crash": {}}


@contextmanager
def workshop(transport: str, folder: Path) -> Iterator[str]:
    """A server that works, fails, hangs and crashes on request; in the end no process of it may be left over its pipes."""
    command = [sys.executable, str(SERVER), f"--of={folder}"]
    if transport == "stdio":
        yield shlex.join(command)
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if f"--of={folder}" in _text(path)]
        return
    with subprocess.Popen([*command, "--http"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/mcp"
        finally:
            server.kill()


def tried(folder: Path, target: str, *tools: str, timeout: float = 0.3) -> tuple[int, TrialResult, float]:
    """Runs the command in this process; returns its code, the result that it kept, and the seconds that it took."""
    history = folder / "h.sqlite"
    chosen = [part for name in tools for part in ("--tool", name)]
    params = json.dumps({name: TROUBLE[name] for name in tools} if len(tools) > 1 else TROUBLE[tools[0]])
    limits = ("--duration", "1", "--rate", "50", "--timeout", f"{timeout}", "--history", str(history))
    begin = time.monotonic()
    code = main(["try", target, *chosen, "--params", params, *limits])
    return code, History(history).load(1), time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_errors_and_hanging_calls_are_counted_by_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], transport: str
) -> None:
    """isError is one kind of error and a call that hangs another, each with its count; what worked makes the code 0.

    The calls that hang go on in the server, which ends neither with its pipes nor when it is asked to.
    """
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 0.3)
    monkeypatch.setattr("mcp.client.stdio.FORCE_KILL_TIMEOUT", 0.3)
    with workshop(transport, tmp_path) as target:
        code, result, took = tried(tmp_path, target, "add", "stall", "fail")
    add, stall, fail = result.tools
    out = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert not add.errors
    assert f"fail: {fail.errors['ToolError']} × ToolError: Error executing tool fail: no tea here" in out
    assert f"stall: {stall.errors['ExecutionTimeoutError']} × ExecutionTimeoutError: " in out
    assert result.errors == fail.calls + stall.calls + 2
    assert (
        f"First finding: stall: {stall.calls + 1} of {stall.calls + 1} calls failed with ExecutionTimeoutError" in out
    )
    assert re.search(r"Next: skilllab try .* --tool stall .*--duration 60 --timeout 60", out)
    assert result.elapsed < 3
    assert took < 20


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_server_that_crashes(tmp_path: Path, capsys: pytest.CaptureFixture[str], transport: str) -> None:
    """Each call ends the server: the code is 1, and the page says how often it was lost, what it wrote, and what to do."""
    with workshop(transport, tmp_path) as target:
        code, result, took = tried(tmp_path, target, "crash", timeout=10.0)
    (crash,) = result.tools
    out = " ".join(capsys.readouterr().out.split())
    assert code == 1
    assert set(crash.errors) == {"ServerLostError"}
    lost = crash.errors["ServerLostError"]
    assert f"crash: {lost} × ServerLostError: the MCP server ended, or the connection to it broke" in out
    assert f"First finding: The server was lost {'once' if lost == 1 else f'{lost} times'} in crash" in out
    assert ("out of luck" in out) is (transport == "stdio")
    assert "No next command: start the server by hand, call the tool, and read what it writes" in out
    assert result.elapsed < 4
    assert took < 20


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_mute_server(tmp_path: Path, capsys: pytest.CaptureFixture[str], transport: str) -> None:
    """A server that never answers `initialize` ends the command with 1 after the time to connect; nothing is kept or left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        targets = {
            "stdio": f"sh -c 'cat > /dev/null' --of={tmp_path}",
            "http": f"http://127.0.0.1:{listener.getsockname()[1]}/mcp",
        }
        begin = time.monotonic()
        limits = ("--connect-timeout", "0.5", "--history", str(tmp_path / "h.sqlite"))
        assert main(["try", targets[transport], *limits]) == 1
        took = time.monotonic() - begin
    said = capsys.readouterr()
    assert re.search(r"skilllab: MCP server .* did not answer `initialize` within 500 ms", said.err)
    assert not said.out
    assert not (tmp_path / "h.sqlite").exists()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if f"--of={tmp_path}" in _text(path)]
    assert took < 20


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.slow
def test_the_server_counts_the_same_calls() -> None:
    """The server's own count of each tool is what the trial reports, and a tool that does not only read has none until allowed."""

    async def run(url: str) -> None:
        async with opened(url) as found:
            seen = found.tools["seen"].handler
            assert isinstance(seen, FunctionHandler)
            assert seen.function is not None
            plan = planned(found, params={"add": {"a": 1}}, tools=["add", "order", "fail"])
            result = await trial(found, plan, duration=1.0, rate=50.0)
            assert [tool.name for tool in result.tools] == ["add"]
            assert result.memory == ()  # the server is not ours
            counts = await seen.function()
            assert counts["add"] == result.calls + result.tools[0].cut > 3
            assert "order" not in counts

            plan = planned(found, params={"item": "tea"}, tools=["order"], allow=["order"])
            allowed = await trial(found, plan, duration=0.5, rate=50.0)
            assert allowed.allow == ("order",)
            assert (await seen.function())["order"] == allowed.calls + allowed.tools[0].cut

    with subprocess.Popen([sys.executable, str(SERVER), "--http"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            asyncio.run(run(f"http://127.0.0.1:{int(server.stdout.readline())}/mcp"))
        finally:
            server.kill()


# addresses


@pytest.mark.slow
def test_an_address() -> None:
    """An address is asked with GET, placeholders included; the server counts as many requests as are reported, and no retries."""

    async def run() -> tuple[TrialResult, TrialResult, int]:
        async with DemoProcess() as server:
            options = ("--header", "X-Api-Key:KEY")
            async with opened(f"{server.url}/users/{{id}}", headers={"X-Api-Key": "hidden"}, options=options) as found:
                assert found.options == options
                result = await trial(found, planned(found, params={"id": 3}), duration=1.0, rate=50.0)
            async with opened(f"{server.url}/no-such-route") as found:
                missing = await trial(found, planned(found), duration=1.0, rate=100.0)
            return result, missing, (await server.statistics()).count("user")

    result, missing, served = asyncio.run(run())
    assert result.calls == served
    assert result.errors == 0
    assert len(result.floor) == result.calls
    assert missing.failed
    assert missing.tools[0].errors == {"HttpStatusError": 10}


def test_a_refused_connection(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody listens the command ends with 1 and says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["try", f"http://127.0.0.1:{port}/users/1", "--no-store"]) == 1
    assert f"no connection to 127.0.0.1:{port}" in capsys.readouterr().err


def test_an_address_that_takes_connections_and_says_nothing_at_tls() -> None:
    """A server that never answers the TLS handshake is given up after the timeout."""

    async def run() -> None:
        async with opened(f"https://127.0.0.1:{port}/", timeout=0.1):
            raise AssertionError("it must not open")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(TransportError, match="within 100 ms"):
            asyncio.run(run())


@pytest.mark.parametrize("target", ["http://", "http://host:99999/", "http://127.0.0.1:x/", "http://[x/"])
def test_an_address_that_is_none(target: str) -> None:
    """An address without a host, or with a port that is none, is refused."""

    async def run() -> None:
        async with opened(target):
            raise AssertionError("it must not open")

    with pytest.raises(InvalidValueError, match=r"no host|no port"):
        asyncio.run(run())
