"""A tiny real visitor: asks the balancer a hundred times a second, whatever it answers, and answers any GET itself."""

import asyncio
import os
import signal
from urllib.parse import urlsplit

BALANCER = urlsplit(os.environ["BALANCER"])
EVERY_S = 0.01
REQUEST = b"GET /v1/status HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n"


async def ask() -> None:
    """One request; no answer is an answer too."""
    try:
        reader, writer = await asyncio.open_connection(BALANCER.hostname, BALANCER.port)
    except OSError:
        return
    try:
        writer.write(REQUEST)
        await reader.read()
    except OSError:
        pass  # it has gone, or breaks off
    finally:
        writer.close()


async def go_on() -> None:
    """Asks for ever."""
    while True:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            group.create_task(asyncio.sleep(EVERY_S))


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
    """Asks until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["HOLDFAST_PORT"]))
    asking = asyncio.create_task(go_on())
    async with server:
        await stop.wait()
    asking.cancel()


asyncio.run(serve())
