"""Every operation of /openapi.json against requests made from it: what is answered, and what is written."""

import asyncio
import hashlib
import http.client
import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from system_under_test.domain.money import AMOUNT_MAX
from system_under_test.services.portal.openapi import describe
from tests.integration.platform.described import Operation, operations, requests
from tests.integration.platform.stage import Platform
from tests.integration.platform.wire import Got, Sent, exchange

# The served document is compared with this one below.
_OPERATIONS: Final = {operation.name: operation for operation in operations(describe("v1"))}
_THROUGH_BALANCER: Final = [
    name for name, operation in _OPERATIONS.items() if operation.path not in {"/healthz", "/readyz", "/metrics"}
]
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
_WHO: Final = "c-000040"
# Whatever a portal's functions write but the limits of log-ins, which a refused log-in is meant to move.
_WRITTEN: Final = """
select (select md5(string_agg(i::text, '|' order by i.account, i.key)) from idempotency i),
       (select accepted from intake), (select count(*) from redemption), (select count(*) from customer),
       (select md5(string_agg(s::text, '|' order by s.token_hash)) from session s),
       (select md5(string_agg(p::text, '|' order by p.account)) from push_subscription p),
       (select count(*) from known_device), (select count(*) from account),
       (select count(*) from transfer where kind = 'deposit')
"""


