"""Sessions: customers log in, get a token, and log out."""

import asyncio
import math
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web
from prometheus_client import Counter
from pydantic import BaseModel, Field

from system_under_test.domain.orders import Credentials
from system_under_test.domain.passwords import hash_password, verify_password
from system_under_test.services.portal import problems
from system_under_test.services.portal.admission import Rank
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.requests import (
    CHALLENGE,
    Handler,
    answer,
    attempt_of,
    bearer_hash,
    expired,
    hash_token,
    read_body,
    source_of,
)
from system_under_test.services.portal.route import BODY_CODES, UNAVAILABLE, Route
from system_under_test.storage.sessions import Origin, Sessions

SESSION_S: Final = 3600
_LOG_INS_AT_ONCE: Final = 2
_LOG_INS_WAITING_MAX: Final = 256


class Session(BaseModel):
    """A session that was opened."""

    token: str = Field(description="goes into the header Authorization: Bearer")
    account: str
    expires_at: str = Field(description="RFC 3339", json_schema_extra={"format": "date-time"})


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/v1/sessions",
        operation="open_session",
        summary="Log in",
        codes=(201, 401, 429, *BODY_CODES, *UNAVAILABLE),
        body=Credentials,
        answer=Session,
        rank=Rank.LOG_IN,
    ),
    Route(
        method="DELETE",
        path="/v1/sessions/current",
        operation="close_session",
        summary="Log out",
        codes=(204, 401, *UNAVAILABLE),
        authenticated=True,
    ),
)


class SessionHandlers:
    """Checks passwords in threads: a hash takes about 20 ms of a core, and nobody else must wait for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sessions = Sessions(node.ledger.database)
        self._threads = ThreadPoolExecutor(_LOG_INS_AT_ONCE, thread_name_prefix="log-in")
        self._under_way = 0
        self._nobodys_hash = hash_password(secrets.token_hex(16), salt=secrets.token_bytes(16))
        self._log_ins = Counter("savings_log_ins", "Log-ins, by outcome.", ("outcome",), registry=node.metrics.registry)
        for outcome in ("opened", "refused", "limited"):
            self._log_ins.labels(outcome)

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {"open_session": self.open_session, "close_session": self.close_session}

    def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def open_session(self, request: web.Request) -> web.Response:
        """Checks the password and opens a session."""
        credentials = await read_body(request, Credentials)
        if self._under_way >= _LOG_INS_WAITING_MAX:
            raise problems.refuse_on_purpose(
                problems.SHED, "Too many log-ins are waiting.", attempt=attempt_of(request), safe=True
            )
        self._under_way += 1
        try:
            return await self._log_in(credentials, source_of(request))
        finally:
            self._under_way -= 1

    async def _log_in(self, credentials: Credentials, source: str) -> web.Response:
        email = credentials.email.lower()
        device = credentials.device
        origin = Origin(source=source, device_hash=None if device is None else hash_token(device))
        admission = await self._sessions.begin_log_in(email, origin)
        if admission.wait_s > 0:
            self._log_ins.labels("limited").inc()
            raise Problem(
                problems.TOO_MANY_LOG_INS,
                "Too many log-ins with this address have failed; the password was not looked at.",
                headers={"Retry-After": str(math.ceil(admission.wait_s))},
            )
        # An unknown address takes as long as a wrong password, so that the time does not tell them apart.
        stored = admission.password_hash or self._nobodys_hash
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._threads, verify_password, credentials.password, stored)
        if not right or admission.account is None:
            self._log_ins.labels("refused").inc()
            raise Problem(problems.UNAUTHENTICATED, "E-mail or password is wrong.", headers=CHALLENGE)
        token = secrets.token_urlsafe(32)
        expires_at = await self._sessions.open(
            email, origin, account=admission.account, token_hash=hash_token(token), seconds=SESSION_S
        )
        self._log_ins.labels("opened").inc()
        return answer(Session(token=token, account=admission.account, expires_at=expires_at.isoformat()), status=201)

    async def close_session(self, request: web.Request) -> web.Response:
        """Ends the session that asks for it, in every stage of a window."""
        if not await self._sessions.close(bearer_hash(request)):
            raise expired()
        return web.Response(status=204)
