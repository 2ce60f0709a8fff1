"""Calls that share requests to a batch endpoint."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from aiohttp import web
from http_servers import FAST, Api, Sleeper, ask, execution, in_loop, running, serving, talk

from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.errors import (
    BatchError,
    EngineClosedError,
    ExecutionError,
    HostNotAllowedError,
    HttpStatusError,
    InvalidParametersError,
    InvalidResponseError,
    LimitExceededError,
    SecretError,
    TransportError,
)
from skilllab.model import ResourceLimits, SkillDefinition


async def doubles(request: web.Request) -> web.Response:
    """Answers each item n with 2n, a negative one with a status of 422, and a missing one with 503."""
    parts: list[dict[str, Any]] = []
    for item in (await request.json())["items"]:
        if item["n"] < 0:
            parts.append({"status": 422, "body": {"why": "negative"}})
        else:
            parts.append({"status": 200, "body": {"n": 2 * item["n"], "path": request.path_qs}})
    return web.json_response({"answers": parts})


def skill(api: Api, **fields: Any) -> SkillDefinition:
    batch = {"url": f"{api.url}/batch", **fields.pop("batch", {})}
    return ask(api, "/{n}", **{"response_path": "n", **fields}, batch=batch)


async def all_of(runner: HttpRunner, made: list[Any]) -> list[Any]:
    return await asyncio.gather(*map(runner.run, made), return_exceptions=True)


def sizes(api: Api, name: str = "items") -> list[int]:
    return [len(json.loads(content)[name]) for content in api.bodies]


def test_calls_share_requests() -> None:
    """Twelve calls at once are three requests of at most five, and each gets its own answer."""

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        made = [execution(one, {"n": n}) for n in range(12)]
        assert await all_of(runner, made) == [2 * n for n in range(12)]
        assert sizes(api) == [5, 5, 2]
        assert [each.usage[2:4] for each in made] == [(1, 0)] * 12
        assert all(each.attempts == 1 for each in made)

    talk(doubles, work)


def test_the_time_in_the_queue_is_waiting() -> None:
    """Alone in its batch a call waits for company as long as batch_wait, which is noted as waiting."""

    async def work(runner: HttpRunner, api: Api) -> None:
        made = execution(skill(api), {"n": 1})
        assert await runner.run(made) == 2
        assert 0.02 <= made.waited < 5

    talk(doubles, work, HttpOptions(batch_wait=0.02))


def test_one_bad_item_fails_alone() -> None:
    """A status of 400 or more, and a part that is no answer, fail their call and no other."""

    async def handler(request: web.Request) -> web.Response:
        parts: list[Any] = [
            {"status": 200, "body": {"n": 0}},
            {"status": 404, "body": "no such n"},
            "?",
            {"status": True},
        ]
        return web.json_response({"answers": [*parts, {"status": 200, "body": {}}]})

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        good, missing, odd, untyped, partless = await all_of(runner, [execution(one, {"n": n}) for n in range(5)])
        assert good == 0
        assert isinstance(missing, HttpStatusError)
        assert missing.status == 404
        assert 'answered 404: "no such n"' in str(missing)
        for broken in (odd, untyped):
            assert isinstance(broken, InvalidResponseError)
            assert '{"status": 200, "body": ...}' in str(broken)
        assert isinstance(partless, InvalidResponseError)
        assert "response_path='n'" in str(partless)

    talk(handler, work)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"answers": []}, "gave 0 answers to 2 calls"),
        ({"answers": [1, 2, 3]}, "gave 3 answers to 2 calls"),
        ({"answers": {}}, "gave no list of answers"),
        ({"other": [1, 2]}, "gave no list of answers"),
        ([1, 2], "gave no list of answers"),
        (None, "gave no list of answers"),
    ],
)
def test_answers_that_do_not_match_fail_all(document: Any, why: str) -> None:
    """Too few, too many or no answers fail every call with an error of its own that names the batch."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(document)

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        errors = await all_of(runner, [execution(one, {"n": n}) for n in range(2)])
        assert all(isinstance(error, BatchError) for error in errors)
        assert all(f"s: POST {api.url}/batch {why}" in str(error) for error in errors)
        assert errors[0] is not errors[1]

    talk(handler, work)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ({"status": 400, "text": "what?"}, HttpStatusError),
        ({"status": 307, "headers": {"Location": "/elsewhere"}}, InvalidResponseError),
        ({"text": "{", "content_type": "application/json"}, InvalidResponseError),
        ({"status": 204}, BatchError),
    ],
)
def test_a_failed_batch_fails_all(reply: dict[str, Any], kind: type[ExecutionError]) -> None:
    """What is wrong with the whole answer is the error of every call in it; a redirect is not followed."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(**reply)

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        made = [execution(one, {"n": n}) for n in range(3)]
        errors = await all_of(runner, made)
        assert [type(error) for error in errors] == [kind] * 3
        assert len({id(error) for error in errors}) == 3
        assert len(api.requests) == 1
        assert [each.usage[2:4] for each in made] == [(1, 0)] * 3

    talk(handler, work)


def test_names_and_method_of_the_batch() -> None:
    """The definition says method, URL and names; without a body there is nothing but what the batch says."""

    async def handler(request: web.Request) -> web.Response:
        calls = (await request.json())["calls"]
        return web.json_response({"results": [{"status": 200, "body": [request.method, call]} for call in calls]})

    async def work(runner: HttpRunner, api: Api) -> Any:
        one = skill(
            api, batch={"method": "PUT", "items": "calls", "answers": "results", "max_size": 2}, response_path=None
        )
        answers = await all_of(runner, [execution(one, {"n": n}) for n in range(3)])
        assert sizes(api, "calls") == [2, 1]
        return answers

    assert talk(handler, work) == [["PUT", {"n": n}] for n in range(3)]


def test_skills_and_revisions_do_not_mix() -> None:
    """Calls of two skills never share a request."""

    async def work(runner: HttpRunner, api: Api) -> None:
        two = [skill(api), skill(api)]
        for number, each in enumerate(two):
            object.__setattr__(each, "id", f"s{number}")
        assert await all_of(runner, [execution(two[n % 2], {"n": n}) for n in range(4)]) == [0, 2, 4, 6]
        assert sizes(api) == [2, 2]

    talk(doubles, work)


# budgets and limits


def test_each_call_is_charged_for_the_requests_it_shares() -> None:
    """A call without a request left is refused and leaves the others served; a shared one counts for each."""

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        budgets = [0, 1, 2, None]
        made = [
            execution(one, {"n": n}, None if budget is None else ResourceLimits(max_network_requests=budget))
            for n, budget in enumerate(budgets)
        ]
        outputs = await all_of(runner, made)
        assert isinstance(outputs[0], LimitExceededError)
        assert outputs[1:] == [2, 4, 6]
        assert sizes(api) == [3]
        assert [each.usage.network_requests for each in made] == [0, 1, 1, 1]

    talk(doubles, work)


def test_a_failed_batch_is_tried_again_together() -> None:
    """After 503 the calls that may go on share the next request too; those whose budget is spent do not."""
    slept = Sleeper()

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        made = [execution(one, {"n": n}, ResourceLimits(max_network_requests=1 + n)) for n in range(4)]
        outputs = await all_of(runner, made)
        assert isinstance(outputs[0], LimitExceededError)
        assert "answered 503" in str(outputs[0])
        assert outputs[1:] == [2, 4, 6]
        assert sizes(api) == [4, 3]
        assert [each.usage.network_requests for each in made] == [1, 2, 2, 2]
        assert [each.attempts for each in made] == [1, 2, 2, 2]
        assert len(set(slept.slept)) == 1  # one throw of the dice for all of them

    states = iter([503])

    async def handler(request: web.Request) -> web.Response:
        status = next(states, 200)
        return await doubles(request) if status == 200 else web.Response(status=status)

    talk(handler, work, sleep=slept, random=random.Random(1).random)


def test_one_item_is_tried_again_alone() -> None:
    """A part that says 503 is asked again, without those that were answered."""
    first = True

    async def handler(request: web.Request) -> web.Response:
        nonlocal first
        items = (await request.json())["items"]
        parts = [{"status": 503 if first and item["n"] == 1 else 200, "body": {"n": item["n"]}} for item in items]
        first = False
        return web.json_response({"answers": parts})

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        made = [execution(one, {"n": n}) for n in range(3)]
        assert await all_of(runner, made) == [0, 1, 2]
        assert sizes(api) == [3, 1]
        assert [each.usage.network_requests for each in made] == [1, 2, 1]

    talk(handler, work)


def test_a_batch_of_what_may_not_be_repeated_is_not() -> None:
    """The skill's own method or word says whether a batch may be sent again."""

    async def down(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api, method="POST")
        errors = await all_of(runner, [execution(one, {"n": n}) for n in range(2)])
        assert all("not repeated" in str(error) for error in errors)
        assert len(api.requests) == 1

    talk(down, work)


