"""One connection to the database for a command that runs and ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from system_under_test.settings import PlatformError

_CONNECT_WITHIN_S: Final = 10.0


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Any]:
    """A connection to `url`, closed at the end.

    Raises:
        PlatformError: the database cannot be reached, or refuses what it was asked; names the database.
    """
    try:
        parts = urlsplit(url)
        where = f"{parts.username}@{parts.hostname}:{parts.port or 5432}{parts.path}"
    except ValueError:
        # Without its text and its cause: what cannot be read may be the password.
        raise PlatformError("cannot connect to the database: its address cannot be read") from None
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
