"""DemoProcess: a server in a process of its own, controlled over pipes, that never outlives who started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from skilllab.demo import DemoProcess, DemoServer, DemoSettings, Exponential, Stall
from skilllab.errors import InvalidValueError, SkilllabError

pytestmark = pytest.mark.slow  # each starts an interpreter


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


async def get(server: DemoProcess | DemoServer, path: str = "/users/17") -> tuple[int, bytes]:
    async with aiohttp.ClientSession(server.url) as client, client.get(path) as answer:
        return answer.status, await answer.read()


async def hold(server: DemoProcess) -> asyncio.Task[tuple[int, bytes]]:
    """A request that is in, at a server that stands still."""
    held = asyncio.create_task(get(server))
    while (await server.statistics()).in_flight == 0:  # noqa: ASYNC110 - the event is in another process
        await asyncio.sleep(0)
    return held


def test_it_serves_and_obeys(capfd: pytest.CaptureFixture[str]) -> None:
    """It answers what DemoServer answers, counts, logs, changes and stalls as that does, and says nothing on the way."""

    async def main() -> None:
        settings = DemoSettings(latency=Exponential(1e-4), seed=3, workers=1)
        async with DemoProcess(settings) as server, DemoServer(settings) as same:
            assert server.pid != os.getpid()
            assert await get(server) == await get(same)
            assert await server.configure(error_rate=1.0) == server.settings
            assert (await get(server))[0] == 500
            with pytest.raises(InvalidValueError, match="error_rate=3"):
                await server.configure(error_rate=3)
            await server.configure(error_rate=0.0)
            await server.stall()
            held = await hold(server)
            await server.resume()
            assert (await held)[0] == 200
            statistics, log = await server.statistics(), await server.log()
            assert statistics.requests == {"user": {200: 2, 500: 1}}
            assert [one.status for one in log] == [200, 500, 200]
            assert (await same.log())[0].done - (await same.log())[0].started == pytest.approx(
                log[0].done - log[0].started
            )

    run(main())
    assert capfd.readouterr() == ("", "")


def test_its_clock_is_ours() -> None:
    """Times of its log lie between times read here: both are time.monotonic of this machine."""

    async def main() -> None:
        async with DemoProcess() as server:
            before = asyncio.get_running_loop().time()
            await get(server)
            (one,) = await server.log()
            assert before <= one.arrived <= one.answered <= asyncio.get_running_loop().time()

    run(main())


def test_its_end_is_sure_and_clean(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """After aclose the process is gone with exit code 0, even with requests in a stall; warnings would have shown."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")

    async def main() -> None:
        server = await DemoProcess().start()
        await server.stall()
        process, url = server._process, server.url
        assert process is not None
        held = await hold(server)
        await server.aclose()
        await server.aclose()
        assert process.returncode == 0
        with pytest.raises(aiohttp.ClientError):
            await held
        async with aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.ClientConnectorError):
                await client.get(url)
        for use in (server.stall, server.statistics, server.log):
            with pytest.raises(SkilllabError, match="not running"):
                await use()

    run(main())
    assert capfd.readouterr() == ("", "")


def test_a_stuck_process_is_killed() -> None:
    """A process that does not end by itself within its grace is killed, also while a command waits for its answer."""

    async def main() -> None:
        server = await DemoProcess(grace=0.05).start()
        process = server._process
        assert process is not None
        os.kill(server.pid, signal.SIGSTOP)
        asked = asyncio.create_task(server.statistics())
        await asyncio.sleep(0)
        await server.aclose()
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(SkilllabError, match=r"ended with exit code -9: start another"):
            await asked

    run(main())


def test_a_dead_process_is_told() -> None:
    """When the process dies the next command says so, and closing and starting again work."""

    async def main() -> None:
        server = await DemoProcess().start()
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(SkilllabError, match=f"process {server.pid} has ended with exit code -9"):
            await server.statistics()
        await server.aclose()
        async with server:
            assert (await get(server))[0] == 200

    run(main())


