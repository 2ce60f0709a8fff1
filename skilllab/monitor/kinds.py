"""Kinds of errors: few names, which say what to look at and hold nothing that the error holds."""

from __future__ import annotations

from skilllab.errors import HttpStatusError, LimitExceededError, SkillFailedError

UNKNOWN = "SkillNotFoundError"
"""The kind of calls of skills that nobody registered."""


def kind_of(error: BaseException) -> str:
    """Returns the error's type, with the limit, the status or the skill's own error where it has one."""
    name = type(error).__name__
    if isinstance(error, LimitExceededError):
        return f"{name}: {error.limit}"
    if isinstance(error, HttpStatusError):
        return f"{name}: {error.status}"
    if type(error) is SkillFailedError and error.__cause__ is not None:
        return f"{name}: {type(error.__cause__).__name__}"
    return name
