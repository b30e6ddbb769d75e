"""Sessions: customers log in and get a token."""

import asyncio
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web
from pydantic import BaseModel, Field

from system_under_test.domain.orders import Credentials
from system_under_test.domain.passwords import hash_password, verify_password
from system_under_test.services.portal import problems
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.requests import CHALLENGE, Handler, answer, attempt_of, hash_token, read_body
from system_under_test.services.portal.route import BODY_CODES, UNAVAILABLE, Route

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
        codes=(201, 401, *BODY_CODES, *UNAVAILABLE),
        body=Credentials,
        answer=Session,
    ),
)


class SessionHandlers:
    """Checks passwords in threads: a hash takes about 20 ms of a core, and nobody else must wait for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._threads = ThreadPoolExecutor(_LOG_INS_AT_ONCE, thread_name_prefix="log-in")
        self._log_ins = 0
        self._nobodys_hash = hash_password(secrets.token_hex(16), salt=secrets.token_bytes(16))

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {"open_session": self.open_session}

    def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def open_session(self, request: web.Request) -> web.Response:
        """Checks the password and opens a session."""
        credentials = await read_body(request, Credentials)
        found = await self._node.ledger.read_credentials(credentials.email.lower())
        # An unknown address takes as long as a wrong password, so that the time does not tell them apart.
        account, stored = found or ("", self._nobodys_hash)
        if not await self._verify(request, credentials.password, stored) or found is None:
            raise Problem(problems.UNAUTHENTICATED, "E-mail or password is wrong.", headers=CHALLENGE)
        token = secrets.token_urlsafe(32)
        expires_at = await self._node.ledger.open_session(account, hash_token(token), SESSION_S)
        return answer(Session(token=token, account=account, expires_at=expires_at.isoformat()), status=201)

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
