"""One value out of a PostgreSQL database, over a connection of its own: a reading must not depend on an older one."""

import asyncio
from typing import Any

import asyncpg

from chaos.errors import TargetError


async def fetch_value(dsn: str, sql: str, *, within_s: float) -> Any:
    """The first column of the first row; None when there is no row.

    Raises:
        TargetError: no connection, an error in the query, or no answer in time.
    """
    try:
        async with asyncio.timeout(within_s):
            connection = await asyncpg.connect(dsn, timeout=within_s, statement_cache_size=0)
            try:
                return await connection.fetchval(sql, timeout=within_s)
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
