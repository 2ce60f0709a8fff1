"""The error tree.

SkilllabError
├── InvalidValueError (ValueError)            an argument
│   └── InvalidParametersError                the parameters of a skill call
├── InvalidDefinitionError (ValueError)       a skill definition
├── DuplicateSkillError (ValueError)          an id or a name that is taken
├── SkillNotFoundError (LookupError)          an id that nobody registered
├── CatalogueError (ValueError)               a catalogue file
├── TraceError (ValueError)                   a trace file
├── SingleFlightError (RuntimeError)          a flight that waits for itself
└── ExecutionError                            one execution
    ├── LimitNotEnforceableError              a limit that nothing here can hold
    ├── HandlerNotRunnableError               a handler that no runner takes, or that cannot be imported
    ├── EngineClosedError                     an engine after aclose()
    └── SkillFailedError                      the skill's own code raised
        └── InvalidOutputError                what it returned does not fit its output schema

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


class SingleFlightError(SkilllabError, RuntimeError):
    """Raised when a single-flight function calls itself with the same arguments and would wait for itself."""


class ExecutionError(SkilllabError):
    """Raised when one execution of a skill fails; the base of the reasons below."""


class LimitNotEnforceableError(ExecutionError):
    """Raised when a call asks for a limit that nothing here can hold; `limits` names them. The skill did not start."""

    def __init__(self, message: str, *, limits: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.limits = limits

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, {"limits": self.limits})


class HandlerNotRunnableError(ExecutionError):
    """Raised when no runner takes the kind of handler, or the handler cannot be imported."""


class EngineClosedError(ExecutionError):
    """Raised when an engine is used after `aclose()`."""


class SkillFailedError(ExecutionError):
    """Raised when the skill's own code raised; the original error is the `__cause__`."""


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


def _rebuild(cls: type[SkilllabError], args: tuple[Any, ...], extra: dict[str, Any]) -> SkilllabError:
    """Makes an error again after pickling, its keyword arguments included."""
    return cls(*args, **extra)
