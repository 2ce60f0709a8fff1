"""Request templates: parameters stay where their placeholders stand."""

from __future__ import annotations

import html
import json
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.define import http_skill
from skilllab.engine.http.hosts import Hosts
from skilllab.engine.http.path import JsonPath, MissingError
from skilllab.engine.http.template import Failure, Request, RequestTemplate
from skilllab.errors import (
    HostNotAllowedError,
    InvalidDefinitionError,
    InvalidParametersError,
    SecretError,
    SkilllabError,
)
from skilllab.templates import template_pieces

ANY = {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}}


def template(url: str = "http://h/", **fields: Any) -> RequestTemplate:
    return RequestTemplate(http_skill(id="s", url=url, **fields))


def request(url: str = "http://h/", params: dict[str, Any] | None = None, /, **fields: Any) -> Request:
    environ = fields.pop("environ", {})
    made = template(url, **fields).render(params or {}, environ)
    assert isinstance(made, Request), made
    return made


def error(url: str = "http://h/", params: dict[str, Any] | None = None, /, **fields: Any) -> SkilllabError:
    environ = fields.pop("environ", {})
    made = template(url, **fields).render(params or {}, environ)
    assert isinstance(made, Failure)
    return made.error


# pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", (("", None),)),
        ("plain", (("plain", None),)),
        ("{a}", (("", "a"),)),
        ("x{a}{b-c}y", (("x", "a"), ("", "b-c"), ("y", None))),
        ("{{{a}}}", (("{", "a"), ("}", None))),
        ("{{a}}", (("{a}", None),)),
    ],
)
def test_pieces(text: str, pieces: Any) -> None:
    """A template is texts and names; doubled braces are braces."""
    assert template_pieces(text) == pieces


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{a", "a}", "{a b}", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}", "{0}", "{-}"]
)
def test_other_braces_are_refused(text: str) -> None:
    """A brace that is neither doubled nor around a name is an error of the definition, wherever it stands."""
    for place in (
        {"headers": {"X": text}},
        {"query": {"x": text}},
        {"body": [{"x": text}]},
        {"url": f"http://h/{text}"},
    ):
        with pytest.raises(InvalidDefinitionError, match=r"skill 's': (headers|query|body|url)="):
            http_skill(**{"id": "s", "url": "http://h/", **place})


# paths


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a", "/x/a/y"),
        ("a/b", "/x/a%2Fb/y"),
        ("a?b#c", "/x/a%3Fb%23c/y"),
        ("../..", "/x/..%2F../y"),
        ("ä ö%2F", "/x/%C3%A4%20%C3%B6%252F/y"),
        ("...", "/x/.../y"),
        (7, "/x/7/y"),
        (1.5, "/x/1.5/y"),
        (True, "/x/true/y"),
    ],
)
def test_a_value_in_the_path_stays_one_segment(value: Any, path: str) -> None:
    """Slashes, question marks and percent signs are encoded; numbers and booleans are written as in JSON."""
    url = request("http://h/x/{a}/y", {"a": value}).url
    assert url.raw_path_qs == path
    assert str(url) == f"http://h{path}"


@pytest.mark.parametrize("value", ["", ".", "..", None, [], {}, ["a"], float("nan"), float("inf"), "\ud800", object()])
def test_a_value_that_leads_elsewhere_is_refused(value: Any) -> None:
    """What would leave the segment, or has no text, is an error with the parameter's path."""
    found = error("http://h/x/{a}/y", {"a": value})
    assert isinstance(found, InvalidParametersError)
    assert (found.skill_id, found.path) == ("s", "/a")


def test_two_values_cannot_be_dots_together() -> None:
    """Two dots from two parameters are refused like two dots from one."""
    assert isinstance(error("http://h/{a}{b}/y", {"a": ".", "b": "."}), InvalidParametersError)


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..") and text.isprintable()))
def test_any_text_in_the_path_is_read_back(value: str) -> None:
    """A server that decodes the segments finds the value, in its place, and nothing else."""
    path = request("http://h/x/{a}/y", {"a": value}).url.raw_path_qs
    assert [unquote(segment) for segment in path.split("/")] == ["", "x", value, "y"]


