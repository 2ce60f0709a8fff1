"""Templates as people write them: what a {placeholder} is, and what a request, a command or a script may hold."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Any
from urllib.parse import urlsplit

_PLACEHOLDER = re.compile(r"[^\W\d][\w-]*")
_PLACE = re.compile(rf"\{{{_PLACEHOLDER.pattern}\}}")
_AUTHORITY = re.compile(r"https?://([^/?#]*)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
UNFIT = re.compile(r"[\x00\ud800-\udfff]")
"""What no argument, path or environment variable of a process may hold: NUL, and halves of characters."""
_FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)


def template_pieces(text: str) -> tuple[tuple[str, str | None], ...]:
    """Returns a template as pairs of a text and the {placeholder} after it, None after the last text.

    {{ and }} are braces. Raises ValueError for any other brace and for a name that is none.
    """
    pieces: list[tuple[str, str | None]] = []
    try:
        parsed = list(Formatter().parse(text))
    except ValueError:
        raise ValueError("a brace stands alone: write {name} for a parameter, and {{ or }} for a brace") from None
    before = ""
    for literal, name, form, conversion in parsed:
        before += literal
        if name is None:
            continue
        if form or conversion or not _PLACEHOLDER.fullmatch(name):
            raise ValueError(f"{{{name}}} is no placeholder: a name has letters, digits, _ and - only")
        pieces.append((before, name))
        before = ""
    return (*pieces, (before, None)) if before or not pieces else tuple(pieces)


def template_names(value: Any) -> Iterator[str]:
    """Yields the placeholders in a text, or in the texts of a mapping's values or a list, as often as they stand there."""
    if isinstance(value, str):
        yield from (name for _, name in template_pieces(value) if name is not None)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from template_names(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from template_names(item)


def checked_template(value: Any) -> Any:
    """Returns the value; raises ValueError for a text in it that is no template."""
    for _ in template_names(value):
        pass
    return value


def checked_url(url: str) -> str:
    """Returns the URL; raises ValueError when it names no host, or holds what belongs into a header."""
    found = _AUTHORITY.match(url)
    if found is None or not found[1]:
        raise ValueError("it names no host")
    if "@" in found[1]:
        raise ValueError("it holds a user or a password: send them in a header, from a secret")
    if re.search(r"[\s\\]", found[1]):
        raise ValueError("its host holds a space or a backslash")
    if not any(template_names(found[1])):
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # reading the port checks it
            raise ValueError("it names no host, or port 0")
    return checked_template(url)  # type: ignore[no-any-return]


def open_host(url: str) -> str | None:
    """Returns the host of a URL if it holds a placeholder."""
    found = _AUTHORITY.match(url)
    return found[1] if found is not None and any(template_names(found[1])) else None


def checked_batch_url(url: str) -> str:
    """Returns the URL; raises ValueError as `checked_url`, and for a placeholder in it."""
    if names := sorted(set(template_names(checked_url(url)))):
        raise ValueError(f"{{{names[0]}}} has no place in it: the parameters of all calls are in the body")
    return url


def checked_headers(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the headers; raises ValueError for one that a skill may not set, or whose value is no text in one line."""
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
            raise ValueError(f"{name!r} is no header that a skill may set")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise ValueError(f"{name!r} must have a text in one line, not {value!r}")
    return checked_template(headers)  # type: ignore[no-any-return]


def checked_query(query: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the query; raises ValueError for an object in it."""
    for name, value in query.items():
        if isinstance(value, Mapping):
            raise ValueError(f"{name!r} must have a text, a number or a list of them, not an object")
    return checked_template(query)  # type: ignore[no-any-return]


def checked_hosts(hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns names of hosts, each "host" or "host:port"; raises ValueError for anything else."""
    for host in hosts or ():
        found = _HOST.fullmatch(host) if isinstance(host, str) else None
        if found is None or int((found[2] or ":0")[1:]) > 65535:
            raise ValueError(f'{host!r} is no host: write "api.example.org" or "127.0.0.1:8080"')
    return hosts


def checked_json_path(path: str | None) -> str | None:
    """Returns the path; raises ValueError when it is no JMESPath."""
    if path is not None:
        import jmespath  # some milliseconds to import

        try:
            jmespath.compile(path)
        except ValueError as error:
            raise ValueError(f"it is no JMESPath: {' '.join(str(error).split())}") from None
    return path


def checked_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a program and its arguments; raises ValueError for a program that is empty or a parameter."""
    for item in argv:
        if UNFIT.search(item):
            raise ValueError(f"{item!r} holds NUL or half a character, which no argument can")
    if not argv[0]:
        raise ValueError("it names no program: the first item is empty")
    if names := list(template_names(argv[0])):
        raise ValueError(f"{{{names[0]}}} has no place in the program: write its name, and parameters behind it")
    return checked_template(argv)  # type: ignore[no-any-return]


def checked_path(path: str) -> str:
    """Returns the path; raises ValueError when it does not start at the root, or holds what no path may."""
    if not path.startswith("/") or UNFIT.search(path):
        raise ValueError('it is no absolute path: write it from the root on, as "/srv/data"')
    if found := _PLACE.search(path):
        raise ValueError(f"{found[0]} has no place in it: a path is the same for every call")
    return path


def checked_environment(variables: Mapping[str, str]) -> Mapping[str, str]:
    """Returns environment variables; raises ValueError for a name or a value that none can have."""
    for name, value in variables.items():
        if not name or "=" in name or UNFIT.search(name):
            raise ValueError(f"{name!r} is no name of an environment variable")
        if UNFIT.search(value):
            raise ValueError(f"{name!r} must have a text without NUL and halves of characters, not {value!r}")
    return variables


def checked_module(name: str) -> str:
    """Returns the name; raises ValueError when it is no dotted name of a module."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError('it is no module: write its whole name, as "package.module"')
    return name


def checked_script(source: str) -> str:
    """Returns the source; raises ValueError when it is no Python, or has no `run` that can take the parameters."""
    try:
        body = ast.parse(source, "<script>").body
        names = symtable.symtable(source, "<script>", "exec")
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise ValueError(f"it is no Python: {where}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL, and brackets within brackets without end
        raise ValueError(f"it is no Python: {str(error) or 'it is nested too deeply'}") from None
    run = names.lookup("run") if "run" in names.get_identifiers() else None
    if run is None or not (run.is_assigned() or run.is_imported()):
        raise ValueError("it has no run at its top level: write def run(params)")
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "run":
            given = node.args
            if not (given.posonlyargs or given.args or given.vararg):
                raise ValueError(f"line {node.lineno}: run takes no positional parameter: write def run(params)")
    return source
