"""What the portal does for each route of the table; refusals are raised as `Problem`."""

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from system_under_test.domain.orders import Credentials, Order, is_key
from system_under_test.domain.passwords import hash_password, verify_password
from system_under_test.services.portal import metrics, problems
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.openapi import describe
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.routes import BalanceView, Health, Readiness, Session, Status

Handler = Callable[[web.Request], Awaitable[web.Response]]
ModelT = TypeVar("ModelT", bound=BaseModel)

SESSION_S: Final = 3600
_LOG_INS_AT_ONCE: Final = 2
_LOG_INS_WAITING_MAX: Final = 256


class Handlers:
    """The handlers of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._description = json.dumps(describe(node.version)).encode()
        # Hashing a password takes about 20 ms of a core: in threads, so that nobody else waits for it.
        self._threads = ThreadPoolExecutor(_LOG_INS_AT_ONCE, thread_name_prefix="log-in")
        self._log_ins = 0
        self._nobodys_hash = hash_password(secrets.token_hex(16), salt=secrets.token_bytes(16))

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of the table of routes."""
        return {
            "open_session": self.open_session,
            "deposit": lambda request: self._take_order(request, "deposit"),
            "redeem": lambda request: self._take_order(request, "redeem"),
            "read_balance": self.read_balance,
            "read_status": self.read_status,
            "read_health": self.read_health,
            "read_readiness": self.read_readiness,
            "read_metrics": self.read_metrics,
            "read_description": self.read_description,
        }

    def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def open_session(self, request: web.Request) -> web.Response:
        """Checks the password and opens a session."""
        credentials = await _read_body(request, Credentials)
        found = await self._node.ledger.read_credentials(credentials.email.lower())
        # An unknown address takes as long as a wrong password, so that the time does not tell them apart.
        account, stored = found or ("", self._nobodys_hash)
        if not await self._verify(request, credentials.password, stored) or found is None:
            raise Problem(problems.UNAUTHENTICATED, "E-mail or password is wrong.", headers=_CHALLENGE)
        token = secrets.token_urlsafe(32)
        expires_at = await self._node.ledger.open_session(account, _token_hash(token), SESSION_S)
        return _json(Session(token=token, account=account, expires_at=expires_at.isoformat()), status=201)

    async def read_balance(self, request: web.Request) -> web.Response:
        """The session's own balance."""
        balance = await self._node.ledger.read_balance(_token_hash(_bearer(request)))
        if balance is None:
            raise _expired()
        return _json(BalanceView(account=balance.account, balance=balance.balance, head=balance.head))

    async def read_status(self, _request: web.Request) -> web.Response:
        """The public status, from memory."""
        node = self._node
        return _json(Status(service="savings", stage="open", instance=node.instance, version=node.version))

    async def read_health(self, _request: web.Request) -> web.Response:
        """That the process lives; shallow on purpose, or one bad database would restart every node."""
        return _json(Health(status="ok", instance=self._node.instance, version=self._node.version))

    async def read_readiness(self, _request: web.Request) -> web.Response:
        """Whether the balancer should send requests here."""
        if self._node.draining:
            raise problems.refuse_on_purpose(problems.DRAINING, "This node is stopping.", attempt=1, safe=True)
        if not self._node.ledger.ready:
            raise Problem(problems.NOT_READY, "The database has not answered lately.")
        return _json(Readiness(status="ready"))

    async def read_metrics(self, _request: web.Request) -> web.Response:
        """The node's metrics."""
        self._node.metrics.ready.set(self._node.ready)
        return web.Response(body=self._node.metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def read_description(self, _request: web.Request) -> web.Response:
        """The OpenAPI description."""
        return web.Response(body=self._description, content_type="application/json")

    async def _take_order(self, request: web.Request, kind: str) -> web.Response:
        token_hash = _token_hash(_bearer(request))
        key = _idempotency_key(request)
        order = await _read_body(request, Order)
        answer = await self._node.ledger.take_order(
            kind, token_hash=token_hash, key=key, payload=order.digest(), amount=order.amount
        )
        if answer == "unauthenticated":
            raise _expired()
        if isinstance(answer, str):
            raise Problem(
                problems.KEY_REUSED,
                "This Idempotency-Key was used for another order.",
                field="Idempotency-Key",
            )
        outcome = "duplicate" if answer.replayed else "ok" if answer.status < 400 else "rejected"
        self._node.metrics.postings.labels(kind, outcome).inc()
        response = web.Response(
            status=answer.status,
            text=answer.body,
            content_type="application/json" if answer.status < 400 else problems.MEDIA_TYPE,
        )
        if answer.replayed:
            self._node.metrics.replays.inc()
            response.headers["Idempotency-Replayed"] = "true"
        return response

    async def _verify(self, request: web.Request, password: str, stored: str) -> bool:
        if self._log_ins >= _LOG_INS_WAITING_MAX:
            raise problems.refuse_on_purpose(
                problems.SHED, "Too many log-ins are waiting.", attempt=attempt_of(request), safe=True
            )
        self._log_ins += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, verify_password, password, stored)
        finally:
            self._log_ins -= 1


_COUNT: Final = re.compile(r"[0-9]{1,6}")
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="savings"'}


def attempt_of(request: web.Request) -> int:
    """Which try of the balancer this is, from 1; 1 as well when it does not say."""
    text = request.headers.get("x-envoy-attempt-count", "1")
    return int(text) if _COUNT.fullmatch(text) else 1


def _expired() -> Problem:
    return Problem(problems.UNAUTHENTICATED, "No such session, or it has expired.", headers=_CHALLENGE)


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Problem(
            problems.UNAUTHENTICATED,
            "Send Authorization: Bearer and a session's token.",
            headers=_CHALLENGE,
        )
    return token.strip()


def _token_hash(token: str) -> bytes:
    # Only the hash is stored: who reads the table cannot act for anybody.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _idempotency_key(request: web.Request) -> str:
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


async def _read_body(request: web.Request, model: type[ModelT]) -> ModelT:
    if request.content_type != "application/json":
        raise Problem(problems.NOT_JSON, "Send the body as application/json.", field="Content-Type")
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(problems.MALFORMED_JSON, first["msg"]) from error
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(problems.INVALID_FIELD, f"{where}: {first['msg']}", field=where) from error


def _json(model: BaseModel, *, status: int = 200) -> web.Response:
    return web.Response(text=model.model_dump_json(), status=status, content_type="application/json")
