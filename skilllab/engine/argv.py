"""What a command is started with: its arguments and its standard input, with the parameters of one call filled in."""

from __future__ import annotations

from collections.abc import Iterator

from skilllab.engine.http.fill import BadValueError, Pieces, Values, plain
from skilllab.errors import InvalidParametersError
from skilllab.model import CommandHandler
from skilllab.templates import UNFIT, template_pieces


def arguments(handler: CommandHandler, params: Values, skill_id: str) -> list[str]:
    """Returns the program and its arguments.

    An argument that is one placeholder and nothing else becomes one for each item of a list, and none for null or for a
    parameter that is not given (a call without a required one was refused before). Raises InvalidParametersError for a
    value that cannot be an argument, and for one that the program could take for an option.
    """
    found: list[str] = []
    options = True
    try:
        for template in handler.argv:
            found += _items(template_pieces(template), params, options)
            options = options and template != "--"
    except BadValueError as error:
        raise _refused(error, skill_id) from None
    return found


def standard_input(handler: CommandHandler, params: Values, skill_id: str) -> str | None:
    """Returns what the program reads; None is nothing, as when it is one placeholder whose parameter is not given.

    Raises InvalidParametersError for a value that is no text, number or boolean.
    """
    if handler.stdin is None:
        return None
    pieces = template_pieces(handler.stdin)
    name = _lone(pieces)
    if name is not None and params.get(name) is None:
        return None
    try:
        return _text(pieces, params)
    except BadValueError as error:
        raise _refused(error, skill_id) from None


def _items(pieces: Pieces, params: Values, options: bool) -> Iterator[str]:
    """Yields what one item of argv becomes; `options` says whether the program still looks for options there."""
    lone = _lone(pieces)
    calls = [params]
    if lone is not None:
        value = params.get(lone)
        items = value if isinstance(value, list | tuple) else [value]
        calls = [{lone: item} for item in items if item is not None]
    before, first = pieces[0]
    for values in calls:
        text = _text(pieces, values)
        if options and first and not before and text.startswith("-") and not isinstance(values[first], int | float):
            shown = repr(text) if len(text) <= 80 else f"{text[:79]!r}…"
            way_out = 'put "--" before it in argv, or write it as "--name={value}"'
            raise BadValueError(first, f"{shown} could be taken for an option: {way_out}")
        yield text


def _lone(pieces: Pieces) -> str | None:
    """Returns the placeholder of a template that is one and nothing else."""
    return pieces[0][1] if len(pieces) == 1 and not pieces[0][0] else None


def _text(pieces: Pieces, values: Values) -> str:
    return "".join(before if name is None else before + _written(name, values) for before, name in pieces)


def _written(name: str, values: Values) -> str:
    if name not in values:
        raise BadValueError(name, f"it is missing, and the command needs it: give {name!r}")
    text = plain(name, values[name])
    if found := UNFIT.search(text):
        what = "a NUL" if found[0] == "\0" else "half a character"
        raise BadValueError(name, f"it holds {what}, which no command can be given: take it out")
    return text


def _refused(error: BadValueError, skill_id: str) -> InvalidParametersError:
    message = f"{skill_id}: parameters at /{error.name}: {error.why}"
    return InvalidParametersError(message, skill_id=skill_id, path=f"/{error.name}")