def test_a_missing_parameter_of_the_path() -> None:
    """The error names skill and parameter; that the schema calls it optional does not help the path."""
    for schema in (None, ANY):
        found = error("http://h/{a}", {}, input_schema=schema)
        assert isinstance(found, InvalidParametersError)
        assert found.path == "/a"
        assert str(found) == "s: parameters at /a: it is missing, and the request needs it: give 'a'"


# queries


@pytest.mark.parametrize(
    ("url", "query", "params", "expected"),
    [
        ("http://h/", {"q": "{a}"}, {"a": "x y&z=1"}, "q=x%20y%26z%3D1"),
        ("http://h/", {"q": "<{a}>"}, {"a": 1}, "q=%3C1%3E"),
        ("http://h/?k=v&q={a}#part", {}, {"a": "ü"}, "k=v&q=%C3%BC"),
        ("http://h/?q={a}", {"r": "{b}"}, {"a": 1, "b": 2}, "q=1&r=2"),
        ("http://h/", {"q": "{a}", "n": 5, "t": True, "none": None}, {"a": [1, "b", None]}, "q=1&q=b&n=5&t=true"),
        ("http://h/", {"q": ["{a}", "z", [1]]}, {"a": ["x"]}, "q=x&q=z&q=1"),
        ("http://h/", {"q": "{a}"}, {"a": []}, ""),
        ("http://h/?q={a}", {"r": "{b}-{c}"}, {"c": 1}, ""),
        ("http://h/?q={a}&s=1", {"r": "{b}"}, {"a": None, "b": None}, "s=1"),
        ("http://h/", {"a b": "{{{a}}}"}, {"a": 1}, "a%20b=%7B1%7D"),
        ("http://h/?{a}", {}, {"a": "x"}, "x"),
    ],
)
def test_query(url: str, query: Any, params: dict[str, Any], expected: str) -> None:
    """Values are percent-encoded, lists repeat their name, and what is optional and not given, or null, is left out."""
    assert request(url, params, query=query, input_schema=ANY).url.raw_query_string == expected


@given(st.dictionaries(st.text(min_size=1).filter(str.isprintable), st.text().filter(str.isprintable), max_size=4))
def test_any_query_is_read_back(values: dict[str, str]) -> None:
    """A server that decodes the query finds every name and value."""
    query = {name.replace("{", "{{").replace("}", "}}"): f"{{p{i}}}" for i, name in enumerate(values)}
    url = request("http://h/", {f"p{i}": value for i, value in enumerate(values.values())}, query=query).url
    names = [name.replace("{", "{{").replace("}", "}}") for name in values]
    found = parse_qsl(url.raw_query_string, keep_blank_values=True)
    assert found == list(zip(names, values.values(), strict=True))


@pytest.mark.parametrize("value", [{"x": 1}, [[1]], [{"x": 1}]])
def test_an_object_has_no_place_in_a_query(value: Any) -> None:
    """What a query cannot say is an error with the parameter's path."""
    found = error("http://h/", {"a": value}, query={"q": "{a}"})
    assert isinstance(found, InvalidParametersError)
    assert found.path == "/a"


# headers


def test_headers() -> None:
    """Parameters are written into one line; what is optional and not given is left out; bodies are JSON unless said."""
    headers = {"X-A": "<{a}>", "X-B": "{b}", "X-C": "c"}
    assert dict(request("http://h/", {"a": 1}, headers=headers, input_schema=ANY).headers) == {"X-A": "<1>", "X-C": "c"}
    assert dict(request("http://h/", {}, body=1).headers) == {"Content-Type": "application/json"}
    said = {"content-type": "application/vnd.x+json"}
    assert dict(request("http://h/", {}, body=1, headers=said).headers) == said


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\0", "\x7f", "\ud800", {}, []])
def test_a_header_is_one_line(value: Any) -> None:
    """No parameter ends a header and begins another."""
    found = error("http://h/", {"a": value}, headers={"X-A": "{a}"})
    assert isinstance(found, InvalidParametersError)
    assert found.path == "/a"


