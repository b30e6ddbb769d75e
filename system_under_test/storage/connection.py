"""One connection to the database for a command that runs and ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from system_under_test.settings import PlatformError, is_database_url

_CONNECT_WITHIN_S: Final = 10.0


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Any]:
    """A connection to `url`, closed at the end.

    Raises:
        PlatformError: the database cannot be reached, or refuses what it was asked; names the database.
    """
    where = _place(url)
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_WITHIN_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        said = str(error) or f"no answer within {_CONNECT_WITHIN_S:g} s"
        raise PlatformError(f"cannot connect to the database {where}: {said}") from error
    except ValueError:
        raise PlatformError(f"cannot connect to the database {where}: its address cannot be used") from None
    try:
        yield connection
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise PlatformError(f"the database {where} failed: {error}") from error
    finally:
        await connection.close(timeout=_CONNECT_WITHIN_S)


def _place(url: str) -> str:
    """Where `url` leads, without the password.

    Raises:
        PlatformError: it cannot be read; without its text and cause, which may repeat the password.
    """
    try:
        usable = is_database_url(url)
    except ValueError:
        usable = False
    if not usable:
        raise PlatformError("cannot connect to the database: its address cannot be read")
    parts = urlsplit(url)
    return f"{parts.username}@{parts.hostname}:{parts.port or 5432}{parts.path}"
