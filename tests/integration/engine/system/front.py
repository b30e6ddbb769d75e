"""A tiny real balancer: asks one node after the other until one answers, so that a dead or hung node costs nothing.

`POST /stage/NAME` gives it a stage, which `GET /stage` tells; what it serves does not depend on that.
"""

import asyncio
import itertools
import json
import os

NODES = [entry.partition("@")[0].rpartition(":") for entry in os.environ["UPSTREAMS"].split(",")]
PER_TRY_S = 0.15
stage = ["open"]
rotation = itertools.cycle(range(len(NODES)))


async def ask(node: int, request: bytes) -> bytes:
    """What a node answers, whole."""
    host, _, port = NODES[node]
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        answered = await reader.read()
        if not answered:
            raise ConnectionResetError
        return answered
    finally:
        writer.close()


def told_stage(request: bytes) -> bytes:
    """Takes a new stage where the request brings one, and says which it is."""
    method, path, _ = request.decode().split(" ", 2)
    if method == "POST":
        stage[0] = path.removeprefix("/stage/")
    body = json.dumps({"stage": stage[0], "leader": "portal-2/since-ever"})
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request on one connection."""
    try:
        request = await reader.readuntil(b"\r\n\r\n")
        if b" /stage" in request.partition(b"\r\n")[0]:
            writer.write(told_stage(request))
            await writer.drain()
            return
        first = next(rotation)
        response = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        for offset in range(len(NODES)):
            try:
                response = await asyncio.wait_for(ask((first + offset) % len(NODES), request), PER_TRY_S)
                break
            except (OSError, TimeoutError):
                continue
        writer.write(response)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client has gone; the next one is another connection
    finally:
        writer.close()


async def serve() -> None:
    """Serves until it is ended."""
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["HOLDFAST_PORT"]))
    async with server:
        await server.serve_forever()


asyncio.run(serve())
