"""Which tools are called with what: those that may be, with parameters that were given or that their schemas allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skilllab.errors import InvalidValueError
from skilllab.experiments.trial.made_up import made_up
from skilllab.experiments.trial.target import Target
from skilllab.loading import compile_schemas
from skilllab.skills.redaction import redacted

NOT_CHOSEN = "not chosen"
"""Why a tool is passed over that was not asked for."""

Ask = Callable[[str, Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """calls: parameters by tool. passed_over: why each other tool is not called."""

    calls: Mapping[str, Mapping[str, Any]]
    passed_over: Mapping[str, str]


def planned(
    target: Target,
    *,
    params: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    tools: Sequence[str] = (),
    ask: Ask | None = None,
) -> TrialPlan:
    """Decides, before anything is called.

    params: of the tool, when there is one to call, else parameters by tool. allow: tools that do not say they only read
    and may be called all the same. tools: only these; none is all. ask: shown a tool and parameters made from its schema,
    returns whether to call it so; None calls no tool that needs made-up parameters.
    Raises InvalidValueError for a tool that is not there, for parameters that do not fit, and when nothing is left to call.
    """
    _require_known(target, [*allow, *tools])
    chosen = [name for name in target.tools if not tools or name in tools]
    passed = {name: NOT_CHOSEN for name in target.tools if name not in chosen}
    for name in chosen:
        if name not in target.allowed and name not in allow:
            passed[name] = f"does not say that it only reads: --allow {name}"
    may = [name for name in chosen if name not in passed]
    given = _given(may, params, target)
    calls: dict[str, Mapping[str, Any]] = {}
    for name in may:
        if name in given:
            calls[name] = given[name]
        elif (why := _ask_for(target, name, calls, ask)) is not None:
            passed[name] = why
    if not calls:
        told = "; ".join(f"{name}: {why}" for name, why in passed.items()) or "it has no tools"
        raise InvalidValueError(f"nothing to call at {redacted(target.text)}: {told}")
    return TrialPlan(calls, passed)


def _require_known(target: Target, names: Sequence[str]) -> None:
    for name in names:
        if name not in target.tools:
            known = ", ".join(target.tools) or "none"
            raise InvalidValueError(f"no tool is called {name!r}: {redacted(target.text)} has {known}")


def _given(may: Sequence[str], params: Mapping[str, Any] | None, target: Target) -> dict[str, Mapping[str, Any]]:
    """Returns the parameters that were given, by tool, each checked against its schema."""
    if params is None or not may:
        return {}
    if len(may) == 1 and not (set(params) == set(may) and _are_objects(params)):
        given: Mapping[str, Any] = {may[0]: params}
    else:
        given = params
    for name, values in given.items():
        if name not in may:
            callable_ = ", ".join(may) or "none"
            raise InvalidValueError(
                f"params: {name!r} is no tool that is to be called ({callable_}): choose one with --tool"
            )
        if not isinstance(values, Mapping):
            raise InvalidValueError(f"params: {name!r} must have an object of parameters, not {values!r}")
        compile_schemas(target.tools[name])[0](values)
    return dict(given)


def _are_objects(params: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Mapping) for value in params.values())


def _ask_for(target: Target, name: str, calls: dict[str, Mapping[str, Any]], ask: Ask | None) -> str | None:
    """Finds parameters for a tool that was given none; returns why it is not called, None when it is."""
    check = compile_schemas(target.tools[name])[0]
    if check.fits({}):
        calls[name] = {}
        return None
    made = made_up(target.tools[name].input_schema or {})
    if not check.fits(made):
        return "its schema allows nothing that could be made up: give --params"
    if ask is None:
        return "it takes parameters, and nobody is there to be asked about made-up ones: give --params"
    if not ask(name, made):
        return "you said no to the made-up parameters: give --params"
    calls[name] = made
    return None
