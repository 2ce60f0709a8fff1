"""The error tree.

SkilllabError
├── InvalidValueError (ValueError)            an argument
│   └── InvalidParametersError                the parameters of a skill call
│       └── CacheKeyError                     a cache key that the parameters do not have
├── InvalidDefinitionError (ValueError)       a skill definition
├── DuplicateSkillError (ValueError)          an id or a name that is taken
├── SkillNotFoundError (LookupError)          an id that nobody registered
├── CatalogueError (ValueError)               a catalogue file
├── TraceError (ValueError)                   a trace file
├── HistoryError                              a file with the history of runs
├── SingleFlightError (RuntimeError)          a flight that waits for itself
└── ExecutionError                            one execution
    ├── LimitNotEnforceableError              a limit that nothing here can hold
    ├── HandlerNotRunnableError               a handler that no runner takes, or that cannot be imported
    ├── EngineClosedError                     an engine after aclose()
    ├── WrongLoopError                        an engine of another event loop
    ├── QueueFullError                        no place, and no room to wait for one
    ├── CircuitOpenError                      a skill that failed too often just now
    ├── ExecutionTimeoutError (TimeoutError)  a caller that waited long enough
    ├── ExecutionCancelledError               engine.cancel()
    ├── LimitExceededError                    more of a resource than a limit allows
    ├── BatchError                            a batch whose answers do not match its items
    ├── LeaseError                            a connection that a pool cannot give
    ├── SecretError                           an environment variable that is not set
    ├── HostNotAllowedError                   a URL outside the allowed hosts
    ├── TransportError (ConnectionError)      a connection that failed, an answer cut off
    │   └── ServerLostError                   an MCP server that ended or never answered
    ├── HttpStatusError                       an answer that says error
    ├── InvalidResponseError                  an answer that cannot be read
    └── SkillFailedError                      the skill's own code raised
        ├── InvalidOutputError                what it returned does not fit its output schema
        └── ToolError                         a tool of an MCP server answered with an error

Every message gives the offending value and what to do about it.
"""

from __future__ import annotations

from typing import Any


class SkilllabError(Exception):
    """Raised when skilllab cannot do what was asked; the base of every error below."""


class InvalidValueError(SkilllabError, ValueError):
    """Raised when an argument has a wrong type or a value without a meaning."""


class InvalidParametersError(InvalidValueError):
    """Raised when the parameters of a call do not fit the skill's input schema.

    `skill_id` names the skill; `path` is the JSON Pointer of the first offending value ("" is the whole object).
    """

    def __init__(self, message: str, *, skill_id: str, path: str = "") -> None:
        super().__init__(message)
        self.skill_id = skill_id
        self.path = path

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"skill_id": self.skill_id, "path": self.path})


class CacheKeyError(InvalidParametersError):
    """Raised when the parameters of a call do not have the path that the skill's cache_key names."""


class InvalidDefinitionError(SkilllabError, ValueError):
    """Raised when a skill definition is not valid; `field` names the first offending field."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"field": self.field})


class DuplicateSkillError(SkilllabError, ValueError):
    """Raised when an id, or a name within a layer, is already registered."""


class SkillNotFoundError(SkilllabError, LookupError):
    """Raised when no skill with the id is registered; `skill_ids` holds every id that is missing."""

    def __init__(self, message: str, *, skill_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.skill_ids = skill_ids

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"skill_ids": self.skill_ids})


class CatalogueError(SkilllabError, ValueError):
    """Raised when a catalogue cannot be read or has bad entries; `problems` holds one row for each."""

    def __init__(self, message: str, *, problems: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"problems": self.problems})


class TraceError(SkilllabError, ValueError):
    """Raised when a trace file cannot be read, is half written, or is made of unusable columns."""


class HistoryError(SkilllabError):
    """Raised when a history file cannot be read or written: corrupt, newer, another program's, busy or out of room."""


class SingleFlightError(SkilllabError, RuntimeError):
    """Raised when a single-flight function would wait for itself: it calls itself with the same arguments, or others do for it."""


class ExecutionError(SkilllabError):
    """Raised when one execution of a skill fails; the base of the reasons below.

    `trips_breaker` says what it tells a circuit breaker: True that the skill failed, False that it works (it answered,
    if not as hoped), None nothing.
    """

    trips_breaker: bool | None = None


class LimitNotEnforceableError(ExecutionError):
    """Raised when a call asks for a limit that nothing here can hold; `limits` names them. The skill did not start."""

    def __init__(self, message: str, *, limits: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.limits = limits

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"limits": self.limits})


class IsolationError(ExecutionError):
    """Raised when the isolation that is asked for cannot be had here, or a sandbox cannot be started."""


