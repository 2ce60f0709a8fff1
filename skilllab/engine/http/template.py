"""RequestTemplate: an HTTP handler made ready, so that each call only fills in its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

from multidict import CIMultiDict
from yarl import URL

from skilllab.engine.http.fill import (
    ABSENT,
    CONTROL,
    BadValueError,
    Fill,
    Values,
    filled,
    in_header,
    in_host,
    in_path,
    json_bytes,
    json_fill,
    left_out,
    query_fill,
    query_fills,
    text_fill,
    url_parts,
)
from skilllab.engine.http.hosts import Hosts, host_text, place_of
from skilllab.engine.http.path import JsonPath
from skilllab.engine.http.scrub import holds
from skilllab.errors import (
    HostNotAllowedError,
    InvalidDefinitionError,
    InvalidParametersError,
    SecretError,
    SkilllabError,
)
from skilllab.model import HttpHandler, SkillDefinition
from skilllab.templates import template_names, template_pieces

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_AWAY = frozenset({"authorization", "cookie", "proxy-authorization"})


@final
class Failure(NamedTuple):
    """An error that nobody raised yet, so that no traceback of it passes where a secret is at hand.

    again: whether another try may do better. wait: seconds that the server asks to wait before it, None for no wish.
    stale: whether a kept connection broke, which mostly means that it had ended unseen. chance: 0 to 1, for those who
    failed together and shall try again together.
    """

    error: SkilllabError
    again: bool = False
    wait: float | None = None
    stale: bool = False
    chance: float | None = None


class Request:
    """One request, ready to send; its repr shows the template alone, since its parts hold parameters and secrets."""

    __slots__ = ("data", "headers", "method", "secrets", "shown", "template", "url")

    def __init__(
        self,
        template: RequestTemplate,
        method: str,
        url: URL,
        headers: CIMultiDict[str],
        data: bytes | None,
        secrets: tuple[str, ...],
        shown: str,
    ) -> None:
        self.template = template
        self.shown = shown
        self.method = method
        self.url = url
        self.headers = headers
        self.data = data
        self.secrets = secrets

    def __repr__(self) -> str:
        return f"<Request {self.shown}>"

    def scrub(self, text: str) -> str:
        """Returns a text that came from outside, or a word in its place when it holds a secret of this request."""
        return "(withheld, since it quotes a secret)" if self.reveals(text) else text

    def reveals(self, text: str) -> bool:
        """Returns whether a text holds a secret of this request, plain or encoded."""
        return bool(self.secrets) and any(holds(text, secret) for secret in self.secrets)


class RequestTemplate:
    """The handler of one skill, compiled.

    engine_hosts: the hosts that the engine allows, None for no bounds of its own. Raises InvalidDefinitionError for a URL
    that cannot be read. Each placeholder stands where it cannot leave its place: a value in the path stays one segment.
    """

    def __init__(self, definition: SkillDefinition, engine_hosts: tuple[str, ...] | None = None) -> None:
        handler = definition.handler
        assert isinstance(handler, HttpHandler)
        self.skill_id = definition.id
        self.shown = f"{handler.method} {handler.url}"
        self.idempotent = handler.method in IDEMPOTENT if handler.idempotent is None else handler.idempotent
        self.path = None if handler.response_path is None else JsonPath(handler.response_path)
        self.batch = handler.batch
        self.answered = False
        """Whether an answer came before, so that a connection may have been kept."""
        self._handler = handler
        self._method = handler.method
        self._secrets = tuple(handler.secrets.items())
        self._optional = _optional(definition.input_schema) - set(handler.secrets)
        try:
            self._compile_url()
            self._compile_headers()
            self._batch_url = None if handler.batch is None else URL(_literal(handler.batch.url))
            self._batch_shown = "" if handler.batch is None else f"{handler.batch.method} {handler.batch.url}"
            own = [url for url in (self._origin, self._batch_url) if url is not None]
            self.hosts = Hosts(own, handler.allowed_hosts, engine_hosts)
            self._fill_body = None if handler.body is None else json_fill(handler.body, self._optional)
            self._data = None
            if self._fill_body is not None and not _has_names(handler.body):
                self._data = json_bytes(self._fill_body({}))
        except (BadValueError, ValueError) as error:
            why = error.why if isinstance(error, BadValueError) else str(error)
            raise InvalidDefinitionError(f"skill {self.skill_id!r}: handler: {why}", field="handler") from None

    def render(self, params: Values, environ: Mapping[str, str]) -> Request | Failure:
        """Returns the request for one call, or the failure that says which parameter or secret does not do."""
        secrets: tuple[str, ...] = ()
        if self._secrets:
            found = self._read_secrets(environ)
            if isinstance(found, Failure):
                return found
            secrets, params = tuple(found.values()), {**params, **found}
        try:
            url = URL(self._filled_url(params), encoded=True) if self._url is None else self._url
            if self._origin is None:
                place_of(url)  # reads the port, which a parameter may have spoilt
            headers = CIMultiDict(filled(self._header_fills, params)) if self._headers is None else self._headers
            data = self._data
            if data is None and self._fill_body is not None:
                body = self._fill_body(params)
                data = None if body is ABSENT else json_bytes(body)
        except BadValueError as caught:
            name, why = caught.name, caught.why
        except ValueError as caught:
            name, why = "", f"they make no URL: {caught}"
        else:
            return self._allowed(Request(self, self._method, url, headers, data, secrets, self.shown))
        return self._refused(name, why)

    def batch_item(self, params: Values) -> bytes | Failure:
        """Returns the parameters of one call as JSON, or the failure of parameters that are none."""
        try:
            return json_bytes(params)
        except BadValueError as caught:
            why = caught.why
        return self._refused("", why)

    def render_batch(self, items: Sequence[bytes], environ: Mapping[str, str]) -> Request | Failure:
        """Returns the one request for many calls: their parameters, and what of headers and query takes none of them."""
        batch, url = self.batch, self._batch_url
        assert batch is not None
        assert url is not None
        found = self._read_secrets(environ)
        if isinstance(found, Failure):
            return found
        query = "&".join(filled(self._shared_query, found))
        if query:
            url = URL(f"{url}{'&' if url.raw_query_string else '?'}{query}", encoded=True)
        headers = CIMultiDict(filled(self._shared_headers, found))
        data = b"{%s:[%s]}" % (json_bytes(batch.items), b",".join(items))
        return self._allowed(Request(self, batch.method, url, headers, data, tuple(found.values()), self._batch_shown))

    def forbidden(self, url: URL, what: str, scrub: Callable[[str], str] = str) -> Failure:
        """Returns the failure of a request that would go to a host that is not allowed; `scrub` hides secrets."""
        place = scrub(host_text(place_of(url)))
        return Failure(
            HostNotAllowedError(
                f"{self.skill_id}: {what} would go to {place}, which is not allowed ({self.hosts}): name it in "
                "allowed_hosts of the skill, and of the engine if that has any"
            )
        )

    def private_headers(self) -> frozenset[str]:
        """Returns the names, in small letters, of headers that are not for another host: credentials and secrets."""
        named = self._handler.headers.items()
        return _AWAY | {
            key.lower() for key, text in named if not set(template_names(text)).isdisjoint(self._handler.secrets)
        }

    def secret_body(self) -> bool:
        """Returns whether a secret stands in the body."""
        return not set(template_names(self._handler.body)).isdisjoint(self._handler.secrets)

    def _allowed(self, request: Request) -> Request | Failure:
        return request if self.hosts.allow(request.url) else self.forbidden(request.url, "its request")

    def _refused(self, name: str, why: str) -> Failure:
        where = f"at /{name}" if name else "as a whole"
        message = f"{self.skill_id}: parameters {where}: {why}"
        return Failure(InvalidParametersError(message, skill_id=self.skill_id, path=f"/{name}" if name else ""))

    def _read_secrets(self, environ: Mapping[str, str]) -> dict[str, str] | Failure:
        found = {}
        for name, variable in self._secrets:
            value = environ.get(variable)
            if not value or CONTROL.search(value):
                why = "holds a line break or another control character" if value else "is not set, or empty"
                return Failure(
                    SecretError(
                        f"{self.skill_id}: the environment variable {variable} of its secret {name!r} {why}: set it"
                    )
                )
            found[name] = value
        return found

    # compiling

    def _compile_url(self) -> None:
        handler = self._handler
        scheme, _, rest = handler.url.partition("://")
        cut = min((rest.index(mark) for mark in "/?#" if mark in rest), default=len(rest))
        authority, rest = rest[:cut], rest[cut:].partition("#")[0]
        self._origin: URL | None = None
        if _has_names(authority):
            pieces = template_pieces(f"{scheme}://{authority}")
            origin = text_fill(tuple((text.lower(), name) for text, name in pieces), in_host)
        else:
            self._origin = URL(_literal(f"{scheme}://{authority}"))
            if not self._origin.raw_host:
                raise ValueError(f"url={handler.url!r} names no host")
            origin = text_fill(((f"{scheme}://{self._origin.raw_authority}", None),), in_host)
        path, items = url_parts(rest)
        fills = [(item, query_fill(item, self._optional)) for item in items]
        self._fill_path = text_fill(path, in_path)
        self._fill_origin = origin
        declared = [
            (value, fill) for key, value in handler.query.items() for fill in query_fills(key, value, self._optional)
        ]
        self._query_fills = [fill for _, fill in (*fills, *declared)]
        self._shared_query = [fill for value, fill in declared if self._is_shared(value)]
        open_url = _has_names(handler.url) or _has_names(handler.query)
        self._url: URL | None = None if open_url else URL(self._filled_url({}), encoded=True)

    def _filled_url(self, values: Values) -> str:
        text: str = self._fill_origin(values) + self._fill_path(values)
        if self._query_fills:
            query = "&".join(filled(self._query_fills, values))
            if query:
                return f"{text}?{query}"
        return text

    def _compile_headers(self) -> None:
        handler = self._handler
        fills = [(text, self._header_fill(key, text)) for key, text in handler.headers.items()]
        typed = any(key.lower() == "content-type" for key in handler.headers)
        content_type = ("Content-Type", "application/json")
        self._header_fills = [fill for _, fill in fills]
        if handler.body is not None and not typed:
            self._header_fills.append(lambda values: content_type)
        self._shared_headers = [fill for text, fill in fills if self._is_shared(text)]
        if not typed:
            self._shared_headers.append(lambda values: content_type)
        self._headers: CIMultiDict[str] | None = None
        if not _has_names(handler.headers):
            self._headers = CIMultiDict(filled(self._header_fills, {}))

    def _header_fill(self, key: str, text: str) -> Fill:
        value = text_fill(template_pieces(text), in_header)
        return left_out(lambda values: (key, value(values)), template_names(text), self._optional)

    def _is_shared(self, template: Any) -> bool:
        return set(template_names(template)) <= set(self._handler.secrets)


def _has_names(template: Any) -> bool:
    return next(template_names(template), None) is not None


def _literal(template: str) -> str:
    return "".join(text for text, _ in template_pieces(template))


def _optional(schema: Any) -> set[str]:
    """Returns the parameters that a call may leave out, as far as the schema names them."""
    known = schema.get("properties") if isinstance(schema, Mapping) else None
    return set(known) - set(schema.get("required", ())) if isinstance(known, Mapping) else set()
