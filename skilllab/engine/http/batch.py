"""HttpSharing: calls of one skill that share requests to its batch endpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from skilllab.engine.batching import RequestBatcher
from skilllab.engine.execution import Execution
from skilllab.engine.http.answer import Answer, UnreadableError, value_of
from skilllab.engine.http.exchange import Wire
from skilllab.engine.http.fill import json_bytes
from skilllab.engine.http.ledger import Ledger, SharedLedger
from skilllab.engine.http.outcome import about, bad_status, picked, too_large, unreadable
from skilllab.engine.http.template import Failure, Request, RequestTemplate
from skilllab.errors import BatchError

_LONGEST = 2**16  # characters of an error, of which the start is told


class _Call(NamedTuple):
    """One execution in a batch. params: JSON. allowed: bytes that its part of the answer may have."""

    params: bytes
    ledger: Ledger
    allowed: int


class HttpSharing:
    """Collects the calls of one skill into requests, and hands each its part of the answer.

    A call is charged for each request that it shares, and waits while its batch fills. A failed request fails all its
    calls; each tries again for itself, with the same delay, so that they share the next one too. The whole answer may have
    the bytes of the most generous call; a call that may have less is held to it in its own part.
    """

    def __init__(
        self,
        template: RequestTemplate,
        wire: Wire,
        max_wait: float,
        random: Callable[[], float],
        environ: Mapping[str, str],
    ) -> None:
        assert template.batch is not None
        self._template = template
        self._names = template.batch
        self._wire = wire
        self._random = random
        self._environ = environ
        self._batcher: RequestBatcher[_Call, Any] = RequestBatcher(
            self._send, max_size=template.batch.max_size, max_wait=max_wait
        )

    async def call(self, execution: Execution, ledger: Ledger, allowed: int) -> Any:
        """Returns the output of one call, or its Failure."""
        params = self._template.batch_item(execution.params)
        if type(params) is Failure:
            return params
        obstacle = ledger.obstacle()
        if obstacle is not None:
            return obstacle
        ledger.begin_wait()
        try:
            return await self._batcher.submit(_Call(params, ledger, allowed), started=ledger.end_wait)
        finally:
            ledger.end_wait()

    async def aclose(self) -> None:
        """Sends what waits."""
        await self._batcher.aclose()

    async def _send(self, calls: list[_Call]) -> list[Any]:
        request = self._template.render_batch([call.params for call in calls], self._environ)
        if type(request) is Failure:
            return self._for_all(request, calls)
        ledger = SharedLedger([call.ledger for call in calls])
        answer = await self._wire.exchange(request, ledger, max(call.allowed for call in calls))
        if type(answer) is Failure:
            return self._for_all(answer, calls)
        parts = self._parts(request, answer, len(calls))
        if type(parts) is Failure:
            return self._for_all(parts, calls)
        chance = self._random()
        outputs = []
        for call, part in zip(calls, parts, strict=True):
            output = self._output(request, part, len(answer.body), call.allowed)
            outputs.append(output._replace(chance=chance) if type(output) is Failure else output)
        return outputs

    def _for_all(self, failure: Failure, calls: list[_Call]) -> list[Any]:
        """Returns the failure for each call, with an error of its own to raise."""
        failure = failure._replace(chance=self._random())
        return [failure._replace(error=copy.copy(failure.error)) for _ in calls]

    def _parts(self, request: Request, answer: Answer, count: int) -> Any:
        """Returns the list of answers, one for each call, or a Failure."""
        name = self._names.answers
        try:
            document = value_of(request.method, answer, must_be_json=True)
        except UnreadableError as caught:
            why = str(caught)
        else:
            parts = document.get(name) if isinstance(document, dict) else None
            if isinstance(parts, list) and len(parts) == count:
                return parts
            found = f"{len(parts)} answers" if isinstance(parts, list) else f"no list of answers ({name!r})"
            return Failure(
                BatchError(f"{about(request)} gave {found} to {count} calls: it must give one for each, in order")
            )
        return unreadable(request, why)

    def _output(self, request: Request, part: Any, size: int, allowed: int) -> Any:
        """Returns what one part of an answer of `size` bytes gives its call, or a Failure."""
        status = part.get("status") if isinstance(part, dict) else None
        if type(status) is not int:
            return unreadable(request, 'an answer of the batch is no {"status": 200, "body": ...}')
        body = part.get("body")
        if status >= 400:
            said = "" if body is None else json.dumps(body, ensure_ascii=False)
            return bad_status(request, status, said if len(said) <= _LONGEST else "")
        if size > allowed and (own := len(json_bytes(body))) > allowed:
            return too_large(request, own, allowed)
        return picked(request, body)