class WorkerLostError(ExecutionError):
    """Raised when the process that ran a skill ended, or broke its word, and no limit was the reason.

    `status` is its exit status, negative for a signal, None where it is not known. Another process takes its place.
    """

    trips_breaker = True

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"status": self.status})


class HandlerNotRunnableError(ExecutionError):
    """Raised when no runner takes the kind of handler, or the handler cannot be imported."""


class EngineClosedError(ExecutionError):
    """Raised when an engine, or what belongs to one (a batcher, a resource manager), is used after it was closed."""


class WrongLoopError(ExecutionError):
    """Raised when an engine is used on another event loop than the one that first used it."""


class QueueFullError(ExecutionError):
    """Raised when every place is taken and as many calls wait as may; `limit` and `waiting` say how many."""

    def __init__(self, message: str, *, limit: int, waiting: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.waiting = waiting

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"limit": self.limit, "waiting": self.waiting})


class CircuitOpenError(ExecutionError):
    """Raised when a skill failed too often just now; it is tried again in `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"retry_after": self.retry_after})


class ExecutionTimeoutError(ExecutionError, TimeoutError):
    """Raised when the caller waited for `timeout` seconds, most of them in the `stage` "queue", "run" or "cleanup"."""

    trips_breaker = True

    def __init__(self, message: str, *, timeout: float, stage: str) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.stage = stage

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"timeout": self.timeout, "stage": self.stage})


class ExecutionCancelledError(ExecutionError):
    """Raised when an execution is ended by `engine.cancel`, or by closing the engine."""


class LimitExceededError(ExecutionError):
    """Raised when a skill used more of a resource than its `limit` allows; `allowed` and `used` in the limit's unit."""

    trips_breaker = True

    def __init__(self, message: str, *, limit: str, allowed: float, used: float | None) -> None:
        super().__init__(message)
        self.limit = limit
        self.allowed = allowed
        self.used = used

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"limit": self.limit, "allowed": self.allowed, "used": self.used})


class BatchError(ExecutionError):
    """Raised when a batch function does not answer each of its items; every call of the batch fails with it."""


class LeaseError(ExecutionError):
    """Raised when a pool cannot give a connection: no pool has the name, it is closed, or opening one failed."""


class SecretError(ExecutionError):
    """Raised when the environment variable of a secret is not set; names the variable, never a value."""


class HostNotAllowedError(ExecutionError):
    """Raised when a request or a redirect would go to a host that the skill or the engine does not allow."""


class TransportError(ExecutionError, ConnectionError):
    """Raised when a server cannot be reached, or a connection breaks before the whole answer came."""

    trips_breaker = True


class ServerLostError(TransportError):
    """Raised when an MCP server cannot be started or reached, does not answer, or ends; `skill_id` of the call that met it."""

    def __init__(self, message: str, *, skill_id: str = "") -> None:
        super().__init__(message)
        self.skill_id = skill_id

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"skill_id": self.skill_id})


class HttpStatusError(ExecutionError):
    """Raised when a server answers with a `status` of 400 or more; a server's own failure counts against the skill."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.trips_breaker = status >= 500 or status in (408, 429)

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"status": self.status})


class InvalidResponseError(ExecutionError):
    """Raised when an answer is not what the skill says it is: no JSON, broken compression, a path that is not there."""


class SkillFailedError(ExecutionError):
    """Raised when the skill's own code raised; the original error is the `__cause__`."""

    trips_breaker = False


class InvalidOutputError(SkillFailedError):
    """Raised when a skill returned what its output schema does not allow.

    `skill_id` names the skill; `path` is the JSON Pointer of the first offending value ("" is the whole output).
    """

    def __init__(self, message: str, *, skill_id: str, path: str = "") -> None:
        super().__init__(message)
        self.skill_id = skill_id
        self.path = path

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"skill_id": self.skill_id, "path": self.path})


class ToolError(SkillFailedError):
    """Raised when a tool of an MCP server answers with an error (isError), or its server refuses the call (`code`)."""

    def __init__(self, message: str, *, skill_id: str, code: int | None = None) -> None:
        super().__init__(message)
        self.skill_id = skill_id
        self.code = code

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"skill_id": self.skill_id, "code": self.code})


class RemoteError(Exception):
    """The error of a skill in another process, as text: the `__cause__` of what cannot come back as it was."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace)
        self.trace = trace

    def __str__(self) -> str:
        return f"in a worker process:\n{self.trace}"


def _rebuild(cls: type[SkilllabError], args: tuple[Any, ...], extra: dict[str, Any]) -> SkilllabError:
    """Makes an error again after pickling, its keyword arguments included."""
    return cls(*args, **extra)