@pytest.mark.parametrize(
    "headers",
    [{"Host": "x"}, {"content-length": "3"}, {"Transfer-Encoding": "{a}"}, {"a b": ""}, {"X": "a\nb"}, {"X": 1}],
)
def test_headers_that_no_skill_sets(headers: Any) -> None:
    """What frames a request, what is no header, and a line break are errors of the definition."""
    with pytest.raises(InvalidDefinitionError, match="skill 's': headers="):
        http_skill(id="s", url="http://h/", headers=headers)


# bodies


@pytest.mark.parametrize(
    ("body", "params", "sent"),
    [
        ("{a}", {"a": {"x": [1]}}, {"x": [1]}),
        ({"v": "{a}"}, {"a": None}, {"v": None}),
        ({"v": "{a}"}, {"a": True}, {"v": True}),
        ({"v": "n={a}"}, {"a": True}, {"v": "n=true"}),
        ({"v": ["{a}", {"w": "{b}"}, 1, None]}, {"a": 1, "b": "x"}, {"v": [1, {"w": "x"}, 1, None]}),
        ({"v": "{a}", "w": "x{b}", "z": 0}, {}, {"z": 0}),
        ({"v": ["{a}", "{b}"]}, {"b": 2}, {"v": [2]}),
        ({"{a}": "{{a}}", "v": {"w": "{{"}}, {"a": 1}, {"{a}": "{a}", "v": {"w": "{"}}),
        ([], {}, []),
        ("text", {}, "text"),
        ("{a}", {"a": "\ud800"}, "\ud800"),
    ],
)
def test_body(body: Any, params: dict[str, Any], sent: Any) -> None:
    """A placeholder alone keeps the JSON type, one in a text becomes text, one that is optional and not given goes."""
    data = request("http://h/", params, method="POST", body=body, input_schema=ANY).data
    assert data is not None
    assert json.loads(data) == sent


def test_no_body() -> None:
    """Without a body nothing is sent, and neither when the body is an optional parameter that is not given."""
    assert request().data is None
    assert request("http://h/", {}, body="{a}", input_schema=ANY).data is None


@pytest.mark.parametrize(("value", "path"), [(float("nan"), ""), (object(), "")])
def test_a_body_is_json(value: Any, path: str) -> None:
    """What JSON does not have is an error of the parameters."""
    found = error("http://h/", {"a": value}, body={"x": "{a}"})
    assert isinstance(found, InvalidParametersError)
    assert found.path == path


@pytest.mark.parametrize(
    "place", [{"query": {"q": "{a}"}}, {"headers": {"X": "{a}"}}, {"body": "{a}"}, {"body": {"b": "x{a}"}}]
)
def test_a_required_parameter_is_never_left_out(place: dict[str, Any]) -> None:
    """A parameter that the schema requires, or does not know, is an error when it is missing."""
    for schema in (None, {"properties": {"a": {}}, "required": ["a"]}, {"type": "object"}):
        found = error("http://h/", {}, input_schema=schema, **place)
        assert isinstance(found, InvalidParametersError)
        assert found.path == "/a"


# secrets


def test_secrets_come_from_the_environment() -> None:
    """A secret is read for each request, and a parameter of its name does not replace it."""
    fields: dict[str, Any] = {
        "headers": {"A": "Bearer {t}"},
        "query": {"k": "{t}"},
        "body": ["{t}"],
        "secrets": {"t": "T"},
    }
    for value in ("one", "two/?"):
        made = request("http://h/", {"t": "mine"}, environ={"T": value}, input_schema={"type": "object"}, **fields)
        assert made.headers["A"] == f"Bearer {value}"
        assert made.url.query["k"] == value
        assert made.data == json.dumps([value]).encode()


