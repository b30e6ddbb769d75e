"""A real little HTTP server that can misbehave in every way a client must tell apart."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TLS_HANDSHAKE = b"\x16"
PROBLEM = "application/problem+json"


@dataclass(slots=True, kw_only=True)
class Request:
    """A request as the server read it, and when."""

    t_ns: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Reply:
    """What the server does with a request: answers, or drops the connection."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    after_s: float = 0.0
    raw: bytes | None = None  # instead of all else; the connection is closed after it
    then_close: bool = False
    drop: str | None = None  # "eof", "rst" or "midway"


Behaviour = Callable[[Request], Reply]


def good(request: Request) -> Reply:
    """Behaves like the reference platform as far as clients can see."""
    if request.path == "/v1/sessions":
        return Reply(status=201, body=json.dumps({"token": "t", "account": "a"}).encode())
    if request.method == "POST":
        amount = json.loads(request.body).get("amount")
        body = json.dumps({"id": "1", "amount": amount, "balance": 1000 + amount}).encode()
        return Reply(status=201, body=body, headers={"X-Served-By": "portal-1@v1", "x-envoy-attempt-count": "1"})
    return Reply(body=json.dumps({"balance": 7, "head": 3}).encode(), headers={"X-Served-By": "portal-1@v1"})


class Server:
    """Serves in a thread of its own on a port that stays the same when it is stopped and started again."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._call(self._start())

    def kill(self) -> None:
        """Refuses new connections and resets those there are, as the death of a process does."""
        self._call(self._kill())

    def close(self) -> None:
        self._call(self._kill())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=5)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _kill(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        current = asyncio.current_task()
        serving = [task for task in asyncio.all_tasks() if task is not current]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    continue
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        if first == TLS_HANDSHAKE:
            writer.write(b"HTTP/1.1 400 X\r\n\r\n")
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(t_ns=time.monotonic_ns(), method=method, path=path, headers=headers, body=body)
        self.requests.append(request)
        reply = self.behaviour(request)
        if reply.after_s:
            await asyncio.sleep(reply.after_s)
        if reply.drop == "rst":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        if reply.drop == "eof":
            return False
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
            return False
        lines = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {len(reply.body)}"]
        lines += [f"Content-Type: {reply.content_type}", *(f"{name}: {value}" for name, value in reply.headers.items())]
        wire = ("\r\n".join(lines) + "\r\n\r\n").encode() + reply.body
        writer.write(wire[:-1] if reply.drop == "midway" else wire)
        await writer.drain()
        return reply.drop is None and not reply.then_close  # even when asked to close: that is for the client to do
