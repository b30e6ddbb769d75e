"""A process's way to the database: one function call, one statement, one round trip for each thing it does.

Every failure says whether the thing may have happened:

    no connection in time            NotDoneError         certainly not
    the database rolled it back      NotDoneError         certainly not
    a lease was lost                 FencedError          certainly not
    connection lost, no answer       OutcomeUnknownError  perhaps
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

_CONNECT_WITHIN_S: Final = 1.0
_PING_EVERY_S: Final = 0.25
_CLOSE_WITHIN_S: Final = 1.0
_CALLS_REMEMBERED: Final = 32
_CALL_GROWTH: Final = 4.0
_CALL_MIN_S: Final = 0.005
_FENCED: Final = "SV001"
# The database gives up before its client does, because its refusal is certain and a missing answer is not.
_CLIENT_MARGIN_S: Final = 1.0
_ROLLED_BACK: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
    # A full disk, no memory, a database that may only be read: one statement, rolled back, perhaps possible later.
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)
_IDLE_STATEMENTS: Final = 3
"""How many statements of those it shares a moment with a connection may wait for."""
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


class FencedError(NotDoneError):
    """The lease that this was to be done under is no longer ours: nothing happened."""


class OutcomeUnknownError(Exception):
    """The database was asked and no answer came: it may have happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLimits:
    """How much of the database one process takes, and how long it waits for it."""

    pool_size: int
    acquire_within_s: float
    statement_within_s: float
    fresh_for_s: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """How busy a process's way to the database is: totals of calls so far, and what is outstanding."""

    calls: int
    calls_s: float
    """Time that all calls took, waiting for a connection not counted."""
    pinging_s: float
    """How long the sign of life that was asked for is outstanding; 0 when it is not."""