@pytest.mark.parametrize("environ", [{}, {"T": ""}, {"T": "planted\nX-Evil: 1"}, {"T": "planted\udcff"}])
def test_a_secret_that_cannot_be_used(environ: dict[str, str]) -> None:
    """The error names skill, secret and variable, and never a value."""
    found = error("http://h/", {}, environ=environ, headers={"A": "{t}"}, secrets={"t": "T"})
    assert isinstance(found, SecretError)
    assert "the environment variable T of its secret 't'" in str(found)
    assert "planted" not in str(found)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"url": "http://h/{t}", "headers": {"A": "{t}"}}, "stands in the url"),
        ({"url": "http://h/?k={t}", "headers": {"A": "{t}"}}, "stands in the url"),
        ({}, "stands nowhere"),
        ({"headers": {"A": "{t}"}, "secrets": {"t": ""}}, "environment variable"),
        ({"headers": {"A": "{t}"}, "input_schema": {"properties": {"t": {}}}}, "is a secret and a parameter"),
    ],
)
def test_secrets_of_a_definition(fields: dict[str, Any], why: str) -> None:
    """A secret in the URL, nowhere, without a variable, or with the name of a parameter is an error at definition."""
    with pytest.raises(InvalidDefinitionError, match=why):
        http_skill(**{"id": "s", "url": "http://h/", "secrets": {"t": "T"}, **fields})


def test_no_repr_of_a_request_shows_its_parts() -> None:
    """What a debugger or a traceback with local variables prints is the template."""
    made = request("http://h/{a}", {"a": "x"}, environ={"T": "planted"}, headers={"A": "{t}"}, secrets={"t": "T"})
    assert repr(made) == "<Request GET http://h/{a}>"


def in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


@given(
    st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable()),
    st.lists(
        st.sampled_from(
            [in_json, lambda text: json.dumps(text, ensure_ascii=False), repr, quote, quote_plus, html.escape]
        ),
        max_size=3,
    ),
)
def test_scrubbing_knows_every_spelling(secret: str, spellings: list[Any]) -> None:
    """A secret is found as it is, percent-encoded, escaped as in JSON, Python and HTML, and so again and again."""
    made = request("http://h/", {}, environ={"T": secret}, headers={"A": "{t}"}, secrets={"t": "T"})
    text = secret
    for spelling in spellings:
        text = spelling(text)
    assert made.reveals(f"<{text}>")
    assert made.scrub(f"<{text}>") == "(withheld, since it quotes a secret)"


@given(st.text(max_size=30))
def test_scrubbing_leaves_other_texts(text: str) -> None:
    """A text without the secret is what it was, and a request without secrets looks at nothing."""
    made = request("http://h/", {}, environ={"T": "zq7xkvv9wj8"}, headers={"A": "{t}"}, secrets={"t": "T"})
    assert made.scrub(text) == request().scrub(text) == text


# definitions


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://h/", "pattern"),
        ("http:///x", "no host"),
        ("http://:80/", "no host"),
        ("http://u:p@h/", "user or a password"),
        ("http://u@h/", "user or a password"),
        ("http://a b/", "space"),
        ("http://h\\@evil/", "user or a password|backslash"),
        ("http://h:99999/", "[Pp]ort"),
        ("http://[zz]/", "zz"),
        ("http://{a}/", "leaves its host open"),
        ("http://h:{a}/", "leaves its host open"),
    ],
)
def test_urls_that_no_skill_has(url: str, why: str) -> None:
    """A URL without a host, with credentials, or with an open host and no bounds is an error that names the field."""
    with pytest.raises(InvalidDefinitionError, match=why) as caught:
        http_skill(id="s", url=url)
    assert caught.value.field in ("url", "allowed_hosts")
    assert "skill 's'" in str(caught.value)


