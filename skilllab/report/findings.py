"""Findings: the one line that an experiment leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from skilllab.errors import InvalidValueError

FINDING_MIME = "application/vnd.skilllab.finding+json"
"""The type under which a finding travels in a notebook's outputs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A question and its answer, both one line of plain text; the answer carries numbers with units.

    Raises InvalidValueError when either is not a text or is blank.
    """

    question: str
    answer: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "question", _line("question", self.question))
        object.__setattr__(self, "answer", _line("answer", self.answer))

    def __str__(self) -> str:
        return f"{self.question} — {self.answer}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {
            "text/plain": str(self),
            "text/html": f"<p>{escape(self.question)}<br><strong>{escape(self.answer)}</strong></p>",
            FINDING_MIME: asdict(self),
        }


def finding(question: str, answer: str) -> None:
    """Shows what an experiment found, and leaves it in the notebook for `skilllab run` to collect.

    `question` is what the experiment asked, `answer` what it measured, with numbers and units.
    Raises InvalidValueError when either is not a text or is blank.
    """
    from IPython.display import display

    display(Finding(question, answer))


def collect(outputs: Iterable[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Returns the findings among the outputs of a cell, in order."""
    bundles = (output.get("data", {}) for output in outputs)
    return tuple(Finding(**bundle[FINDING_MIME]) for bundle in bundles if FINDING_MIME in bundle)


def _line(name: str, text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InvalidValueError(f"{name}={text!r} is not a line of text: say it in one sentence with numbers and units")
    return " ".join(text.split())
