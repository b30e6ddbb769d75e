"""The portal's way to the database: one function call, one statement, one round trip for each thing it does.

Every failure says whether the thing may have happened:

    no connection in time            NotDoneError         certainly not
    the database rolled it back      NotDoneError         certainly not
    connection lost, no answer       OutcomeUnknownError  perhaps
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

_CONNECT_WITHIN_S: Final = 1.0
_PING_EVERY_S: Final = 0.25
_CLOSE_WITHIN_S: Final = 1.0
# The database gives up before its client does, because its refusal is certain and a missing answer is not.
_CLIENT_MARGIN_S: Final = 1.0
_ROLLED_BACK: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
)
_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that the server has just given up and that is not closed yet
    OSError,
    TimeoutError,
)


class NotDoneError(Exception):
    """The database was not asked, or rolled back what it was asked: nothing happened."""


class OutcomeUnknownError(Exception):
    """The database was asked and no answer came: it may have happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The stored answer to an order; `replayed` when an earlier try was given it first."""

    status: int
    body: str
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What an account holds, in minor units; `head` is the newest transfer contained in it."""

    account: str
    balance: int
    head: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLimits:
    """How much of the database one portal takes, and how long it waits for it."""

    pool_size: int
    acquire_within_s: float
    statement_within_s: float
    fresh_for_s: float


class Ledger:
    """A pool of connections that is opened, watched and opened again by `keep_connected`."""

    def __init__(self, url: str, limits: DatabaseLimits, on_change: Callable[[bool, str], None]) -> None:
        self._url = url
        self._limits = limits
        self._pool: Any = None
        self._answered_s = -float("inf")
        self._on_change = on_change
        self._was_ready = False

    @property
    def ready(self) -> bool:
        """Whether the database answered recently."""
        return time.monotonic() - self._answered_s < self._limits.fresh_for_s

    async def keep_connected(self) -> None:
        """Opens the pool, then asks the database for a sign of life four times a second; runs until cancelled."""
        while True:
            problem = ""
            try:
                await self._ping()
                self._answered_s = time.monotonic()
            except (*_LOST, asyncpg.PostgresError) as error:
                problem = f"{type(error).__name__}: {error}"
            if self.ready != self._was_ready:
                self._was_ready = self.ready
                self._on_change(self._was_ready, problem)
            await asyncio.sleep(_PING_EVERY_S)

    async def close(self) -> None:
        """Closes all connections, by force where one is still busy after a second."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), _CLOSE_WITHIN_S)
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                self._pool.terminate()

    async def take_order(self, kind: str, *, token_hash: bytes, key: str, payload: bytes, amount: int) -> Answer | str:
        """The answer to an order, done now or before; `mismatch` or `unauthenticated` where there is none."""
        row = await self._call(
            "select outcome, status, response, replayed from take_order($1, $2, $3, $4, $5)",
            *(kind, token_hash, key, payload, amount),
        )
        if row["outcome"] != "answered":
            return str(row["outcome"])
        return Answer(status=row["status"], body=row["response"], replayed=row["replayed"])

    async def read_balance(self, token_hash: bytes) -> Balance | None:
        """The balance of the session's account; None without a valid session."""
        row = await self._call("select account, balance, head from read_balance($1)", token_hash)
        return None if row is None else Balance(account=row["account"], balance=row["balance"], head=row["head"])

    async def read_credentials(self, email: str) -> tuple[str, str] | None:
        """Account and password hash of the customer with this address."""
        row = await self._call("select account, password_hash from read_credentials($1)", email)
        return None if row is None else (row["account"], row["password_hash"])

    async def open_session(self, account: str, token_hash: bytes, seconds: int) -> datetime:
        """Opens a session and gives the time it ends."""
        row = await self._call("select open_session($1, $2, $3) as expires_at", account, token_hash, seconds)
        expires_at: datetime = row["expires_at"]
        return expires_at

    async def _call(self, statement: str, *arguments: Any) -> Any:
        if self._pool is None:
            raise NotDoneError("the database has not been reached yet")
        try:
            connection = await self._pool.acquire(timeout=self._limits.acquire_within_s)
        except (*_LOST, asyncpg.PostgresError) as error:
            raise NotDoneError(f"no connection to the database: {error or 'all are in use'}") from error
        try:
            row = await connection.fetchrow(
                statement, *arguments, timeout=self._limits.statement_within_s + _CLIENT_MARGIN_S
            )
        except _ROLLED_BACK as error:
            raise NotDoneError(f"the database gave up: {error}") from error
        except _LOST as error:
            raise OutcomeUnknownError(f"the database did not answer: {error or 'time limit'}") from error
        finally:
            # What is released broken is replaced at its next use; that the release fails too says nothing new.
            with suppress(*_LOST, asyncpg.PostgresError):
                await self._pool.release(connection, timeout=_CLOSE_WITHIN_S)
        self._answered_s = time.monotonic()
        return row

    async def _ping(self) -> None:
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=min(2, self._limits.pool_size),
                max_size=self._limits.pool_size,
                timeout=_CONNECT_WITHIN_S,
                command_timeout=self._limits.statement_within_s + _CLIENT_MARGIN_S,
                server_settings={
                    "application_name": "portal",
                    "statement_timeout": f"{self._limits.statement_within_s * 1000:.0f}",
                },
                # A statement leaves nothing behind that a reset, one more round trip each time, would clear.
                reset=_nothing_to_reset,
            )
        async with self._pool.acquire(timeout=_CONNECT_WITHIN_S) as connection:
            await connection.execute("select 1", timeout=_CONNECT_WITHIN_S)


async def _nothing_to_reset(_connection: Any) -> None:
    return