def test_bytes_are_limited_for_each_part() -> None:
    """The whole answer may be larger than one call allows; its own part may not."""

    async def handler(request: web.Request) -> web.Response:
        items = (await request.json())["items"]
        return web.json_response({"answers": [{"status": 200, "body": {"n": "x" * item["n"]}} for item in items]})

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        limits = ResourceLimits(max_file_size=500)
        made = [execution(one, {"n": n}, limits if n < 700 else None) for n in (10, 480, 600, 800)]
        outputs = await all_of(runner, made)
        assert [len(output) if isinstance(output, str) else type(output) for output in outputs] == [
            10, 480, LimitExceededError, 800,
        ]  # fmt: skip
        assert (outputs[2].limit, outputs[2].allowed, outputs[2].used) == ("max_file_size", 500, 608)
        both = await all_of(runner, [execution(one, {"n": 1000}, limits) for _ in range(2)])
        assert all(isinstance(error, LimitExceededError) for error in both)

    talk(handler, work)


# callers that leave, and the end


def test_a_cancelled_caller_leaves_the_others_served() -> None:
    """Before its batch it takes its item along; within it the request goes on, and counts for it as well."""

    async def main() -> None:
        go = asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            await go.wait()
            return await doubles(request)

        async with serving(handler) as api, running(HttpOptions(batch_wait=0.01)) as runner:
            one = skill(api)
            made = [execution(one, {"n": n}) for n in range(4)]
            tasks = [asyncio.create_task(runner.run(each)) for each in made]
            await asyncio.sleep(0)
            tasks[0].cancel()
            await api.asked()
            tasks[1].cancel()
            await asyncio.wait(tasks[:2])
            assert [task.cancelled() for task in tasks[:2]] == [True, True]
            assert [each.usage.network_requests for each in made[:2]] == [0, 1]
            go.set()
            assert [await tasks[2], await tasks[3]] == [4, 6]
            assert sizes(api) == [3]

    in_loop(main)


