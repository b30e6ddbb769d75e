"""What an answer, or its absence, says about an operation: `ok`, `fail` (did not happen) or `info` (may have happened).

The table stands in docs/formats.md. In doubt it is `info`: a client may call an effect undone only when it is sure.

    read    anything but 2xx                                             -> fail (a read changes nothing)
    effect  nothing was sent; 4xx that explains itself; 503 + Retry-After -> fail
            everything else but 2xx                                      -> info
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from metrics.history import FAIL, INFO, OK

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
BUSINESS_STATUSES: Final = frozenset({402, 409, 422})
"""With a problem document these decline an understood request; 401, 404, 429 and the like say something is wrong."""
ANSWER_FIELDS: Final = ("amount", "balance", "head")
"""What of a JSON answer goes into the history, where present."""
_EXCERPT_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an operation ended: `type` is OK, FAIL or INFO of `metrics.history`; `error` a short class, None when ok."""

    type: int
    error: str | None = None


def of_answer(method: str, status: int, headers: Mapping[str, Any], body: bytes) -> Outcome:
    """The outcome that a complete HTTP answer means; `headers` is asked by lower-case names."""
    if 200 <= status < 300:
        return Outcome(type=OK)
    problem = _problem(headers, body)
    error = f"http-{status}"
    if problem is not None and status in BUSINESS_STATUSES:
        error = _declined(problem, otherwise=error)
    certain = (400 <= status < 500 and problem is not None) or (status == 503 and "retry-after" in headers)
    return Outcome(type=FAIL if certain or method in READS else INFO, error=error)


def of_loss(method: str, error: str, *, sent: bool) -> Outcome:
    """The outcome when no complete answer came; `sent` tells whether a byte of the request may have left."""
    return Outcome(type=INFO if sent and method not in READS else FAIL, error=error)


def answered(headers: Mapping[str, Any], body: bytes) -> dict[str, Any] | None:
    """What the answer said that judges want to know; None when it said nothing of it."""
    said: dict[str, Any] = {}
    if b"{" in body[:64] and len(body) <= _EXCERPT_BYTES_MAX:
        document = parse_object(body)
        said = {name: document[name] for name in ANSWER_FIELDS if name in document}
    if str(headers.get("idempotency-replayed", "")).lower() == "true":
        said["replayed"] = True
    return said or None


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; an empty one when there is none, which the status code has judged already."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _problem(headers: Mapping[str, Any], body: bytes) -> dict[str, Any] | None:
    """The RFC 9457 problem document of an answer, None when it has none."""
    if str(headers.get("content-type", "")).split(";")[0].strip().lower() != "application/problem+json":
        return None
    return parse_object(body) or None


def _declined(problem: Mapping[str, Any], *, otherwise: str) -> str:
    """`declined:insufficient-funds` from the last part of the problem's type URI.

    A key that was used for another payload is no business refusal: one side has mixed its keys up, which nobody
    should count as a correct answer.
    """
    kind = str(problem.get("type", "about:blank")).rstrip("/").rpartition("/")[2]
    if "idempotency" in kind:
        return otherwise
    return f"declined:{otherwise if kind == 'about:blank' else kind}"
