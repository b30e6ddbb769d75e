"""A PostgreSQL database asked over a connection of its own: a reading must not depend on an older one.

`Session` is a connection that is kept, for a fault that does its harm by having one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import asyncpg

from chaos.errors import TargetError

ASK_LIMIT_S: Final = 2.0
"""How long a question over a session may take that says nothing else."""
_TOO_MANY_CONNECTIONS: Final = "53300"
# The last of them is raised for a question that follows some ends of a connection.
_REFUSALS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, asyncpg.InternalClientError)


async def fetch_value(dsn: str, sql: str, *, within_s: float) -> Any:
    """The first column of the first row; None when there is no row.

    Raises:
        TargetError: no connection, an error in the query, or no answer in time.
    """
    return await _ask(dsn, sql, lambda connection: connection.fetchval(sql, timeout=within_s), within_s)


async def execute(dsn: str, sql: str, *, within_s: float) -> None:
    """Carries out the statements in `sql`, all or none of them.

    Raises:
        TargetError: no connection, a statement that was refused, or no answer in time.
    """
    await _ask(dsn, sql, lambda connection: connection.execute(sql, timeout=within_s), within_s)


async def is_full(dsn: str, *, within_s: float) -> bool:
    """Whether a new connection is refused because there are too many.

    Raises:
        TargetError: it is refused for another reason, or there is no answer in time.
    """
    try:
        await fetch_value(dsn, "select 1", within_s=within_s)
    except TargetError as error:
        if means_full(error):
            return True
        raise
    return False


def means_full(error: TargetError) -> bool:
    """Whether it says that the server has no connection left."""
    return getattr(error.__cause__, "sqlstate", None) == _TOO_MANY_CONNECTIONS


class Session:
    """A connection that is kept until it is dropped; one question at a time."""

    def __init__(self, dsn: str, connection: Any) -> None:
        self._dsn = dsn
        self._connection = connection

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        application: str,
        settings: Mapping[str, str] | None = None,
        within_s: float = ASK_LIMIT_S,
    ) -> Self:
        """A new connection that the server lists as `application`, with its `settings`.

        Raises:
            TargetError: it was refused, or there was no answer in time.
        """
        given = {"application_name": application, **(settings or {})}
        with _told(dsn, "connecting", within_s):
            return cls(dsn, await asyncpg.connect(dsn, timeout=within_s, statement_cache_size=0, server_settings=given))

    async def rows(self, sql: str, *values: Any, within_s: float = ASK_LIMIT_S) -> list[Mapping[str, Any]]:
        """What one statement gives.

        Raises:
            TargetError: the connection is gone, the statement was refused, or there was no answer in time.
        """
        with _told(self._dsn, sql, within_s):
            found: list[Mapping[str, Any]] = await self._connection.fetch(sql, *values, timeout=within_s)
            return found

    async def execute(self, sql: str, *, within_s: float = ASK_LIMIT_S) -> None:
        """Carries out statements; fails as `rows` does."""
        with _told(self._dsn, sql, within_s):
            await self._connection.execute(sql, timeout=within_s)

    @property
    def pid(self) -> int:
        """The backend that serves it."""
        return int(self._connection.get_server_pid())

    @property
    def kept(self) -> bool:
        """Whether the connection is still there, as far as this side knows."""
        return not self._connection.is_closed()

    def drop(self) -> None:
        """Closes the connection at once, whatever it is about; the server takes back what was not committed."""
        self._connection.terminate()


async def _ask(dsn: str, sql: str, question: Callable[[Any], Coroutine[Any, Any, Any]], within_s: float) -> Any:
    with _told(dsn, sql, within_s):
        async with asyncio.timeout(within_s):
            connection = await asyncpg.connect(dsn, timeout=within_s, statement_cache_size=0)
            try:
                return await question(connection)
            finally:
                connection.terminate()


@contextmanager
def _told(dsn: str, sql: str, within_s: float) -> Iterator[None]:
    """Turns what the database or the way to it says into a TargetError that names both."""
    try:
        yield
    except TimeoutError as error:
        raise TargetError(f"{_shown(dsn)}: no answer within {within_s:g} s: {sql}") from error
    except _REFUSALS as error:
        raise TargetError(f"{_shown(dsn)}: {error}: {sql}") from error


def _shown(dsn: str) -> str:
    """The connection string without a password."""
    head, at, tail = dsn.rpartition("@")
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.partition(':')[0]}@{tail}" if at else dsn