class Database:
    """A pool of connections that is opened, watched and opened again by `keep_connected`."""

    def __init__(
        self, url: str, limits: DatabaseLimits, *, application: str, on_change: Callable[[bool, str], None]
    ) -> None:
        """`on_change` is told whether the database is ready, and why not: once for each reason while it is not."""
        self._url = url
        self._limits = limits
        self._application = application
        self._pool: Any = None
        self._answered_s = -float("inf")
        self._on_change = on_change
        self._was_ready = False
        self._told: set[str] = set()
        self._calls = 0
        self._calls_s = 0.0
        self._call_s = 0.0
        self._in_line = 0
        self._pinging_since_s: float | None = None
        self.ping_s = 0.0
        """How long the database took for its newest sign of life, or to refuse it."""

    @property
    def ready(self) -> bool:
        """Whether the database answered recently."""
        return time.monotonic() - self._answered_s < self._limits.fresh_for_s

    async def keep_connected(self) -> None:
        """Opens the pool, then asks the database for a sign of life four times a second; runs until cancelled."""
        while True:
            problem = ""
            self._pinging_since_s = started_s = time.monotonic()
            try:
                await self._ping()
                self._answered_s = time.monotonic()
            except (*_LOST, asyncpg.PostgresError) as error:
                problem = f"{type(error).__name__}: {str(error) or f'no answer within {_CONNECT_WITHIN_S:g} s'}"
            except ValueError as error:
                # Without its text: what cannot be used of the address may be the password.
                problem = f"{type(error).__name__}: the database's address cannot be used"
            self._pinging_since_s = None
            self.ping_s = time.monotonic() - started_s
            self._tell(problem)
            await asyncio.sleep(_PING_EVERY_S)

    def _tell(self, problem: str) -> None:
        """Tells of a change of readiness; while there is none, of each other reason for it as well, once."""
        ready = self.ready
        if ready != self._was_ready or not (ready or problem in self._told):
            self._on_change(ready, problem)
            self._was_ready = ready
            self._told = set() if ready else {*self._told, problem}

    @property
    def line_s(self) -> float:
        """How long the next call will have to wait for a connection, as far as recent calls tell."""
        return self._in_line * self._call_s / self._limits.pool_size

    def busy(self) -> Busy:
        """What calls took and what waits."""
        now_s = time.monotonic()
        return Busy(
            calls=self._calls,
            calls_s=self._calls_s,
            pinging_s=0.0 if self._pinging_since_s is None else now_s - self._pinging_since_s,
        )

    async def close(self) -> None:
        """Closes all connections, by force where one is still busy after a second."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), _CLOSE_WITHIN_S)
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                self._pool.terminate()

    async def row(self, statement: str, *arguments: Any) -> Any:
        """The first row that `statement` gives; None where it gives none.

        Raises:
            NotDoneError: nothing happened; `FencedError` where a lease was lost.
            OutcomeUnknownError: no answer came.
            asyncpg.PostgresError: the statement itself was refused.
        """
        rows = await self.rows(statement, *arguments)
        return rows[0] if rows else None

    async def rows(self, statement: str, *arguments: Any) -> Sequence[Any]:
        """Every row that `statement` gives; raises as `row` does."""
        async with self._connection() as connection:
            started_s = time.monotonic()
            try:
                rows: Sequence[Any] = await connection.fetch(
                    statement, *arguments, timeout=self._limits.statement_within_s + _CLIENT_MARGIN_S
                )
            finally:
                self._calls += 1
                took_s = time.monotonic() - started_s
                self._calls_s += took_s
                # A stall makes all calls late at once, and is over then: only calls that stay slow count in full.
                told_s = min(took_s, _CALL_GROWTH * self._call_s + _CALL_MIN_S)
                self._call_s += (told_s - self._call_s) / _CALLS_REMEMBERED
        self._answered_s = time.monotonic()
        return rows

    @asynccontextmanager
    async def snapshot(self, *, within_s: float, beside: Any = None) -> AsyncIterator[Any]:
        """A connection on which every statement reads one and the same moment, each for at most `within_s`.

        The moment is that of `beside`, another such connection, where one is given. Only for what cannot be one
        statement: it keeps a connection, and old rows from being cleared, until it ends; a process that hangs meanwhile
        loses it. As long as it only reads, that is: who writes has to set `idle_in_transaction_session_timeout` back
        first. Raises as `row` does, of the statements within too.
        """
        async with self._connection() as connection, connection.transaction(isolation="repeatable_read"):
            if beside is not None:
                moment = await beside.fetchval("select pg_export_snapshot()")
                await connection.execute(f"set transaction snapshot '{moment}'")
            await connection.execute(
                f"set local statement_timeout = {within_s * 1000:.0f};"
                f" set local idle_in_transaction_session_timeout = {_IDLE_STATEMENTS * within_s * 1000:.0f}"
            )
            yield connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._pool is None:
            raise NotDoneError("the database has not been reached yet")
        self._in_line += 1
        try:
            connection = await self._pool.acquire(timeout=self._limits.acquire_within_s)
        except TimeoutError as error:
            raise NotDoneError(f"no connection free within {self._limits.acquire_within_s:g} s") from error
        except (*_LOST, asyncpg.PostgresError) as error:
            raise NotDoneError(f"no connection to the database: {str(error) or type(error).__name__}") from error
        finally:
            self._in_line -= 1
        try:
            yield connection
        except _ROLLED_BACK as error:
            raise NotDoneError(f"the database gave up: {error}") from error
        except _LOST as error:
            raise OutcomeUnknownError(f"the database did not answer: {str(error) or 'time limit'}") from error
        except asyncpg.PostgresError as error:
            if error.sqlstate == _FENCED:
                raise FencedError(str(error)) from error
            raise
        finally:
            # What is released broken is replaced at its next use; that the release fails too says nothing new.
            with suppress(*_LOST, asyncpg.PostgresError):
                await self._pool.release(connection, timeout=_CLOSE_WITHIN_S)

    async def _ping(self) -> None:
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=min(2, self._limits.pool_size),
                max_size=self._limits.pool_size,
                timeout=_CONNECT_WITHIN_S,
                command_timeout=self._limits.statement_within_s + _CLIENT_MARGIN_S,
                server_settings={
                    "application_name": self._application,
                    "statement_timeout": f"{self._limits.statement_within_s * 1000:.0f}",
                },
                # A statement leaves nothing behind that a reset, one more round trip each time, would clear.
                reset=_nothing_to_reset,
            )
        async with self._pool.acquire(timeout=_CONNECT_WITHIN_S) as connection:
            await connection.execute("select 1", timeout=_CONNECT_WITHIN_S)


async def _nothing_to_reset(_connection: Any) -> None:
    return
