"""Values that cannot be changed, and text in one form."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, NoReturn


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed; `freeze` makes one with frozen values."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this mapping is frozen: make a changed copy with {**mapping, key: value}")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self

    def __reduce__(self) -> Any:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """Returns `value` with every dict, list and set inside replaced by its frozen kin (FrozenDict, tuple, frozenset)."""
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, set | frozenset):
        return frozenset(freeze(item) for item in value)
    if isinstance(value, bytearray):
        return bytes(value)
    return value


def normal_text(text: str) -> str:
    """Returns `text` in Unicode normal form C, so that an accent typed in two ways is one name."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