def test_a_batch_that_all_left_is_ended() -> None:
    """When the last caller leaves, the request is cancelled with it."""

    async def main() -> None:
        ended = asyncio.Event()

        async def handler(_: web.Request) -> web.Response:
            try:
                await asyncio.sleep(20)
            finally:
                ended.set()
            return web.Response()

        async with serving(handler) as api, running() as runner:
            one = skill(api)
            tasks = [asyncio.create_task(runner.run(execution(one, {"n": n}))) for n in range(2)]
            await api.asked()
            for task in tasks:
                task.cancel()
            await ended.wait()

    in_loop(main)


def test_closing_sends_what_waits() -> None:
    """A call that still waits for company when the runner is closed is served before the connections go."""

    async def main() -> None:
        async with serving(doubles) as api:
            runner = HttpRunner(HttpOptions(batch_wait=20.0))
            task = asyncio.create_task(runner.run(execution(skill(api), {"n": 4})))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await runner.aclose()
            assert await task == 8
            with pytest.raises(EngineClosedError):
                await runner.run(execution(skill(api), {"n": 4}))

    in_loop(main)


def test_errors_before_a_batch_is_sent() -> None:
    """A missing secret and a host that is not allowed fail each call, and nothing leaves."""

    async def work(runner: HttpRunner, api: Api) -> None:
        for fields, params, kind in (
            ({"headers": {"A": "{t}"}, "secrets": {"t": "T"}}, {"n": 1}, SecretError),
            ({"allowed_hosts": ["localhost"]}, {"n": 1}, HostNotAllowedError),
        ):
            one = skill(api, **fields)  # type: ignore[arg-type]
            made = [execution(one, params) for _ in range(2)]  # type: ignore[arg-type]
            errors = await all_of(runner, made)
            assert [type(error) for error in errors] == [kind] * 2
            assert all(each.usage.network_requests == 0 for each in made)
        assert api.requests == []

    talk(doubles, work)


def test_parameters_that_are_no_json_fail_alone() -> None:
    """A call that cannot be sent does not spoil its neighbours' batch."""

    async def work(runner: HttpRunner, api: Api) -> None:
        one = skill(api)
        bad, good = await all_of(runner, [execution(one, {"n": float("nan")}), execution(one, {"n": 1})])
        assert isinstance(bad, InvalidParametersError)
        assert good == 2
        assert sizes(api) == [1]

    talk(doubles, work)


def test_max_duration_of_a_batch() -> None:
    """A call's max_duration runs from its batch's start: the time it waits for company does not count."""

    async def main() -> None:
        async def slow(request: web.Request) -> web.Response:
            await asyncio.sleep(20 if (await request.json())["items"][0]["n"] == 0 else 0)
            return await doubles(request)

        async with serving(slow) as api, running(HttpOptions(batch_wait=0.1)) as runner:
            one = skill(api)
            limits = ResourceLimits(max_duration=0.06)
            assert await runner.run(execution(one, {"n": 3}, limits)) == 6
            with pytest.raises(LimitExceededError, match="max_duration"):
                await runner.run(execution(one, {"n": 0}, limits))

    in_loop(main)


def test_a_cut_connection_fails_all() -> None:
    """A batch whose connection breaks is a TransportError of each call."""

    async def main() -> None:
        async def cut(request: web.Request) -> web.Response:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        async with serving(cut) as api, running(FAST) as runner:
            one = skill(api)
            errors = await all_of(runner, [execution(one, {"n": n}) for n in range(2)])
            assert [type(error) for error in errors] == [TransportError] * 2
            assert all("after 4 attempts" in str(error) for error in errors)
            assert sizes(api) == [2, 2, 2, 2]

    in_loop(main)
