"""What is left out of command lines, addresses and parameters before they are printed or kept."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.skills.redaction import (
    names_secret,
    redacted,
    redacted_addresses,
    redacted_params,
    redacted_words,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hidden@example.org/a?key=hidden&n=hidden", "https://me:***@example.org/a?key=***&n=***"),
        ("https://hidden@example.org/", "https://***@example.org/"),
        ("https://hidden:@example.org/#token=hidden", "https://***@example.org/#token=***"),
        ("https://me:hid<den@example.org/?hidden", "https://me:***@example.org/?***"),
        ("python server.py --token hidden", "python server.py --token ***"),
        ("npx x --api-key=hidden -e GITHUB_TOKEN=hidden", "npx x --api-key=*** -e GITHUB_TOKEN=***"),
        ("x --header 'Authorization: Bearer hidden'", "x --header 'Authorization: Bearer ***'"),
        ("x --header=X-Api-Key:hidden --dbPassword hidden", "x --header=X-Api-Key:*** --dbPassword ***"),
        ("x --password 'hidden hidden' --port 8", "x --password *** --port 8"),
        ("x Authorization: Basic hidden", "x Authorization: Basic ***"),
        ("sh -c 'server --secret hidden -v'", "sh -c 'server --secret *** -v'"),
        ("server --db postgresql://me:hidden@host/db", "server --db postgresql://me:***@host/db"),
        ("server --url=https://host/?k=hidden", "server --url=https://host/?k=***"),
        ("server sk-hiddenhiddenhidden ghp_hiddenhiddenhidden", "server *** ***"),
        ("server 'unclosed --token hidden", """server ''"'"'unclosed' --token ***"""),
    ],
)
def test_secrets_are_left_out(text: str, shown: str) -> None:
    """Each place where secrets stand reads ***, and a text without secrets stays as it is, one that was redacted too."""
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "python server.py",
        "uvx some-server --max-tokens 100 --author me --keyboard us",
        "https://example.org/users/{id}?q={query}",
        "mcp-remote https://example.org/mcp --header 'Authorization:${AUTH}'",
        "server --of=/tmp/a:b \t 'two  blanks'",
        "server \u2003",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Other options, placeholders and references to variables stay, and so does every quote and blank."""
    assert redacted(text) == text


@given(st.text(max_size=40))
def test_any_text_can_be_redacted(text: str) -> None:
    """Whatever the text is, redacting it ends, and doing it again changes nothing."""
    assert redacted(redacted(text)) == redacted(text)


@given(st.lists(st.sampled_from(["server", "--port", "8", "--token", "hidden", "a b", "'", "--key=hidden", "-v"])))
def test_words_and_their_command_line_agree(words: list[str]) -> None:
    """What is left out of words is left out of the command line that they make."""
    assert shlex.split(redacted(shlex.join(words))) == redacted_words(words)


def test_sentences_keep_their_marks() -> None:
    """In a sentence an address loses its secrets, and the sentence nothing else."""
    assert redacted_addresses("GET https://host/a?k=hidden: no answer.") == "GET https://host/a?k=***: no answer."


def test_parameters_by_name() -> None:
    """Texts of a secret's name are left out at every depth; numbers and other names stay."""
    params = {"apiKey": "hidden", "max_tokens": 3, "of": [{"TOKEN": "hidden", "query": "tea"}], "pin": "${PIN}"}
    kept = {"apiKey": "***", "max_tokens": 3, "of": [{"TOKEN": "***", "query": "tea"}], "pin": "${PIN}"}
    assert redacted_params(params) == kept
    assert [names_secret(name) for name in ("OPENAI_API_KEY", "accessToken", "monkey", "author")] == [1, 1, 0, 0]