def test_a_placeholder_that_no_parameter_has() -> None:
    """A schema without further parameters has to name every placeholder; one that allows them need not."""
    closed = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    with pytest.raises(InvalidDefinitionError, match=r"\{b\} is no parameter"):
        http_skill(id="s", url="http://h/{a}/{b}", input_schema=closed)
    for schema in ({**closed, "additionalProperties": True}, {**closed, "patternProperties": {"^b$": {}}}):
        assert http_skill(id="s", url="http://h/{a}/{b}", input_schema=schema)


def test_the_schema_of_the_placeholders() -> None:
    """Without a schema each placeholder is a required parameter, a secret is none."""
    made = http_skill(id="s", url="http://h/{b}", query={"q": "{a}{b}"}, headers={"A": "{t}"}, secrets={"t": "T"})
    assert made.input_schema == {"type": "object", "properties": {"b": {}, "a": {}}, "required": ("b", "a")}


@pytest.mark.parametrize(
    "batch", [{"url": "http://h/{a}"}, {"url": "nowhere"}, {"url": "http://h/", "max_size": 0}, {}]
)
def test_batches_of_a_definition(batch: Any) -> None:
    """An error in the batch names the skill and the field of the batch."""
    with pytest.raises(InvalidDefinitionError, match=r"skill 's': batch\.(url|max_size)"):
        http_skill(id="s", url="http://h/", batch=batch)


@pytest.mark.parametrize("path", ["a.", "[", "a..b", ""])
def test_response_path_is_checked_at_definition(path: str) -> None:
    """A path that is no JMESPath is an error of the definition."""
    with pytest.raises(InvalidDefinitionError, match="response_path"):
        http_skill(id="s", url="http://h/", response_path=path)


def test_a_definition_survives_json() -> None:
    """Read back from JSON the definition is equal and renders the same request."""
    made = http_skill(id="s", url="http://h/{a}", method="POST", query={"q": ["{a}"]}, body={"b": ["{a}"]},
                      headers={"A": "{t}"}, secrets={"t": "T"}, batch={"url": "http://h/b"})  # fmt: skip
    again = type(made).model_validate_json(made.model_dump_json())
    assert again == made
    renders = [RequestTemplate(each).render({"a": 1}, {"T": "x"}) for each in (made, again)]
    assert len({(str(r.url), r.data, tuple(r.headers.items())) for r in renders if isinstance(r, Request)}) == 1


# hosts


def test_an_open_host_is_filled_and_checked() -> None:
    """A host from a parameter is taken when it is allowed, and refused by name when not."""
    fields: dict[str, Any] = {"allowed_hosts": ["a.example.org", "127.0.0.1:81"]}
    assert str(request("http://{a}/x", {"a": "127.0.0.1:81"}, **fields).url) == "http://127.0.0.1:81/x"
    assert str(request("http://{a}.Example.org:5/", {"a": "A"}, **fields).url) == "http://a.example.org:5/"
    for value in ("127.0.0.1:82", "127.0.0.1", "b.example.org", "evil.org"):
        found = error("http://{a}/x", {"a": value}, **fields)
        assert isinstance(found, HostNotAllowedError)
        assert value in str(found)


@pytest.mark.parametrize("value", ["a/b", "a@b", "a?b", "a#b", "a b", "", "a\\b", "a:b", "-a", "bücher.de", "h:99999"])
def test_a_host_is_nothing_but_a_host(value: str) -> None:
    """A parameter in the place of the host cannot bring a path, credentials or another host."""
    found = error("http://{a}/x", {"a": value}, allowed_hosts=["a", "b", "h"])
    assert isinstance(found, InvalidParametersError)


