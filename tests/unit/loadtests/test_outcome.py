"""The table of docs/formats.md: what an answer says about an operation."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.outcome import Outcome, answered, of_answer, of_loss, parse_object
from metrics.history import FAIL, INFO, OK

PROBLEM = {"content-type": "application/problem+json"}


def problem(kind: str) -> bytes:
    """A problem document of this type."""
    return json.dumps({"type": f"https://savings.example/problems/{kind}", "title": "no"}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body", "read", "effect", "error"),
    [
        (200, {}, b"{}", OK, OK, None),
        (202, {}, b"", OK, OK, None),
        (422, PROBLEM, problem("insufficient-funds"), FAIL, FAIL, "declined:insufficient-funds"),
        (409, PROBLEM, problem("closed"), FAIL, FAIL, "declined:closed"),
        (422, PROBLEM, b'{"title": "no"}', FAIL, FAIL, "declined:http-422"),
        (422, PROBLEM, problem("idempotency-key-reused"), FAIL, FAIL, "http-422"),
        (400, PROBLEM, problem("amount"), FAIL, FAIL, "http-400"),
        (401, PROBLEM, problem("unauthorized"), FAIL, FAIL, "http-401"),
        (
            404,
            PROBLEM | {"content-type": "Application/Problem+JSON; charset=utf-8"},
            problem("x"),
            FAIL,
            FAIL,
            "http-404",
        ),
        (404, {"content-type": "text/html"}, b"<h1>", FAIL, INFO, "http-404"),
        (422, PROBLEM, b"not json", FAIL, INFO, "http-422"),
        (503, {"retry-after": "1"}, b"", FAIL, FAIL, "http-503"),
        (503, {}, b"no healthy upstream", FAIL, INFO, "http-503"),
        (500, {"retry-after": "1"}, b"", FAIL, INFO, "http-500"),
        (500, PROBLEM, problem("x"), FAIL, INFO, "http-500"),
        (502, {}, b"", FAIL, INFO, "http-502"),
        (504, {}, b"", FAIL, INFO, "http-504"),
        (302, {}, b"", FAIL, INFO, "http-302"),
    ],
)
def test_an_answer_is_mapped_as_the_table_says(
    status: int, headers: dict[str, str], body: bytes, read: int, effect: int, error: str | None
) -> None:
    """Each row as a read and as an effect."""
    assert of_answer("GET", status, headers, body) == Outcome(type=read, error=error)
    assert of_answer("POST", status, headers, body) == Outcome(type=effect, error=error)


@pytest.mark.parametrize(
    ("method", "sent", "expected"),
    [("GET", False, FAIL), ("GET", True, FAIL), ("POST", False, FAIL), ("POST", True, INFO), ("DELETE", True, INFO)],
)
def test_a_lost_effect_is_unknown_once_a_byte_may_have_left(method: str, sent: bool, expected: int) -> None:  # noqa: FBT001
    """Reads change nothing; what was never sent did not happen."""
    assert of_loss(method, "reset", sent=sent) == Outcome(type=expected, error="reset")


@given(st.integers(100, 999), st.dictionaries(st.sampled_from(["retry-after", "content-type"]), st.text()), st.binary())
def test_an_effect_is_certain_only_where_the_table_says_so(status: int, headers: dict[str, Any], body: bytes) -> None:
    """Whatever a server sends: no exception, `ok` for 2xx alone, `fail` for an effect only below 500 or with 503."""
    outcome = of_answer("POST", status, headers, body)
    assert (outcome.type == OK) == (200 <= status < 300)
    if outcome.type == FAIL:
        assert 400 <= status < 500 or (status == 503 and "retry-after" in headers)


def test_the_history_learns_what_was_answered() -> None:
    """Amount, balance and head where present, and whether it was a stored answer; nothing else."""
    body = b'{"id": "x", "amount": 5, "balance": 12, "head": 3}'
    assert answered({}, body) == {"amount": 5, "balance": 12, "head": 3}
    assert answered({"idempotency-replayed": "true"}, body) == {"amount": 5, "balance": 12, "head": 3, "replayed": True}
    assert answered({"idempotency-replayed": "true"}, b"") == {"replayed": True}
    assert answered({}, b'{"id": 1}') is None
    assert answered({}, b"[1]") is None


@given(st.binary())
def test_any_body_is_an_object_or_an_empty_one(body: bytes) -> None:
    """Bytes that are no JSON object read as an empty one, never as an exception."""
    assert isinstance(parse_object(body), dict)
