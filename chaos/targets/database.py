"""A PostgreSQL database asked over a connection of its own: a reading must not depend on an older one."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg

from chaos.errors import TargetError


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


async def _ask(dsn: str, sql: str, question: Callable[[Any], Coroutine[Any, Any, Any]], within_s: float) -> Any:
    try:
        async with asyncio.timeout(within_s):
            connection = await asyncpg.connect(dsn, timeout=within_s, statement_cache_size=0)
            try:
                return await question(connection)
            finally:
                connection.terminate()
    except TimeoutError as error:
        raise TargetError(f"{_shown(dsn)}: no answer within {within_s:g} s: {sql}") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise TargetError(f"{_shown(dsn)}: {error}: {sql}") from error


def _shown(dsn: str) -> str:
    """The connection string without a password."""
    head, at, tail = dsn.rpartition("@")
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.partition(':')[0]}@{tail}" if at else dsn
