"""A tiny real client of a database: two connections, one that always asks and one that always writes.

Answers any GET, whatever the database does; a connection that is lost is opened again.
"""

import asyncio
import os
import signal
from typing import Any

import asyncpg

DATABASE = os.environ["DATABASE_URL"]
OWNER = os.environ["OWNER_URL"]
KNOWN_AS = {"application_name": os.environ["APPLICATION"]}
AGAIN_S = 0.05
# The last of them is what it raises for the next statement after some ends of a connection.
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, asyncpg.InternalClientError)


async def go_on(statement: str) -> None:
    """Carries out one statement after the other, for ever."""
    connection: Any = None
    while True:
        try:
            if connection is None:
                connection = await asyncpg.connect(DATABASE, server_settings=KNOWN_AS, timeout=5)
            await connection.execute(statement)
        except LOST:
            if connection is not None:
                connection.terminate()
            connection = None
            await asyncio.sleep(AGAIN_S)  # refused or cancelled: a client that does not give up, nor storm


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request on one connection."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client has gone; the next one is another connection
    finally:
        writer.close()


async def serve() -> None:
    """Works until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    owner: Any = await asyncpg.connect(OWNER)
    await owner.execute("create table if not exists account (id text primary key, balance bigint not null)")
    await owner.execute("insert into account values ('first', 0) on conflict do nothing")
    await owner.execute("grant select, update on account to public")
    await owner.close()
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["HOLDFAST_PORT"]))
    work = [
        asyncio.create_task(go_on("select pg_sleep(0.5)")),
        asyncio.create_task(go_on("update account set balance = balance + 1; select pg_sleep(0.002)")),
    ]
    async with server:
        # A connection that is not worked with any more would be a bug here, and ends this process.
        await asyncio.wait({*work, stopping := asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    for task in work:
        task.cancel()
    if not stopping.done():
        await asyncio.gather(*work)


asyncio.run(serve())
