"""A tiny real node: answers GETs, names its version, ends on SIGTERM.

STUBBORN=1: does not end on SIGTERM. ONCE=1: starts only once, and exits with status 3 when started again.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

INSTANCE = os.environ["HOLDFAST_INSTANCE"]
VERSION = os.environ.get("VERSION", "v1")
STUBBORN = os.environ.get("STUBBORN") == "1"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request on one connection."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"version": VERSION, "requests": 1}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Served-By: {INSTANCE}@{VERSION}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client has gone; the next one is another connection
    finally:
        writer.close()


async def serve() -> None:
    """Serves until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None if STUBBORN else stop.set())
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["HOLDFAST_PORT"]))
    async with server:
        await stop.wait()


started_before = Path(os.environ["HOLDFAST_DATA_DIR"]) / "started"
if os.environ.get("ONCE") == "1" and started_before.exists():
    sys.exit(3)
started_before.touch()
asyncio.run(serve())
