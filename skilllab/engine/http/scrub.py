"""Finding a secret in what a server wrote, which may quote it in any encoding."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

_ROUNDS = 8
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U000([0-9a-fA-F]{5}))?")


def holds(text: str, secret: str) -> bool:
    """Returns whether the text holds the secret as it is, percent-encoded, or escaped as in JSON, Python or HTML.

    Encodings one on top of the other are undone one by one; large and small letters are the same.
    """
    sought = secret.casefold()
    last = ""
    for level in _levels(text):
        last = level.casefold()
        if sought in last:
            return True
    *_, bare = _levels(secret)  # undoing what is part of the secret itself
    return bare.casefold() in last


def _levels(text: str) -> Iterator[str]:
    """Yields the text with more and more encodings undone."""
    yield text
    for _ in range(_ROUNDS):
        before = text
        for undo in (unquote_plus, html.unescape, _unescaped):
            text = undo(text)
            yield text
        if text == before:
            return


def _unescaped(text: str) -> str:
    """Returns the text without backslashes, and what they escaped in its place."""
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(lambda found: chr(int(found[found.lastindex], 16)) if found.lastindex else "", text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins halves of characters
