"""Fills: what is left of a template after compiling, functions that put parameters where their placeholders stood."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from yarl import URL

from skilllab.templates import template_names, template_pieces

Values = Mapping[str, Any]
Fill = Callable[[Values], Any]
Form = Callable[[str, Any], str]
"""Writes the value of a named parameter as a text."""
Pieces = tuple[tuple[str, str | None], ...]
ABSENT: Any = object()
"""What an item becomes that is left out."""
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What no header may hold: line breaks and control characters, and halves of characters."""
_HOST = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class BadValueError(Exception):
    """Raised when a parameter does not fit where its placeholder stands; `name` is "" for all of them."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why


def text_fill(pieces: Pieces, form: Form) -> Fill:
    """Returns the fill of a text; a parameter that is not given is a BadValueError."""
    if len(pieces) == 1:
        ((before, only),) = pieces
        if only is None:
            return lambda values: before
        return lambda values: before + form(only, _given(values, only))

    def fill(values: Values) -> str:
        parts = []
        for text, name in pieces:
            parts.append(text)
            if name is not None:
                parts.append(form(name, _given(values, name)))
        return "".join(parts)

    return fill


def left_out(fill: Fill, names: Iterable[str], optional: Collection[str]) -> Fill:
    """Returns the fill of an item that is left out when an optional parameter in it is not given, or any is null."""
    wanted = tuple(dict.fromkeys(names))

    def item(values: Values) -> Any:
        for name in wanted:
            if values.get(name) is None and (name in values or name in optional):
                return ABSENT
        return fill(values)

    return item if wanted else fill


def filled(fills: Iterable[Fill], values: Values) -> Iterator[Any]:
    """Yields what the fills give, without the items that are left out."""
    for fill in fills:
        item = fill(values)
        if item is not ABSENT:
            yield item


def query_fills(key: str, value: Any, optional: Collection[str]) -> Iterator[Fill]:
    """Yields the fills of one name in a query, "key=value" each: one of them, or one for each of a list.

    A placeholder alone takes a list of values as well.
    """
    if isinstance(value, tuple | list):
        for item in value:
            yield from query_fills(key, item, optional)
    elif isinstance(value, str):
        pieces = [(_quoted(key, text), name) for text, name in template_pieces(value)]
        pieces[0] = (f"{_quoted(key, key)}={pieces[0][0]}", pieces[0][1])
        yield query_fill(tuple(pieces), optional)
    elif value is not None:
        text = f"{_quoted(key, key)}={in_query(key, value)}"
        yield lambda values: text


def query_fill(pieces: Pieces, optional: Collection[str]) -> Fill:
    """Returns the fill of one item of a query, whose literal texts are percent-encoded."""
    names = [name for _, name in pieces if name is not None]
    before = pieces[0][0]
    alone = len(pieces) == 1 and len(names) == 1 and before.endswith("=") and before.count("=") == 1
    return left_out(_query_values(before, names[0]) if alone else text_fill(pieces, in_query), names, optional)


def _query_values(before: str, name: str) -> Fill:
    def fill(values: Values) -> Any:
        value = _given(values, name)
        if not isinstance(value, list | tuple):
            return before + in_query(name, value)
        items = [before + in_query(name, item) for item in value if item is not None]
        return "&".join(items) if items else ABSENT

    return fill


def json_fill(node: Any, optional: Collection[str]) -> Fill:
    """Returns the fill of a JSON value; a text that is a placeholder and nothing else takes the parameter as it is."""
    names = list(dict.fromkeys(template_names(node)))
    if not names:
        value = _literal(node)
        return lambda values: value
    if isinstance(node, str):
        return _json_text(template_pieces(node), names, optional)
    if isinstance(node, Mapping):
        members = [(key, json_fill(item, optional)) for key, item in node.items()]

        def fill_object(values: Values) -> Any:
            return {key: item for key, member in members if (item := member(values)) is not ABSENT}

        return fill_object
    items = [json_fill(item, optional) for item in node]
    return lambda values: list(filled(items, values))


def _json_text(pieces: Pieces, names: list[str], optional: Collection[str]) -> Fill:
    if len(pieces) == 1 and pieces[0][0] == "":
        name = names[0]

        def whole(values: Values) -> Any:
            if name in values:
                return values[name]
            return ABSENT if name in optional else _given(values, name)

        return whole
    text = text_fill(pieces, plain)

    def mixed(values: Values) -> Any:
        return ABSENT if any(name not in values and name in optional for name in names) else text(values)

    return mixed


def _literal(node: Any) -> Any:
    """Returns a value without placeholders as it is sent: doubled braces are one."""
    if isinstance(node, str):
        return "".join(text for text, _ in template_pieces(node))
    if isinstance(node, Mapping):
        return {key: _literal(item) for key, item in node.items()}
    return [_literal(item) for item in node] if isinstance(node, tuple) else node


def json_bytes(value: Any) -> bytes:
    """Returns JSON; raises BadValueError for what JSON does not have, as NaN."""
    try:
        return _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValueError("", f"they cannot be sent as JSON: {error}") from None


# forms


def plain(name: str, value: Any) -> str:
    """Writes a text, number or boolean as JSON does, a text without quotes."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise BadValueError(name, f"it must be a text, a number, true or false here, not {_short(value)}")


def in_query(name: str, value: Any) -> str:
    """Writes a value percent-encoded."""
    return _quoted(name, plain(name, value))


def in_path(name: str, value: Any) -> str:
    """Writes a value percent-encoded, so that it stays within its segment: "/", "?" and "#" are encoded, ".." is refused."""
    text = plain(name, value)
    if text in ("", ".", ".."):
        raise BadValueError(name, f"{text!r} would lead to another path: give a value that names something")
    return _quoted(name, text)


def in_header(name: str, value: Any) -> str:
    """Writes a value into one line."""
    text = plain(name, value)
    if CONTROL.search(text):
        raise BadValueError(name, f"{_short(text)} has a line break or control character, which no header may hold")
    return text


def in_host(name: str, value: Any) -> str:
    """Writes a host, "host:port", or a part of a host."""
    text = plain(name, value)
    if not _HOST.fullmatch(text):
        raise BadValueError(name, f"{_short(text)} is no host")
    return text.lower()


def _quoted(name: str, text: str) -> str:
    if text.isascii() and text.isalnum():
        return text  # as nearly every id and number: there is nothing to encode
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise BadValueError(name, f"{_short(text)} has half a character, which no URL can hold") from None


def _given(values: Values, name: str) -> Any:
    try:
        return values[name]
    except KeyError:
        raise BadValueError(name, f"it is missing, and the request needs it: give {name!r}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


# URLs


def url_parts(rest: str) -> tuple[Pieces, list[Pieces]]:
    """Returns the path and the items of the query that follow a host in a template, their literal texts percent-encoded."""
    pieces = template_pieces(rest)
    mark = "q"
    while mark in rest:
        mark += "q"
    names = [name for _, name in pieces if name is not None]
    marked = "".join(f"{text}{mark}{index}x" if name else text for index, (text, name) in enumerate(pieces))
    url = URL(f"http://h{marked}")

    def unmarked(text: str) -> Pieces:
        parts = re.split(f"{mark}([0-9]+)x", text)
        ends = [names[int(number)] for number in parts[1::2]]
        found = tuple(zip(parts[::2], [*ends, None], strict=True))
        return found if len(found) == 1 or found[-1][0] else found[:-1]

    return unmarked(url.raw_path), [unmarked(item) for item in url.raw_query_string.split("&") if item]
