"""Planted bug: the schema without the unique key of orders, so that an order retried elsewhere is taken twice.

Chosen by overriding the command of the role `migrate`; the judges must see the double effects.
"""

import asyncio
import os
import sys

from system_under_test.storage import migrate
from system_under_test.storage.connection import connect


async def _forget_keys(admin_url: str) -> None:
    async with connect(admin_url) as connection:
        await connection.execute("alter table idempotency drop constraint if exists idempotency_key")


if __name__ == "__main__":
    status = migrate.main([], os.environ)
    asyncio.run(_forget_keys(os.environ["DATABASE_ADMIN_URL"]))
    sys.exit(status)
