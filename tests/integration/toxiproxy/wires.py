"""Servers behind a proxy, and clients in front of it, with the times that matter."""

import asyncio
import contextlib
import time
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

Serve = Callable[[Reader, Writer], Awaitable[None]]
LIMIT_S = 60
"""For whatever has to come; nothing here takes long by itself."""


async def echo(reader: Reader, writer: Writer) -> None:
    """Sends back what comes, until the end of it, and then its own end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def answer_at_end(reader: Reader, writer: Writer) -> None:
    """Reads everything to its end, and only then tells how much it was."""
    received = await reader.read(-1)
    writer.write(b"%d bytes" % len(received))
    await writer.drain()


async def pour(_reader: Reader, writer: Writer) -> None:
    """Sends without end, as fast as it is taken."""
    while True:
        writer.write(bytes(65536))
        await writer.drain()


@contextlib.asynccontextmanager
async def upstream(serve: Serve = echo) -> AsyncIterator[str]:
    """A server on a port of its own; its address."""

    async def handle(reader: Reader, writer: Writer) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=4096)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A client's connection."""

    reader: Reader
    writer: Writer

    async def send(self, data: bytes) -> None:
        """Sends data."""
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, size: int) -> bytes:
        """Exactly so much."""
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything up to the end."""
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.read(-1)


@contextlib.asynccontextmanager
async def dial(port: int) -> AsyncIterator[Wire]:
    """A connection to a proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield Wire(reader=reader, writer=writer)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def fastest(action: Callable[[], Awaitable[None]], *, of: int = 3) -> float:
    """Seconds that the quickest of some tries took: the one that freezes of the machine touched least."""
    tries = []
    for _ in range(of):
        started = time.monotonic()
        await action()
        tries.append(time.monotonic() - started)
    return min(tries)


def about(seconds: float, measured: float) -> bool:
    """Not before its time, and at most 10 ms or 10 % after it; a clock tick of 1 ms is given."""
    return seconds - 0.001 <= measured <= seconds + max(0.010, seconds / 10)


async def until(holds: Callable[[], bool]) -> None:
    """Waits for something that only asking again tells."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110 -- the server is another process
            await asyncio.sleep(0.01)
