"""Repetitions: which requests are sent again, when, and how it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from http_servers import Api, Sleeper, ask, body, execution, in_loop, raw_serving, running, talk

from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.errors import HttpStatusError, InvalidResponseError, SkilllabError, TransportError
from skilllab.testing import FakeClock

PATIENT = HttpOptions(max_backoff=1000.0)
RETRYABLE = [408, 425, 429, 500, 502, 503, 504]


class Replies:
    """A server that gives these statuses, with these headers, one after the other; then 200."""

    def __init__(self, statuses: Iterable[int], **headers: str) -> None:
        self._statuses = iter(statuses)
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    async def __call__(self, _: web.Request) -> web.Response:
        status = next(self._statuses, 200)
        if status == 200:
            return web.json_response("there")
        return web.Response(status=status, headers=self._headers, text="down")


def tried(
    statuses: Iterable[int],
    options: HttpOptions = PATIENT,
    /,
    *,
    headers: dict[str, str] | None = None,
    seams: dict[str, Any] | None = None,
    deadline: float | None = None,
    clock: FakeClock | None = None,
    **fields: Any,
) -> tuple[Any, int, int, list[float]]:
    """Returns the output or the error, how many requests arrived, the attempts, and what was slept."""
    sleeper = Sleeper(None if clock is None else clock.advance)

    async def work(runner: HttpRunner, api: Api) -> Any:
        made = execution(ask(api, **fields), deadline=deadline, clock=clock or FakeClock())
        try:
            output = await runner.run(made)
        except SkilllabError as error:
            output = error.with_traceback(None)
        assert made.usage.network_requests == len(api.requests)
        assert made.waited == 0
        return output, len(api.requests), made.attempts, sleeper.slept

    return talk(Replies(statuses, **(headers or {})), work, options, sleep=sleeper, **(seams or {}))


@pytest.mark.parametrize("status", RETRYABLE)
def test_a_passing_failure_is_tried_again(status: int) -> None:
    """A status that may pass is asked again, and the answer of the second attempt counts."""
    assert tried([status])[:3] == ("there", 2, 2)


@pytest.mark.parametrize("status", sorted({*range(400, 418), 422, 451, 501, 505, 507, 511} - set(RETRYABLE)))
def test_a_lasting_failure_is_not(status: int) -> None:
    """Any other status is final: one request, no sleep."""
    error, arrived, attempts, slept = tried([status])
    assert isinstance(error, HttpStatusError)
    assert error.status == status
    assert (arrived, attempts, slept) == (1, 1, [])


@pytest.mark.parametrize(
    ("method", "idempotent", "again"),
    [
        ("GET", None, True),
        ("HEAD", None, True),
        ("PUT", None, True),
        ("DELETE", None, True),
        ("POST", None, False),
        ("PATCH", None, False),
        ("POST", True, True),
        ("GET", False, False),
    ],
)
def test_only_what_does_no_harm_twice(method: str, idempotent: bool | None, again: bool) -> None:
    """The skill says whether a request may be repeated; else its method does; the error says when it was not."""
    output, arrived, attempts, _ = tried([503], method=method, idempotent=idempotent)
    assert arrived == attempts == (2 if again else 1)
    if not again:
        assert isinstance(output, HttpStatusError)
        assert "answered 503" in str(output)
        assert "idempotent=True" in str(output)


@pytest.mark.parametrize("retries", [0, 1, 3, 5])
def test_it_ends(retries: int) -> None:
    """After the last repetition the last error is raised, with the number of attempts."""
    error, arrived, attempts, slept = tried([503] * 9, HttpOptions(retries=retries))
    assert isinstance(error, HttpStatusError)
    assert arrived == attempts == retries + 1
    assert len(slept) == retries
    assert ("after" in str(error)) is (retries > 0)
    assert str(error).endswith(f"down; after {retries + 1} attempts" if retries else "answered 503: down")


@pytest.mark.parametrize(
    ("chance", "waits"), [(0.5, [1.0, 2.0, 4.0]), (0.0, [0.5, 1.0, 2.0]), (0.999, [1.499, 2.998, 5.996])]
)
def test_the_waits_double_and_are_jittered(chance: float, waits: list[float]) -> None:
    """The first wait is half to one and a half of the backoff by chance, and each later one of twice as much."""
    assert tried([500] * 9, seams={"random": lambda: chance})[3] == pytest.approx(waits)


def test_the_jitter_differs_between_callers() -> None:
    """With its own source of chance no two executions that fail together wait equally long."""
    slept = [tuple(tried([500] * 9, seams={"random": random.random})[3]) for _ in range(5)]
    assert len(set(slept)) == 5


def test_a_wait_has_an_end() -> None:
    """No backoff is longer than max_backoff."""
    assert tried([500] * 9, HttpOptions(retries=5, max_backoff=3.0))[3] == [1.0, 2.0, 3.0, 3.0, 3.0]


# Retry-After


@pytest.mark.parametrize(
    ("value", "waits"),
    [
        ("7", [7.0]),
        ("0", [0.0]),
        (" 12 ", [12.0]),
        (formatdate(1_000_030, usegmt=True), [30.0]),
        (formatdate(1_000_030), [30.0]),
        (formatdate(999_000, usegmt=True), [0.0]),
        ("soon", [1.0]),
        ("-5", [1.0]),
        ("1.5", [1.0]),
        ("", [1.0]),
        ("Sun, 99 Foo 2026 99:99:99 GMT", [1.0]),
    ],
)
def test_the_server_says_when(value: str, waits: list[float]) -> None:
    """Retry-After in seconds or as a date is waited for exactly; what cannot be read is as if it were not there."""
    result = tried([429], headers={"Retry_After": value}, seams={"wall_clock": lambda: 1_000_000.0})
    assert result == ("there", 2, 2, waits)


@pytest.mark.parametrize("value", ["1001", "99999999999999999999", formatdate(3_000_000, usegmt=True)])
def test_a_server_that_asks_for_too_much_is_not_waited_for(value: str) -> None:
    """A wait of more than max_backoff ends at once, and the error says so."""
    error, arrived, _, slept = tried([503], headers={"Retry_After": value}, seams={"wall_clock": lambda: 1_000_000.0})
    assert isinstance(error, HttpStatusError)
    assert "down; not repeated, as it shall wait" in str(error)
    assert (arrived, slept) == (1, [])


# the deadline


@pytest.mark.parametrize(
    ("deadline", "slept"),
    [(0.5, []), (1.0, []), (1.001, [1.0]), (3.0, [1.0]), (3.5, [1.0, 2.0]), (100.0, [1.0, 2.0, 4.0])],
)
def test_nobody_sleeps_past_the_deadline(deadline: float, slept: list[float]) -> None:
    """A wait that would reach the deadline is not begun: the last error comes at once and says why."""
    clock = FakeClock(50.0)
    error, arrived, attempts, waits = tried([503] * 9, deadline=50.0 + deadline, clock=clock)
    assert isinstance(error, HttpStatusError)
    assert waits == slept
    assert arrived == attempts == len(slept) + 1
    assert clock() <= 50.0 + deadline
    if len(slept) < 3:
        assert f"not repeated after {attempts} of 4 attempts, as the next one is due in" in str(error)


def test_retry_after_does_not_pass_the_deadline() -> None:
    """What the server asks for counts against the deadline too."""
    error, _, _, slept = tried([429], headers={"Retry_After": "10"}, deadline=9.0, clock=FakeClock())
    assert isinstance(error, HttpStatusError)
    assert slept == []


# connections


def test_connections_that_fail_are_tried_again() -> None:
    """A server that cuts, answers half, stalls and then answers is asked four times."""

    async def main() -> None:
        turns = iter(["cut", "half", "stall"])

        async def moody(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            turn = next(turns, "answer")
            if turn == "half":
                writer.write(body(b'{"a":', length=100))
            elif turn == "stall":
                await asyncio.sleep(20)
            elif turn == "answer":
                writer.write(body(b'"there"'))
            await writer.drain()

        sleeper = Sleeper()
        async with raw_serving(moody) as url, running(HttpOptions(timeout=0.05), sleep=sleeper) as runner:
            made = execution(ask(url))
            assert await runner.run(made) == "there"
            assert (made.attempts, made.usage.network_requests) == (4, 4)
            assert sleeper.slept == [1.0, 2.0, 4.0]

    in_loop(main)


def test_the_last_of_different_failures_is_told() -> None:
    """The error is that of the last attempt."""

    async def main() -> None:
        turns = iter([b"", body(b"", length=5), b""])

        async def moody(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(next(turns, b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\ndown"))
            await writer.drain()

        async with raw_serving(moody) as url, running() as runner:
            with pytest.raises(HttpStatusError, match="answered 503: down; after 4 attempts"):
                await runner.run(execution(ask(url)))

    in_loop(main)


def test_an_answer_that_cannot_be_read_is_final() -> None:
    """A whole answer of broken JSON is not asked for again."""

    async def broken(_: web.Request) -> web.Response:
        return web.Response(text="{", content_type="application/json")

    async def work(runner: HttpRunner, api: Api) -> None:
        with pytest.raises(InvalidResponseError):
            await runner.run(execution(ask(api)))
        assert len(api.requests) == 1

    talk(broken, work)


def test_a_kept_connection_that_ended_is_replaced_at_once() -> None:
    """When a server closed an idle connection, the next call is sent again without a wait, as its second attempt."""

    async def main() -> None:
        async def one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(body(b'"there"'))
            await reader.readuntil(b"\r\n\r\n")  # the second request on this connection gets no answer

        sleeper = Sleeper()
        async with raw_serving(one_answer) as url, running(sleep=sleeper) as runner:
            skill = ask(url)
            assert await runner.run(execution(skill)) == "there"
            made = execution(skill)
            assert await runner.run(made) == "there"
            assert (made.attempts, made.usage.network_requests) == (2, 2)
            assert sleeper.slept == [0.0]

    in_loop(main)


def test_cancelling_ends_the_sleep() -> None:
    """A caller that is cancelled while it waits for a repetition leaves at once; what it sent is counted."""

    async def main() -> None:
        sleeping = asyncio.Event()

        async def sleep(_: float) -> None:
            sleeping.set()
            await asyncio.sleep(20)

        async def down(_: web.Request) -> web.Response:
            return web.Response(status=503)

        async def work(runner: HttpRunner, api: Api) -> None:
            made = execution(ask(api))
            task = asyncio.create_task(runner.run(made))
            await sleeping.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (made.usage.network_requests, made.attempts) == (1, 1)

        from http_servers import serving

        async with serving(down) as api, running(sleep=sleep) as runner:
            await work(runner, api)

    in_loop(main)


def test_who_succeeds_at_once_never_enters_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retry loop is not built for a call that succeeds."""
    import tenacity

    def built(*_: object, **__: object) -> None:
        raise AssertionError("a retry loop was built")

    monkeypatch.setattr(tenacity.AsyncRetrying, "__init__", built)
    assert tried([])[0] == "there"
    with pytest.raises(AssertionError, match="a retry loop was built"):
        tried([503])


def test_a_refused_connection_is_tried_again() -> None:
    """A server that comes up during the waits is found."""

    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        started: list[Any] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(body(b'"there"'))
            writer.close()

        async def sleep(_: float) -> None:
            if not started:
                started.append(await asyncio.start_server(answer, "127.0.0.1", port))

        async with running(sleep=sleep) as runner:
            made = execution(ask(f"http://127.0.0.1:{port}"))
            assert await runner.run(made) == "there"
            assert (made.attempts, made.usage.network_requests) == (2, 1)
        started[0].close()

    in_loop(main)


def test_the_error_of_a_timeout_says_so() -> None:
    """When every attempt times out, the error has the timeout and the attempts."""

    async def stall(_: web.Request) -> web.Response:
        await asyncio.sleep(20)
        return web.Response()

    async def work(runner: HttpRunner, api: Api) -> None:
        with pytest.raises(TransportError, match=r"no whole answer within 10\.0 ms; after 2 attempts"):
            await runner.run(execution(ask(api)))

    talk(stall, work, HttpOptions(timeout=0.01, retries=1))
