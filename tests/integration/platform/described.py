"""Requests made from an OpenAPI document, right ones and wrong ones, and what the document says of their answers."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, quote

import jsonschema
from hypothesis import strategies as st

from tests.integration.platform.wire import Got, Sent

_Value = TypeVar("_Value")
BODY_BYTES_MAX: Final = 16 * 1024
MALFORMED_JSON: Final = (
    b"",
    b"{",
    b"\xff",
    b"\xef\xbb\xbf{}",
    b"[" * 5_000,
    b'{"amount": 1e}',
    b'"\\ud800"',
    b"null null",
)
_OTHER_TYPES: Final = (
    "application/json; charset=utf-8",
    "text/plain",
    "",
    "application/xml",
    "application/json-patch+json",
    "multipart/form-data",
    "a/b/c",
)
_TEXTS: Final = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec="utf-8"), max_size=300),
    st.sampled_from(
        ["", " ", "\0", "a\0b", "\n", "x" * 2_000, "ü" * 2_000, "\u2028", "'; drop table transfer; --", "💰"]
    ),
)
_ANYTHING: Final = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40), st.floats(allow_nan=True), _TEXTS
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=5,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the document, its references resolved."""

    method: str
    path: str
    name: str
    body: Mapping[str, Any] | None
    parameters: tuple[Mapping[str, Any], ...]
    responses: Mapping[str, Any]
    authenticated: bool
    components: Mapping[str, Any]
    whole: bool = True
    """Whether its numbers are whole ones, as all amounts are."""

    def is_right(self, sent: Sent) -> bool:
        """Whether the document takes what was sent, the token aside."""
        headers = [(name.lower(), value.strip(b" \t")) for name, value in sent.headers]
        queried = parse_qs(sent.path.partition("?")[2], keep_blank_values=True)
        for parameter in self.parameters:
            if parameter["in"] == "query":
                texts = queried.get(parameter["name"], [])
                right = len(texts) <= 1 and all(_is_number(text, parameter["schema"]) for text in texts)
            elif parameter["in"] == "header":
                texts = [
                    value.decode("latin-1") for name, value in headers if name == parameter["name"].lower().encode()
                ]
                right = len(texts) == 1 and re.search(_strict(parameter["schema"]["pattern"]), texts[0]) is not None
            else:
                right = True  # what is there, the document cannot know
            if not right:
                return False
        return sent.body is None or self._takes(sent.body, dict(headers))

    def _takes(self, body: bytes, headers: Mapping[bytes, bytes]) -> bool:
        kind = headers[b"content-type"].partition(b";")[0]
        if kind != b"application/json" or b"content-encoding" in headers or len(body) > BODY_BYTES_MAX:
            return False
        try:
            value = json.loads(body.decode())
        except (ValueError, RecursionError):
            return False
        schema = {**(self.body or {}), "components": self.components}
        return _Validator(schema).is_valid(value) and not (self.whole and _holds_fraction(value))

    @property
    def keyed(self) -> bool:
        """Whether it wants an Idempotency-Key."""
        return any(parameter["name"] == "Idempotency-Key" for parameter in self.parameters)

    def check(self, got: Got) -> None:
        """Fails unless the answer is one that the document names for the operation."""
        assert str(got.status) in self.responses, f"{self.name}: the document names no {got.status}: {got}"
        contents = self.responses[str(got.status)].get("content")
        if contents is None:
            assert got.body == b"", got
            return
        assert got.media_type in contents, got
        schema = contents[got.media_type].get("schema")
        if schema is not None:
            jsonschema.validate(got.json(), {**schema, "components": self.components}, _Validator)


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Every operation of the document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            yield Operation(
                method=method.upper(),
                path=path,
                name=operation["operationId"],
                body=content["application/json"]["schema"] if content else None,
                parameters=tuple(operation.get("parameters", ())),
                responses=operation["responses"],
                authenticated="security" in operation,
                components=document["components"],
            )


