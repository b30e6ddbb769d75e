"""What handlers read from a request, and the answers they share; refusals are raised as `Problem`."""

import asyncio
import hashlib
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from system_under_test.domain.orders import is_key
from system_under_test.services.portal import problems
from system_under_test.services.portal.problems import Problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ModelT = TypeVar("ModelT", bound=BaseModel)

CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="savings"'}
BODY_WITHIN_S: Final = 5.0
_COUNT: Final = re.compile(r"[0-9]{1,6}")
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")


def attempt_of(request: web.Request) -> int:
    """Which try of the balancer this is, from 1; 1 as well when it does not say."""
    text = request.headers.get("x-envoy-attempt-count", "1")
    return int(text) if _COUNT.fullmatch(text) else 1


def request_id_of(request: web.Request) -> str:
    """The X-Request-Id that the request came with; a new one where it has none that can be logged."""
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def source_of(request: web.Request) -> str:
    """The network address that a request comes from: what the balancer says, otherwise the connection's own."""
    told = request.headers.get("x-envoy-external-address", "")
    try:
        return str(ip_address(told))
    except ValueError:
        return request.remote or "unknown"


def bearer_hash(request: web.Request) -> bytes:
    """The hash of the session's token; only that is stored: who reads the table cannot act for anybody.

    Raises:
        Problem: no token was sent, or more than one.
    """
    given = request.headers.getall("Authorization", [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token:
        raise Problem(
            problems.UNAUTHENTICATED,
            "Send Authorization: Bearer and a session's token, once.",
            field="Authorization",
            headers=CHALLENGE,
        )
    return hash_token(token.strip())


def hash_token(token: str) -> bytes:
    """What is stored of a token, 32 bytes."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def expired() -> Problem:
    """The refusal of a token that no session has."""
    return Problem(
        problems.UNAUTHENTICATED, "No such session, or it has expired.", field="Authorization", headers=CHALLENGE
    )


def idempotency_key(request: web.Request) -> str:
    """The request's Idempotency-Key.

    Raises:
        Problem: none, several, or a malformed one.
    """
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        raise Problem(
            problems.KEY_MISSING,
            "Send an Idempotency-Key, so that the order can be sent again without happening twice.",
            field="Idempotency-Key",
        )
    if len(keys) > 1 or not is_key(keys[0]):
        raise Problem(
            problems.KEY_MALFORMED,
            "An Idempotency-Key is 1 to 255 visible ASCII characters, sent once.",
            field="Idempotency-Key",
        )
    return keys[0]


def key_reused() -> Problem:
    """The refusal of a key that was used for another order."""
    return Problem(problems.KEY_REUSED, "This Idempotency-Key was used for another order.", field="Idempotency-Key")


async def read_body(request: web.Request, model: type[ModelT]) -> ModelT:
    """The request's body.

    Raises:
        Problem: it is no JSON, gives a field twice, or is not what `model` says; names the field.
    """
    if request.content_type != "application/json":
        raise Problem(problems.NOT_JSON, "Send the body as application/json.", field="Content-Type")
    if request.headers.getall("Content-Encoding", ["identity"]) != ["identity"]:
        raise Problem(problems.NOT_JSON, "Send the body as it is, not compressed.", field="Content-Encoding")
    if request.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        raise Problem(problems.NOT_JSON, "Send the body as it is, or in chunks.", field="Transfer-Encoding")
    text = await receive(request)
    try:
        body = model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(problems.MALFORMED_JSON, first["msg"], field="body") from error
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(problems.INVALID_FIELD, f"{where}: {first['msg']}", field=where) from error
    # The model takes the last of a field's values; what the client meant, and others on the way read, is not known.
    json.loads(text, object_pairs_hook=_each_once)
    return body


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise Problem(problems.MALFORMED_JSON, f"{name} is given more than once.", field=name)
        seen.add(name)


async def receive(request: web.Request) -> bytes:
    """The request's body as it was sent; at once where it was received before.

    Raises:
        Problem: it comes too late, or not whole.
        HTTPRequestEntityTooLarge: it is larger than the application takes.
    """
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.read()
    except TimeoutError as error:
        detail = f"The body has to be here within {BODY_WITHIN_S:g} s."
        raise Problem(problems.BODY_TOO_SLOW, detail, field="body") from error
    except (ConnectionError, web.RequestPayloadError) as error:
        # The client has left or speaks no proper HTTP; whether it still reads this or not, it is no failure of ours.
        raise Problem(problems.BODY_INCOMPLETE, "The body ended too early or is malformed.", field="body") from error


def answer(model: BaseModel, *, status: int = 200) -> web.Response:
    """`model` as JSON."""
    return web.Response(text=model.model_dump_json(), status=status, content_type="application/json")