def _examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        # Making a failing request simpler would take minutes of a whole platform.
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A customer's tokens of every kind, and the owner's view of what is written."""

    runner: asyncio.Runner
    owner: Any
    tokens: Mapping[str, bytes]
    valid: bytes

    def written(self) -> Any:
        """What the portal has written so far."""
        return self.runner.run(self.owner.fetchrow(_WRITTEN))

    def log_in(self) -> None:
        """Makes the valid token valid, should it have been used to log out."""
        self.add_session(self.valid, "1 hour")

    def order(
        self,
        operation: Operation,
        body: bytes,
        *,
        kind: bytes = b"application/json",
        keys: Sequence[bytes] = (b"k",),
        token: bytes | None = None,
    ) -> Sent:
        """An order, with the valid token unless another is given."""
        headers = [(b"Authorization", token or self.tokens["valid"]), (b"Content-Type", kind)]
        headers += [(b"Idempotency-Key", key) for key in keys]
        return Sent(method=operation.method, path=operation.path, headers=headers, body=body)

    def add_session(self, token: bytes, lasts: str, *, account: str = _WHO) -> None:
        """A session of a customer, unless it is there."""
        self.runner.run(
            self.owner.execute(
                "insert into session (token_hash, account, expires_at) values ($1, $2, now() + $3::text::interval)"
                " on conflict do nothing",
                *(hashlib.sha256(token).digest(), account, lasts),
            )
        )


@pytest.fixture
def desk(platform: Platform) -> Iterator[Desk]:
    """The desk of a customer whom no other test knows."""
    valid, expired = (secrets.token_urlsafe(32).encode() for _ in range(2))
    tokens = {
        "valid": b"Bearer " + valid,
        "expired": b"Bearer " + expired,
        "forged": b"Bearer " + secrets.token_urlsafe(32).encode(),
        "long": b"Bearer " + b"x" * 20_000,
        "bytes": b"Bearer \xff\xfe",
        "empty": b"Bearer",
        "another scheme": b"Basic " + valid,
        "twice": b"Bearer " + valid + b" " + valid,
    }
    with asyncio.Runner() as runner:
        owner = runner.run(asyncpg.connect(platform.postgres.outputs()["admin_dsn"]))
        try:
            desk = Desk(runner=runner, owner=owner, tokens=tokens, valid=valid)
            desk.add_session(expired, "-1 second")
            yield desk
        finally:
            runner.run(owner.close(timeout=5))


def test_what_is_served_is_the_description_that_is_tested(platform: Platform) -> None:
    """The document of each node and of the balancer: the one that these tests make requests from."""
    for port in (*(portal.port for portal in platform.portals), platform.balancer.port):
        got = exchange(port, Sent(method="GET", path="/openapi.json"))
        assert (got.status, got.media_type) == (200, "application/json")
        assert got.json() == describe("v1")


@pytest.mark.parametrize("name", _OPERATIONS)
def test_every_answer_of_a_node_is_one_that_the_document_names(platform: Platform, desk: Desk, name: str) -> None:
    """Sixty requests for each operation, right and wrong in any part: see `_judge` for what is true of each answer.

    Among the answers are those that tell that there were right and wrong ones.
    """
    operation = _OPERATIONS[name]
    seen: Counter[int] = Counter()

    @given(requests(operation, desk.tokens))
    @_examples(60 if operation.parameters or operation.body else 15)
    def ask(sent: Sent) -> None:
        seen[_judge(platform.portals[0].port, operation, sent, desk)] += 1

    ask()
    assert seen.keys() >= _TELLING.get(name, {200}), seen


@pytest.mark.parametrize("name", _THROUGH_BALANCER)
def test_every_answer_through_the_balancer_is_one_that_the_document_names(
    platform: Platform, desk: Desk, name: str
) -> None:
    """The same through the balancer, with ten requests for each operation."""
    operation = _OPERATIONS[name]

    @given(requests(operation, desk.tokens))
    @_examples(10)
    def ask(sent: Sent) -> None:
        _judge(platform.balancer.port, operation, sent, desk)

    ask()


def _judge(port: int, operation: Operation, sent: Sent, desk: Desk) -> int:
    """What the document takes is done, what it does not take is refused and writes nothing; gives the status."""
    desk.log_in()
    before = desk.written()
    got = exchange(port, sent)
    _is_no_failure(got)
    operation.check(got)
    if got.status >= 400:
        _is_a_problem(got)
    changes = operation.method != "GET" and got.status < 300
    assert changes or desk.written() == before, f"{got.status} and something was written: {sent}"
    if got.status == 503:
        return got.status
    authorization = dict(sent.headers).get(b"Authorization")
    known = not operation.authenticated or authorization == desk.tokens["valid"]
    if not operation.is_right(sent):
        assert 400 <= got.status < 500, f"{got.status} to what the document does not take: {sent}"
    elif not known:
        assert got.status == 401, f"{got.status} without a session: {sent}"
    else:
        # What the document cannot know: the password, the keys used before, the redemptions there are.
        assert got.status < 400 or got.status in _KNOWN_LATER[operation.name], f"{got.status} to {sent}"
    return got.status


# A log-in with an address of nobody's is right and still refused; a redemption's number is seldom met.
_TELLING: Final = {
    "open_session": {400, 401},
    "close_session": {204},
    "deposit": {201, 400},
    "redeem": {202, 400},
    "list_redemptions": {200, 400},
    "read_redemption": {404},
    # A drawn key is hardly ever a point of the curve, and here is no notifier that would have published one.
    "subscribe": {400, 422},
    "unsubscribe": {204},
    "read_push_key": {404},
}
# A right body, for those who may not send it; orders take the other one.
_BODIES: Final = {
    "subscribe": json.dumps(
        {
            "endpoint": "http://127.0.0.1:2580/push/mine",
            "keys": {
                "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
                "auth": "BTBZMqHH6r4Tts7J_aSIgg",
            },
        }
    ).encode()
}
_ORDER: Final = b'{"amount": 5}'
_KNOWN_LATER: Final = dict.fromkeys(_OPERATIONS, frozenset[int]()) | {
    "open_session": frozenset({401, 429}),
    "deposit": frozenset({422}),
    "redeem": frozenset({422}),
    "read_redemption": frozenset({404}),
    "watch": frozenset({429}),
    "subscribe": frozenset({422}),
    "read_push_key": frozenset({404}),
}


@pytest.mark.parametrize("name", [name for name, operation in _OPERATIONS.items() if operation.authenticated])
def test_without_a_session_nothing_is_told_and_nothing_done(platform: Platform, desk: Desk, name: str) -> None:
    """A right request with no, a forged, an expired and a malformed token, to node and balancer: 401, no effect."""
    operation = _OPERATIONS[name]
    desk.log_in()
    before = desk.written()
    for token in (None, *(token for kind, token in desk.tokens.items() if kind != "valid")):
        headers = [(b"Idempotency-Key", b"k"), (b"Content-Type", b"application/json")]
        if token is not None:
            headers.append((b"Authorization", token))
        sent = Sent(
            method=operation.method,
            path=operation.path.replace("{id}", "1"),
            headers=headers,
            body=None if operation.body is None else _BODIES.get(name, _ORDER),
        )
        for port in (platform.portals[0].port, platform.balancer.port):
            got = exchange(port, sent)
            assert got.status == 401, (token, got)
            operation.check(got)
            assert (got.json()["type"], got.json()["field"]) == ("unauthenticated", "Authorization")
            assert "www-authenticate" in got.headers
    assert desk.written() == before


def _is_no_failure(got: Got) -> None:
    deliberate = got.status == 503 and got.headers.get("x-envoy-ratelimited") == "true"
    assert got.status < 500 or deliberate, got


def _is_a_problem(got: Got) -> None:
    assert got.media_type == "application/problem+json", got
    document = got.json()
    assert document["status"] == got.status
    assert document["title"]
    assert document["detail"], got
    # Whose field is at fault: all that is refused for what was sent, but a password that is wrong, or too many of them.
    if got.status in {400, 408, 413, 415, 422}:
        assert document["field"], got


@pytest.mark.parametrize("path", sorted({operation.path for operation in _OPERATIONS.values()}))
def test_another_method_is_refused_with_those_that_are_possible(platform: Platform, desk: Desk, path: str) -> None:
    """Each method that the document does not name for a path, with a valid token and a right body: 405 and Allow."""
    possible = {operation.method for operation in _OPERATIONS.values() if operation.path == path}
    desk.log_in()
    before = desk.written()
    for method in set(_METHODS) - possible:
        headers = (
            (b"Authorization", desk.tokens["valid"]),
            (b"Idempotency-Key", b"k"),
            (b"Content-Type", b"application/json"),
        )
        sent = Sent(method=method, path=path.replace("{id}", "1"), headers=headers, body=b'{"amount": 5}')
        got = exchange(platform.portals[0].port, sent)
        assert (got.status, set(got.headers["allow"].split(", "))) == (405, possible), (method, got)
        if method != "HEAD":
            _is_a_problem(got)
    assert desk.written() == before


@given(st.text(max_size=60), st.sampled_from(_METHODS))
@_examples(40)
def test_a_path_that_no_operation_has_is_not_found(platform: Platform, path: str, method: str) -> None:
    """Any text as a path below /v1, to a node: 404 with a problem document."""
    got = exchange(platform.portals[0].port, Sent(method=method, path=f"/v1/-{quote(path)}"))
    assert got.status == 404
    if method != "HEAD":
        _is_a_problem(got)


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        (b'{"amount":5,"amount":6}', 400, "malformed-json", "amount"),
        (b'{"amount":5,"amount":5}', 400, "malformed-json", "amount"),
        (rb'{"amount":5,"\u0061mount":6}', 400, "malformed-json", "amount"),
        (b'{"amount":5', 400, "malformed-json", "body"),
        (b"", 400, "malformed-json", "body"),
        (b'{"amount":' + b" " * 17_000 + b"5}", 413, "body-too-large", "body"),
    ],
)
@pytest.mark.parametrize("name", ["deposit", "redeem"])
def test_an_order_that_can_be_read_in_two_ways_or_in_none_is_refused(
    platform: Platform, desk: Desk, name: str, body: bytes, status: int, kind: str, field: str
) -> None:
    """Amounts given twice, half a body, none, and one beyond the limit: refused by a node, with whose fault it is."""
    desk.log_in()
    before = desk.written()
    operation = _OPERATIONS[name]
    got = exchange(
        platform.portals[0].port, desk.order(operation, body, token=desk.tokens["valid"], keys=(b"read-twice",))
    )
    operation.check(got)
    assert (got.status, got.json()["type"], got.json()["field"]) == (status, kind, field)
    assert desk.written() == before


_START: Final = b"POST /v1/deposits HTTP/1.1\r\nHost: portal\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\r\n\r\n",
        b"GET /v1/status HTTP/3.9\r\nHost: portal\r\n\r\n",
        b"GET /v1/redemptions/\xc3\xa9 HTTP/1.1\r\nHost: portal\r\n\r\n",
        b"FROB /v1/status HTTP/1.1\r\nHost: portal\r\n\r\n",
        b"GET http://[/v1/status HTTP/1.1\r\nHost: portal\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        _START + b"Authorization: Bearer a\0b\r\n\r\n",
        _START + b"Content-Length: -3\r\n\r\n",
        _START + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}",
        _START + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        _START + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        _START + b"".join(b"X-%d: 1\r\n" % number for number in range(200)) + b"\r\n",
        _START + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_by_node_and_balancer(platform: Platform, desk: Desk, sent: bytes) -> None:
    """Each as it is, on the wire: refused as such, by the balancer with a problem document; nothing is written.

    A node's log has one line for it, as for everything: strangers can put nothing else there.
    """
    before = desk.written()
    with suppress(ConnectionError, http.client.HTTPException):  # a node may also hang up
        assert exchange(platform.portals[0].port, sent).status == 400
    got = exchange(platform.balancer.port, sent)
    assert got.status in {400, 426, 431}
    assert (got.media_type, got.json()["status"]) == ("application/problem+json", got.status)
    assert desk.written() == before
    log = platform.portals[0].log.read_text(encoding="utf-8")
    assert [line for line in log.splitlines() if json.loads(line)["instance"] != "portal-1"] == []


def test_two_tokens_at_once_are_none(platform: Platform, desk: Desk) -> None:
    """A valid token and another one, in either order, to node and balancer: 401."""
    desk.log_in()
    both = [(b"Authorization", desk.tokens[kind]) for kind in ("valid", "forged")]
    for port in (platform.portals[0].port, platform.balancer.port):
        for headers in (both, both[::-1]):
            got = exchange(port, Sent(method="GET", path="/v1/balance", headers=headers))
            assert (got.status, got.json()["field"]) == (401, "Authorization")


def test_a_body_in_another_transfer_coding_is_refused(platform: Platform, desk: Desk) -> None:
    """Chunks that are said to be compressed, to a node: 415, nothing is written."""
    desk.log_in()
    before = desk.written()
    sent = desk.order(_OPERATIONS["deposit"], b'c\r\n{"amount":5}\r\n0\r\n\r\n', keys=(b"coded",))
    coded = replace(sent, headers=(*sent.headers, (b"Transfer-Encoding", b"gzip, chunked")))
    got = exchange(platform.portals[0].port, coded)
    _OPERATIONS["deposit"].check(got)
    assert (got.status, got.json()["field"]) == (415, "Transfer-Encoding")
    assert desk.written() == before


def test_a_body_that_comes_late_or_never_holds_no_place_of_a_node(platform: Platform, desk: Desk) -> None:
    """Half a body and then nothing, and half a body and a hang-up: 408 in time, and neither is logged as an error."""
    desk.log_in()
    portal = platform.portals[1]
    sent = Sent(
        method="POST",
        path="/v1/deposits",
        headers=(
            (b"Authorization", desk.tokens["valid"]),
            (b"Idempotency-Key", b"late"),
            (b"Content-Type", b"application/json"),
            (b"Transfer-Encoding", b"chunked"),
        ),
        body=b'5\r\n{"amo\r\n',
    )
    before = desk.written()
    with pytest.raises(TimeoutError):
        exchange(portal.port, sent, within_s=0.5)
    got = exchange(portal.port, sent)
    assert got.status == 408
    _is_a_problem(got)
    assert got.json()["field"] == "body"
    _OPERATIONS["deposit"].check(got)
    assert [line["status"] for line in portal.lines("http.request") if line["route"] == "/v1/deposits"][-2:] == [
        400,
        408,
    ]
    assert portal.lines("http.error") == []
    assert desk.written() == before
    metrics = exchange(portal.port, Sent(method="GET", path="/metrics"))
    assert b"savings_http_requests_in_flight 0.0" in metrics.body


_AMOUNTS: Final = {
    "zero": "0",
    "minus zero": "-0",
    "negative": "-5",
    "hugely negative": "-1" + "0" * 40,
    "one too many": str(AMOUNT_MAX + 1),
    "beyond 64 bits": str(2**64 + 5),
    "huge": "1" + "0" * 400,
    "fractional": "5.5",
    "whole with a point": "5.0",
    "with an exponent": "5e2",
    "infinite": "1e999",
    "no number": "NaN",
    "a numeral": '"5"',
    "a word": '"five"',
    "nothing": "null",
    "a truth": "true",
    "a list": "[5]",
    "an object": '{"amount": 5}',
}
_JSON: Final = b"application/json"
_RIGHT: Final = b'{"amount": 5}'
# The body, its type, the keys; what is answered: the status, the type and the field.
_BAD: Final[Mapping[str, tuple[bytes, bytes, tuple[bytes, ...], int, str, str]]] = {
    **{
        f"amount: {what}": (f'{{"amount": {text}}}'.encode(), _JSON, (b"k",), 400, "invalid-field", "amount")
        for what, text in _AMOUNTS.items()
    },
    "no amount": (b"{}", _JSON, (b"k",), 400, "invalid-field", "amount"),
    "an amount of 4,400 digits": (b'{"amount": %s}' % (b"9" * 4400), _JSON, (b"k",), 400, "malformed-json", "body"),
    "an unknown account": (
        *(b'{"amount": 5, "account": "c-999999"}', _JSON, (b"k",)),
        *(400, "invalid-field", "account"),
    ),
    "another's account": (b'{"amount": 5, "account": "c-000001"}', _JSON, (b"k",), 400, "invalid-field", "account"),
    "a body too large": (_RIGHT.ljust(16 * 1024 + 1), _JSON, (b"k",), 413, "body-too-large", "body"),
    "a body of a megabyte": (_RIGHT.ljust(1_000_000), _JSON, (b"k",), 413, "body-too-large", "body"),
    "no body": (b"", _JSON, (b"k",), 400, "malformed-json", "body"),
    "half a body": (b'{"amount": 5', _JSON, (b"k",), 400, "malformed-json", "body"),
    "a body of another kind": (b"[]", _JSON, (b"k",), 400, "invalid-field", "body"),
    "no text": (b"\xff\xfe", _JSON, (b"k",), 400, "malformed-json", "body"),
    "plain text": (_RIGHT, b"text/plain", (b"k",), 415, "unsupported-media-type", "Content-Type"),
    "a form": (
        b"amount=5",
        b"application/x-www-form-urlencoded",
        (b"k",),
        415,
        "unsupported-media-type",
        "Content-Type",
    ),
    "no type": (_RIGHT, b"", (b"k",), 415, "unsupported-media-type", "Content-Type"),
    "no key": (_RIGHT, _JSON, (), 400, "idempotency-key-missing", "Idempotency-Key"),
    "an empty key": (_RIGHT, _JSON, (b"",), 400, "idempotency-key-malformed", "Idempotency-Key"),
    "a key too long": (_RIGHT, _JSON, (b"k" * 256,), 400, "idempotency-key-malformed", "Idempotency-Key"),
    "a key with a space": (_RIGHT, _JSON, (b"a b",), 400, "idempotency-key-malformed", "Idempotency-Key"),
    "a key of other letters": (_RIGHT, _JSON, ("é".encode(),), 400, "idempotency-key-malformed", "Idempotency-Key"),
    "two keys": (_RIGHT, _JSON, (b"k", b"l"), 400, "idempotency-key-malformed", "Idempotency-Key"),
}


@pytest.mark.parametrize("name", ["deposit", "redeem"])
def test_bad_input_is_refused_with_its_field_and_its_reason_and_writes_nothing(
    platform: Platform, desk: Desk, name: str
) -> None:
    """Each line of the table to a node and to the balancer: a problem document, no effect, as the description says."""
    operation = _OPERATIONS[name]
    desk.log_in()
    before = desk.written()
    for what, (body, kind, keys, *expected) in _BAD.items():
        sent = desk.order(operation, body, kind=kind, keys=keys)
        assert not operation.is_right(sent), f"the description takes {what}"
        for port in (platform.portals[0].port, platform.balancer.port):
            got = exchange(port, sent)
            operation.check(got)
            _is_a_problem(got)
            document = got.json()
            assert [got.status, document["type"], document["field"]] == expected, (what, document)
    assert desk.written() == before


@pytest.mark.parametrize("reference", ["", "x" * 65, "a\nb", "\0", "a\u2028b", 5, ["rent"], True])
def test_a_reference_is_one_short_line(platform: Platform, desk: Desk, reference: Any) -> None:
    """Anything else: 400 that names it, nothing written; and a redemption has none at all."""
    desk.log_in()
    before = desk.written()
    for name, given_reference in (("deposit", reference), ("redeem", "rent")):
        body = json.dumps({"amount": 5, "reference": given_reference}).encode()
        got = exchange(platform.portals[0].port, desk.order(_OPERATIONS[name], body))
        assert (got.status, got.json()["field"]) == (400, "reference")
    assert desk.written() == before


def test_nobodys_and_anothers_redemption_are_not_found_alike(platform: Platform, desk: Desk) -> None:
    """A number that another customer's redemption has, and one that none has: 404 with the same document."""
    desk.log_in()
    another = secrets.token_urlsafe(32).encode()
    desk.add_session(another, "1 hour", account="c-000041")
    sent = desk.order(_OPERATIONS["redeem"], b'{"amount": 5}', token=b"Bearer " + another)
    taken = exchange(platform.portals[0].port, sent)
    assert taken.status == 202
    operation = _OPERATIONS["read_redemption"]
    headers = ((b"Authorization", desk.tokens["valid"]),)
    answers = [
        exchange(platform.portals[0].port, Sent(method="GET", path=f"/v1/redemptions/{number}", headers=headers))
        for number in (taken.json()["id"], 2**62)
    ]
    for got in answers:
        operation.check(got)
        assert (got.status, got.json()["field"]) == (404, "id")
    assert answers[0].body == answers[1].body