def test_a_port_in_use_is_named() -> None:
    """A taken port is the same typed error as in DemoServer, and the attempt leaves no process."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = DemoProcess(port=port)
            with pytest.raises(InvalidValueError, match=f"port={port} is in use"):
                await server.start()
        with pytest.raises(SkilllabError, match="not running"):
            server.pid  # noqa: B018

    run(main())


def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    """Whoever cancels the start gets no process."""

    async def main() -> None:
        server = DemoProcess()
        starting = asyncio.create_task(server.start())
        while (process := server._process) is None:  # noqa: ASYNC110 - there is no event before the process
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert process.returncode is not None

    run(main())


def test_a_caller_who_leaves_disturbs_nobody() -> None:
    """A command whose caller is cancelled leaves the next caller its own answer."""

    async def main() -> None:
        async with DemoProcess() as server:
            for turns in range(4):
                asked = asyncio.create_task(server.log())
                for _ in range(turns):
                    await asyncio.sleep(0)
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                assert (await server.statistics()).count() == turns
                await get(server)
            answers = await asyncio.gather(*(server.statistics() for _ in range(20)), server.log())
            assert len(answers[-1]) == 4

    run(main())


def test_ctrl_c_is_not_for_it() -> None:
    """A signal to the group of who started it, as Ctrl-C and a notebook's interrupt send it, does not reach it."""

    async def main() -> None:
        async with DemoProcess() as server:
            assert os.getpgid(server.pid) != os.getpgid(0)

    run(main())


def arguments_of(pid: int) -> bytes:
    """What any user of the machine can read about a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_settings_travel_whole() -> None:
    """Everything that settings hold is in force in the process, from its first request on."""

    async def main() -> None:
        settings = DemoSettings(stall=Stall(0.5, 1000), token="hush", gzip=False, route_latency={"user": 0.001}, log=1)
        async with DemoProcess(settings) as server:
            async with aiohttp.ClientSession(server.url, headers={"Authorization": "Bearer hush"}) as client:
                async with client.get("/secret") as answer:
                    assert answer.status == 200
                async with client.get("/users/17") as answer:
                    assert answer.status == 200
            assert b"hush" not in arguments_of(server.pid)
            (one,) = await server.log()
            assert one.done - one.started == pytest.approx(0.001)

    run(main())


PARENT = """
    import asyncio, os, sys
    from skilllab.demo import DemoProcess

    async def main():
        server = await DemoProcess().start()
        {before}
        print(server.port, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


@contextlib.contextmanager
def parent(before: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that started a server, and the server's port; ends with what is left of it."""
    code = textwrap.dedent(PARENT.format(before=before))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_it_ends_with_its_parent() -> None:
    """When the parent is killed without a chance to clean up, the server ends: whoever held its error output is gone."""
    with parent() as (process, port):
        socket.create_connection(("127.0.0.1", port)).close()
        process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""  # ends when the last process that could write to it has ended
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_it_ends_though_a_sibling_holds_its_input_open() -> None:
    """A fork of the parent inherits the pipe to the server: its input does not end, and it sees that the parent is gone."""
    fork = "(os.fork() or (os.close(2), sys.stdin.read(), os._exit(0)))"
    with parent(fork) as (process, port):
        process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("source", ["terminal", "nothing", "empty pipe"])
def test_run_by_hand_it_says_what_to_run(source: str) -> None:
    """Without a parent that speaks to it the program ends: with advice, or in silence when a pipe ends at once."""
    terminal, ours = os.openpty()
    stdin = {"terminal": ours, "nothing": subprocess.DEVNULL, "empty pipe": subprocess.PIPE}[source]
    try:
        command = [sys.executable, "-m", "skilllab.demo"]
        with subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            out, err = process.communicate(timeout=60)
    finally:
        os.close(terminal)
        os.close(ours)
    assert (process.returncode, out) == (0 if source == "empty pipe" else 1, "")
    assert ("skilllab demo" in err) == bool(err) == bool(process.returncode)
