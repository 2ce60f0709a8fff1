"""JsonPath: the part of an answer that a skill returns."""

from __future__ import annotations

import re
from typing import Any

import jmespath
from jmespath.visitor import TreeInterpreter

_KEYS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class MissingError(Exception):
    """Raised when a value does not have what a path names; its text says what is missing."""


class JsonPath:
    """A JMESPath, compiled. Calling it gives the part of a value, or raises MissingError.

    A path whose part is null, because a key or an index of it is not there, finds nothing; a null that is there is found.
    """

    __slots__ = ("_compiled", "_keys", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._compiled = jmespath.compile(text)
        self._keys = tuple(text.split(".")) if _KEYS.fullmatch(text) else None

    def __call__(self, value: Any) -> Any:
        if self._keys is not None:
            return self._walk(value, self._keys)
        try:
            found = self._compiled.search(value)
            if found is not None:
                return found
            tracer = _Tracer()
            tracer.visit(self._compiled.parsed, value)
        except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError) as error:
            raise MissingError(f"it cannot be applied: {' '.join(str(error).split())}") from None
        if tracer.missing is not None:
            raise MissingError(f"there is no {tracer.missing}")
        return None

    def _walk(self, value: Any, keys: tuple[str, ...]) -> Any:
        for key in keys:
            if type(value) is not dict or key not in value:
                raise MissingError(f"there is no {key!r}")
            value = value[key]
        return value


class _Tracer(TreeInterpreter):  # type: ignore[misc]
    """Notes the first key or index that a value does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: str | None = None

    def visit_field(self, node: Any, value: Any) -> Any:
        if self.missing is None and not (isinstance(value, dict) and node["value"] in value):
            self.missing = repr(node["value"])
        return super().visit_field(node, value)

    def visit_index(self, node: Any, value: Any) -> Any:
        if self.missing is None and not (isinstance(value, list) and -len(value) <= node["value"] < len(value)):
            self.missing = f"[{node['value']}]"
        return super().visit_index(node, value)
