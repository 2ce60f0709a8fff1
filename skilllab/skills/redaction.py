"""Leaving secrets out of what is printed and kept: of addresses, of command lines, and of parameters by their names.

A secret is known by where it stands, never by its value: the password and the query of an address, what follows `--token`,
`API_KEY=`, `Authorization:` or `Bearer`, and the shapes that a few issuers give their tokens. More is left out than need be.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"
"""What stands for a secret."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>:;,.)]", re.IGNORECASE)  # within a sentence
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_USER = re.compile(r"^([^/]*//)([^/?#]*)@")
_PART = re.compile(r"([?&#])([^=&#]*=)?([^&#]+)")
_NAMED = re.compile(r"(-{0,2}[\w.-]+)([=:]\s*)(.+)", re.DOTALL)
_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)|([\w-]+):")
_REFERENCE = re.compile(r"\$\{?\w+\}?|\{\w+\}")  # names what is put in its place, and holds nothing itself
_SCHEMES = ("bearer", "basic")
_ISSUED = re.compile(
    r"\b(?:[spr]k[-_][\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|xox[a-z]-[\w-]{8,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{8,}\.[\w.-]+)"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_WORDS = frozenset(
    {"auth", "authorization", "cookie", "jwt", "key", "pass", "pat", "pin", "pw", "pwd", "sig", "signature"}
)
_ENDINGS = ("apikey", "bearer", "credential", "credentials", "passphrase", "passwd", "password", "secret", "token")


def names_secret(name: str) -> bool:
    """Returns whether a name is one that secrets have: a word of it is `key` or `token`, say, however it is written."""
    words = (word.lower() for word in _WORD.findall(name))
    return any(word in _WORDS or word.endswith(_ENDINGS) for word in words)


def redacted(text: str) -> str:
    """Returns a command line or an address without its secrets, and as it was when it has none."""
    if re.match(r"https?://", text, re.IGNORECASE):
        return _address(text)
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    shown = redacted_words(words)
    return text if shown == words else " ".join(map(_quoted, shown))


def redacted_words(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line without its secrets."""
    shown: list[str] = []
    follows = False  # whether the next word is a secret's value
    for word in words:
        option = _OPTION.fullmatch(word)
        if word.lower() == "bearer" or (follows and word.lower() in _SCHEMES):
            follows = True
            shown.append(word)
        elif option is not None:
            follows = names_secret(option[1] or option[2])
            shown.append(word)
        else:
            shown.append(_value(word) if follows else _word(word))
            follows = False
    return shown


def redacted_addresses(text: str) -> str:
    """Returns a text whose addresses have `***` for passwords and for the values of their queries: placeholders stay."""
    return _ADDRESS.sub(lambda found: _address(found[0]), text)


def redacted_params(value: Any) -> Any:
    """Returns plain values in which texts of a secret's name read `***`."""
    if isinstance(value, Mapping):
        return {
            name: _value(item) if isinstance(item, str) and names_secret(str(name)) else redacted_params(item)
            for name, item in value.items()
        }
    return [redacted_params(item) for item in value] if isinstance(value, list | tuple) else value


def _word(word: str) -> str:
    """Returns one word of a command line, which may hold a name with its value or a whole command line itself."""
    named = _NAMED.fullmatch(word)
    if named is not None and not named[3].startswith("//"):
        name, sign, value = named.groups()
        return f"{name}{sign}{_value(value) if names_secret(name) else redacted(value)}"
    if any(blank in word for blank in " \t\r\n"):
        return redacted(word)
    begin = _SCHEME.search(word)
    return _ISSUED.sub(HIDDEN, word if begin is None else word[: begin.start()] + _address(word[begin.start() :]))


def _value(value: str) -> str:
    """Returns what stands for a secret's value; a reference to it and the scheme before it stay."""
    scheme, _, rest = value.partition(" ")
    if rest and scheme.lower() in _SCHEMES:
        return f"{scheme} {_value(rest)}"
    return value if _REFERENCE.fullmatch(value) else HIDDEN


def _address(address: str) -> str:
    begin = re.search(r"[?#]|$", address)
    end = len(address) if begin is None else begin.start()
    head = _USER.sub(lambda found: f"{found[1]}{_user(found[2])}@", address[:end])
    return head + _PART.sub(lambda part: f"{part[1]}{part[2] or ''}{_value(part[3])}", address[end:])


def _user(user: str) -> str:
    name, _, password = user.partition(":")
    return f"{name}:{HIDDEN}" if password else HIDDEN  # a name alone is a token


def _quoted(word: str) -> str:
    return shlex.quote(word) if not word or re.search(r"[\s'\"\\]", word) else word
