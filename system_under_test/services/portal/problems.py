"""Errors as clients see them: problem documents of RFC 9457.

503 with Retry-After   promises that the request was not carried out; try again then
503 without            the request may have been carried out; try again with the same key
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A sort of problem. `type` identifies it, relative to the address of the API."""

    type: str
    title: str
    status: int


MALFORMED_JSON: Final = Kind(type="malformed-json", title="Malformed JSON", status=400)
INVALID_FIELD: Final = Kind(type="invalid-field", title="Invalid field", status=400)
KEY_MISSING: Final = Kind(type="idempotency-key-missing", title="Idempotency-Key missing", status=400)
KEY_MALFORMED: Final = Kind(type="idempotency-key-malformed", title="Idempotency-Key malformed", status=400)
UNAUTHENTICATED: Final = Kind(type="unauthenticated", title="Unauthenticated", status=401)
NOT_FOUND: Final = Kind(type="not-found", title="Not found", status=404)
METHOD_NOT_ALLOWED: Final = Kind(type="method-not-allowed", title="Method not allowed", status=405)
BODY_INCOMPLETE: Final = Kind(type="body-incomplete", title="Body incomplete", status=400)
BODY_TOO_SLOW: Final = Kind(type="body-too-slow", title="Body too slow", status=408)
TOO_LARGE: Final = Kind(type="body-too-large", title="Body too large", status=413)
NOT_JSON: Final = Kind(type="unsupported-media-type", title="Unsupported media type", status=415)
KEY_REUSED: Final = Kind(type="idempotency-key-reused", title="Idempotency-Key reused", status=422)
ACCOUNT_FULL: Final = Kind(type="account-full", title="Account full", status=422)
SUBSCRIPTION_REFUSED: Final = Kind(type="subscription-refused", title="Subscription refused", status=422)
TOO_MANY_LOG_INS: Final = Kind(type="too-many-log-ins", title="Too many log-ins", status=429)
TOO_MANY_STREAMS: Final = Kind(type="too-many-streams", title="Too many streams", status=429)
INTERNAL: Final = Kind(type="internal-error", title="Internal error", status=500)
CLOSED: Final = Kind(type="closed", title="Closed for now", status=503)
SHED: Final = Kind(type="shed", title="Too many requests in flight", status=503)
DRAINING: Final = Kind(type="draining", title="Draining", status=503)
NOT_READY: Final = Kind(type="not-ready", title="Not ready", status=503)
NOT_DONE: Final = Kind(type="database-unavailable", title="Database unavailable", status=503)
OUTCOME_UNKNOWN: Final = Kind(type="outcome-unknown", title="Outcome unknown", status=503)


class Problem(Exception):  # noqa: N818 - the standard's own word
    """A refusal, raised where it is found.

    `field` names the part of the request that is at fault; `members` are further members of the document.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def body(self) -> bytes:
        """The document."""
        document: dict[str, Any] = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            **self.members,
        }
        if self.field is not None:
            document["field"] = self.field
        return json.dumps(document).encode()


def refuse_on_purpose(
    kind: Kind,
    detail: str,
    *,
    attempt: int,
    safe: bool,
    retry_after_s: int = 1,
    members: Mapping[str, Any] | None = None,
) -> Problem:
    """A deliberate 503, which the balancer neither retries nor holds against the node.

    Retry-After promises that nothing was done. A later try (`attempt` above 1) of a request that is not `safe` cannot
    promise it: an earlier try may have been carried out by a node that died before it could answer.
    """
    headers = {"x-envoy-ratelimited": "true"}
    if safe or attempt <= 1:
        headers["Retry-After"] = str(retry_after_s)
    return Problem(kind, detail, headers=headers, members=members)
