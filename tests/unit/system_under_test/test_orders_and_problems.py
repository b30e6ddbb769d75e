"""What clients may send, how refusals look, and that the description tells all of it."""

import hashlib
import json
import secrets
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from system_under_test.domain.money import AMOUNT_MAX
from system_under_test.domain.orders import Deposit, Order, is_key
from system_under_test.domain.passwords import hash_password, verify_password
from system_under_test.services.portal import problems
from system_under_test.services.portal.metrics import PortalMetrics
from system_under_test.services.portal.openapi import describe
from system_under_test.services.portal.problems import Problem, refuse_on_purpose
from system_under_test.services.portal.route import UNOBSERVED
from system_under_test.services.portal.routes import ROUTES


@given(st.integers(1, AMOUNT_MAX))
def test_every_whole_amount_within_the_limits_is_an_order(amount: int) -> None:
    """Any amount from 1 to 10^12, read from JSON."""
    assert Order.model_validate_json(f'{{"amount": {amount}}}').amount == amount


@given(
    st.one_of(
        st.integers(max_value=0),
        st.integers(min_value=AMOUNT_MAX + 1),
        st.floats(),
        st.booleans(),
        st.text(),
        st.none(),
        st.lists(st.integers(1, 9)),
    )
)
def test_nothing_else_is_an_amount(amount: Any) -> None:
    """Anything that JSON can hold and that is no whole number within the limits; also 5.0, "5" and true."""
    with pytest.raises(ValidationError):
        Order.model_validate_json(json.dumps({"amount": amount}))


def test_bodies_that_mean_the_same_have_the_same_digest() -> None:
    """Spaces do not matter, the amount does."""
    one, same, other = (
        Order.model_validate_json(text) for text in ('{"amount":5}', '{ "amount" : 5 }', '{"amount":6}')
    )
    assert one.digest() == same.digest() != other.digest()


@given(st.integers(1, AMOUNT_MAX))
def test_an_order_without_a_reference_has_the_digest_that_older_nodes_give_it(amount: int) -> None:
    """Any amount, as a deposit and a redemption: the digest of the amount alone; a reference changes it."""
    alone = hashlib.sha256(f'{{"amount":{amount}}}'.encode()).digest()
    assert Order(amount=amount).digest() == Deposit(amount=amount).digest() == alone
    assert Deposit(amount=amount, reference=None).digest() == alone
    assert Deposit(amount=amount, reference="rent").digest() != alone


@pytest.mark.parametrize(
    ("key", "valid"),
    [
        ("k", True),
        ("x" * 255, True),
        ("!~", True),
        ("", False),
        ("x" * 256, False),
        ("a b", False),
        ("é", False),
        ("k\n", False),
    ],
)
def test_a_key_is_visible_ascii(key: str, *, valid: bool) -> None:
    """Lengths and characters at the edges."""
    assert is_key(key) is valid


def test_a_password_fits_its_hash_and_no_other() -> None:
    """Two hashes of one password differ by their salt, and both fit; another password does not."""
    one, two = (hash_password("correct horse", salt=secrets.token_bytes(16), log2_n=4) for _ in range(2))
    assert one != two
    assert verify_password("correct horse", one)
    assert verify_password("correct horse", two)
    assert not verify_password("correct horse ", one)


def test_a_deliberate_refusal_promises_only_what_is_certain() -> None:
    """Retry-After at the first try or where nothing can have happened; the balancer's mark always."""
    assert refuse_on_purpose(problems.SHED, "d", attempt=1, safe=False).headers["Retry-After"] == "1"
    assert refuse_on_purpose(problems.SHED, "d", attempt=2, safe=True).headers["Retry-After"] == "1"
    later = refuse_on_purpose(problems.SHED, "d", attempt=2, safe=False)
    assert "Retry-After" not in later.headers
    assert later.headers["x-envoy-ratelimited"] == "true"


def test_a_problem_document_has_the_standards_members() -> None:
    """type, title, status and detail always; field only where one is concerned."""
    body = json.loads(Problem(problems.INVALID_FIELD, "amount: no", field="amount").body())
    assert body == {
        "type": "invalid-field",
        "title": "Invalid field",
        "status": 400,
        "detail": "amount: no",
        "field": "amount",
    }
    assert "field" not in json.loads(Problem(problems.INTERNAL, "x").body())


def test_every_route_is_described_with_every_answer() -> None:
    """The OpenAPI document against the table of routes; references lead somewhere, and each problem is typed."""
    document = describe("v1")
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert set(operation["responses"]) == {str(code) for code in route.codes}
        assert ("security" in operation) is route.authenticated
        assert any(p["name"] == "Idempotency-Key" for p in operation.get("parameters", [])) is route.keyed
    text = json.dumps(document)
    for schema in document["components"]["schemas"]:
        assert f'"#/components/schemas/{schema}"' in text
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(Problem(problems.SHED, "d").body()), document["components"]["schemas"]["Problem"])


def test_every_route_has_a_handler_and_metrics_from_the_start() -> None:
    """A node's metrics hold each route's label sets before any request."""
    text = PortalMetrics(version="v9", routes=ROUTES).render().decode()
    for route in ROUTES:
        for code in route.codes:
            line = f'savings_http_requests_total{{code="{code}",method="{route.method}",route="{route.path}"}} 0.0'
            assert (line in text) is (route.path not in UNOBSERVED)
    assert 'savings_build_info{version="v9"} 1.0' in text