@pytest.mark.parametrize(
    ("own", "skill", "engine", "url", "allowed"),
    [
        ("http://h:8/", None, None, "http://h:8/x", True),
        ("http://h:8/", None, None, "http://h:9/x", False),
        ("http://h/", None, None, "https://h/", False),
        ("http://h/", None, None, "http://H:80/", True),
        ("http://h/", ("h",), None, "https://h:1/", True),
        ("http://h/", ("o:80",), None, "http://h/", False),
        ("http://h/", ("o:80",), None, "http://o/", True),
        ("http://h/", ("H",), ("h:81",), "http://h/", False),
        ("http://h/", ("h",), ("h:81",), "http://h:81/", True),
        ("http://h/", None, ("h",), "http://h/", True),
        ("http://h/", None, (), "http://h/", False),
        ("http://h/", ("[::1]:5",), None, "http://[::1]:5/", True),
        ("http://h/", ("[::1]",), None, "http://[::1]:5/", True),
        ("http://h/", ("[::1]:5",), None, "http://[::1]:6/", False),
        ("http://h/", ("example.org",), None, "http://evil-example.org/", False),
        ("http://h/", ("example.org",), None, "http://example.org.evil/", False),
    ],
)
def test_hosts(own: str, skill: Any, engine: Any, url: str, allowed: bool) -> None:
    """A host is allowed when the skill and the engine allow it; a name without a port allows every port."""
    from yarl import URL

    assert Hosts([URL(own)], skill, engine).allow(URL(url)) is allowed


@pytest.mark.parametrize("hosts", [["http://a"], ["a/b"], ["a:b"], [""], ["*.a"], ["a:99999"], "a"])
def test_hosts_of_a_definition(hosts: Any) -> None:
    """What is no host is an error of the definition."""
    with pytest.raises(InvalidDefinitionError, match="allowed_hosts"):
        http_skill(id="s", url="http://h/", allowed_hosts=hosts)


# batches


def test_a_batch_holds_the_calls_and_the_credentials() -> None:
    """The one request has every call's parameters, and of headers and query what takes none of them."""
    made = template(
        "http://h/{a}", headers={"A": "{t}", "X": "{a}", "C": "c"}, query={"k": "{t}", "q": "{a}"}, secrets={"t": "T"},
        batch={"url": "http://h/batch?v=1", "items": "calls"},
    ).render_batch([b'{"a":1}', b'{"a":2}'], {"T": "x y"})  # fmt: skip
    assert isinstance(made, Request)
    assert (made.method, str(made.url)) == ("POST", "http://h/batch?v=1&k=x%20y")
    assert dict(made.headers) == {"A": "x y", "C": "c", "Content-Type": "application/json"}
    assert made.data == b'{"calls":[{"a":1},{"a":2}]}'


# response paths


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("a", {"a": 1}, 1),
        ("a.b", {"a": {"b": [2]}}, [2]),
        ("a.b", {"a": {"b": None}}, None),
        ("a[0].b", {"a": [{"b": None}]}, None),
        ("a[].b", {"a": [{"b": 1}, {}]}, [1]),
        ("length(a)", {"a": [1, 2]}, 2),
        ("a | [0]", {"a": [3]}, 3),
        ("@", None, None),
        ('"a b"', {"a b": 4}, 4),
        ("b || a", {"a": 5}, 5),
    ],
)
def test_a_path_that_finds(path: str, value: Any, found: Any) -> None:
    """A part that is there is returned, a null among them."""
    assert JsonPath(path)(value) == found


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("a", {}, "'a'"),
        ("a.b", {"a": {}}, "'b'"),
        ("a.b", {"a": None}, "'b'"),
        ("a", [1], "'a'"),
        ("a", "text", "'a'"),
        ("a[0]", {"a": []}, r"\[0\]"),
        ("a[0].b", {"a": [{}]}, "'b'"),
        ("a[].b", {}, "'a'"),
        ("length(a)", {"a": 1}, "cannot be applied"),
        ("sum(a)", {"a": ["x"]}, "cannot be applied"),
    ],
)
def test_a_path_that_finds_nothing(path: str, value: Any, why: str) -> None:
    """A key or an index that is not there is named."""
    with pytest.raises(MissingError, match=why):
        JsonPath(path)(value)
