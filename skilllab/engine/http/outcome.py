"""What comes of a request: an output, or a failure in words of our own, since those of others may quote secrets."""

from __future__ import annotations

import os
from typing import Any

import aiohttp

from skilllab import format as fmt
from skilllab.engine.http.answer import Answer, UnreadableError, shortened, value_of
from skilllab.engine.http.ledger import BrokenError
from skilllab.engine.http.path import MissingError
from skilllab.engine.http.template import Failure, Request
from skilllab.errors import HttpStatusError, InvalidResponseError, LimitExceededError, TransportError

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})


def output_of(request: Request, answer: Answer) -> Any:
    """Returns the output that an answer holds, or the failure that says why it holds none."""
    path = request.template.path
    try:
        value = value_of(request.method, answer, path is not None)
    except UnreadableError as caught:
        why = str(caught)
    else:
        return value if path is None or not answer.body else picked(request, value)
    return unreadable(request, why)


def picked(request: Request, value: Any) -> Any:
    """Returns the part of a value at the skill's response_path, or the failure that says what is missing."""
    path = request.template.path
    if path is None:
        return value
    try:
        return path(value)
    except MissingError as caught:
        why = f"response_path={path.text!r}: {caught}"
    return unreadable(request, why)


def bad_status(request: Request, status: int, said: str, wait: float | None = None) -> Failure:
    """Returns the failure of a status of 400 or more. said: its body, of which the start is told. wait: see Failure."""
    said = shortened(request.scrub(said))  # in this order, as half a secret is not found
    message = f"{about(request)} answered {status}{f': {said}' if said else ''}"
    return Failure(HttpStatusError(message, status=status), status in RETRYABLE, wait)


def unreadable(request: Request, why: str) -> Failure:
    """Returns the failure of an answer that cannot be used, for a reason that the server may have worded."""
    return Failure(InvalidResponseError(f"{about(request)} gave an answer that cannot be used: {request.scrub(why)}"))


def too_large(request: Request, seen: int, limit: int) -> Failure:
    """Returns the failure of an answer of more than `limit` bytes, of which `seen` came or were announced."""
    message = (
        f"{about(request)} answered with more than {fmt.size(limit)}, which is all that its max_file_size, or else "
        "HttpOptions.max_bytes, allows: ask for less, or allow more"
    )
    return Failure(LimitExceededError(message, limit="max_file_size", allowed=limit, used=seen))


def unreachable(request: Request, error: Exception, timeout: float | None, *, answering: bool) -> Failure:
    """Returns the failure for an error of aiohttp. answering: whether the head of an answer had come."""
    if isinstance(error, aiohttp.ClientResponseError):
        return unreadable(request, f"it is no valid HTTP ({type(error.__cause__ or error).__name__})")
    again, stale = True, False
    if isinstance(error, TimeoutError):
        why = f"no whole answer within {fmt.duration(timeout)}"
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):
        why, again = "the certificate of the server is not to be trusted", False
    elif isinstance(error, aiohttp.ClientConnectorError):
        why = f"cannot connect: {_reason(error)}"
    elif answering:
        why = "the connection was cut within the answer"
    else:
        reason = str(error) if isinstance(error, BrokenError) else type(error).__name__
        why, stale = f"the connection broke before an answer came: {reason}", request.template.answered
    return Failure(TransportError(f"{about(request)}: {why}"), again, None, stale)


def _reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no such host"
    number = error.os_error.errno
    return os.strerror(number) if number is not None and number > 0 else type(error.os_error).__name__


def about(request: Request) -> str:
    """Returns the skill and its template, for the start of a message."""
    return f"{request.template.skill_id}: {request.shown}"