def right(schema: Mapping[str, Any], components: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that `schema` takes; of the words of JSON Schema, those that the document uses."""
    if "$ref" in schema:
        return right(components["schemas"][schema["$ref"].rpartition("/")[2]], components)
    if "anyOf" in schema:
        return st.one_of([right(each, components) for each in schema["anyOf"]])
    if schema["type"] == "object":
        fields = {name: right(field, components) for name, field in schema["properties"].items()}
        needed = {name: fields.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(needed, optional=fields)
    return _SIMPLE[schema["type"]](schema)


def _right_integer(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    low, high = int(schema["minimum"]), int(schema["maximum"])
    return st.one_of(st.integers(low, high), st.sampled_from([low, high]))


def _right_number(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    return st.floats(schema["exclusiveMinimum"], schema["maximum"], exclude_min=True)


def _right_text(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if schema.get("format") == "date-time":
        return st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
    least, most = schema.get("minLength", 0), schema.get("maxLength", 10_000)
    pattern = re.compile(_strict(schema.get("pattern", "")))
    texts = st.from_regex(pattern, alphabet=st.characters(codec="utf-8"))
    return texts.filter(lambda text: least <= len(text) <= most)


_SIMPLE: Final[Mapping[str, Callable[[Mapping[str, Any]], st.SearchStrategy[Any]]]] = {
    "null": lambda _schema: st.none(),
    "integer": _right_integer,
    "number": _right_number,
    "string": _right_text,
}


@st.composite
def bodies(draw: st.DrawFn, operation: Operation) -> bytes:
    """A body: a right one, one with a field too many, too few or wrong, anything that JSON can hold, or no JSON."""
    assert operation.body is not None
    body = draw(right(operation.body, operation.components))
    match draw(st.sampled_from([*["right"] * 6, "extra", "missing", "wrong", "anything", "no JSON", "too large"])):
        case "extra":
            body[draw(_TEXTS)] = draw(_ANYTHING)
        case "missing" if body:
            body.pop(draw(st.sampled_from(sorted(body))))
        case "wrong" if body:
            body[draw(st.sampled_from(sorted(body)))] = draw(_ANYTHING)
        case "anything":
            body = draw(_ANYTHING)
        case "no JSON":
            return draw(st.one_of(st.sampled_from(MALFORMED_JSON), st.binary(max_size=200)))
        case "too large":
            return json.dumps(body).encode().ljust(draw(st.sampled_from([BODY_BYTES_MAX, BODY_BYTES_MAX + 1, 100_000])))
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def requests(draw: st.DrawFn, operation: Operation, tokens: Mapping[str, bytes]) -> Sent:
    """A request of the operation that may be wrong in any of its parts; `tokens` are those that may be sent."""
    headers: list[tuple[bytes, bytes]] = []
    if operation.authenticated:
        token = draw(_mostly(st.just("valid"), st.sampled_from([*sorted(tokens), "none"])))
        if token != "none":
            headers.append((b"Authorization", tokens[token]))
    path, query = operation.path, []
    for parameter in operation.parameters:
        match parameter["in"]:
            case "header":
                headers += [(parameter["name"].encode(), key) for key in draw(_keys())]
            case "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(draw(_number(parameter)), safe="") or "%20")
            case "query":
                query += [
                    f"{parameter['name']}={quote(value)}"
                    for value in draw(
                        _mostly(
                            st.lists(_number(parameter), max_size=1),
                            st.lists(_number(parameter), min_size=2, max_size=2),
                        )
                    )
                ]
    body = None
    if operation.body is not None:
        body = draw(bodies(operation))
        kind = draw(_mostly(st.just("application/json"), st.sampled_from(_OTHER_TYPES)))
        headers.append((b"Content-Type", kind.encode()))
    headers += draw(_mostly(st.just([]), st.lists(st.sampled_from(_ODD_HEADERS), min_size=1, max_size=2)))
    return Sent(
        method=operation.method, path=path + ("?" + "&".join(query) if query else ""), headers=headers, body=body
    )


_ODD_HEADERS: Final = (
    (b"X-Request-Id", b"a" * 200),
    (b"X-Request-Id", b"\xff"),
    (b"x-envoy-attempt-count", b"-7"),
    (b"x-envoy-external-address", b"::::::"),
    (b"If-None-Match", b'W/"x", \xff'),
    (b"If-None-Match", b"*"),
    (b"Content-Encoding", b"gzip"),
    (b"Expect", b"a-miracle"),
    (b"Accept", b"image/png"),
    (b"Cookie", b"\xff;;=;"),
    (b"Range", b"bytes=-1"),
    (b"X-Long", b"x" * 30_000),
)


def _mostly(usual: st.SearchStrategy[_Value], odd: st.SearchStrategy[_Value]) -> st.SearchStrategy[_Value]:
    # So that a request with something wrong often has one thing wrong.
    return st.sampled_from([usual] * 5 + [odd]).flatmap(lambda chosen: chosen)


def _keys() -> st.SearchStrategy[list[bytes]]:
    fresh = st.uuids().map(lambda key: [str(key).encode()])
    odd = st.sampled_from([[], [b""], [b"a b"], [b"\xff"], [b"x" * 255], [b"x" * 256], [b"k", b"k"], [b"\t"], [b"!~"]])
    return _mostly(fresh, odd)


def _number(parameter: Mapping[str, Any]) -> st.SearchStrategy[str]:
    odd = st.sampled_from(
        ["0", "-1", "+1", "1.0", "1e3", "01", "²", "٣", "9" * 19, "9" * 5_000, "\0", "\xff", "a/b", "..", ""]
    )
    schema = parameter["schema"]
    within = st.one_of(st.integers(schema["minimum"], schema["maximum"]), st.integers(1, 20))
    return _mostly(within.map(str), st.one_of(st.integers().map(str), odd, _TEXTS))


def _is_number(text: str, schema: Mapping[str, Any]) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,30}", text) is not None and schema["minimum"] <= int(text) <= schema["maximum"]


def _holds_fraction(value: Any) -> bool:
    # To JSON Schema 5.0 is a whole number; the document says in words that an amount is written without a point.
    match value:
        case float():
            return True
        case dict():
            return any(_holds_fraction(each) for each in value.values())
        case list():
            return any(_holds_fraction(each) for each in value)
    return False


def _strict(pattern: str) -> str:
    # ECMA's `$`, which the document means, does not match before a last line break as Python's does.
    return re.sub(r"\$$", r"\\Z", pattern)


def _matches(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and not re.search(_strict(pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator: Final[Any] = jsonschema.validators.create(
    jsonschema.Draft202012Validator.META_SCHEMA, {**jsonschema.Draft202012Validator.VALIDATORS, "pattern": _matches}
)
