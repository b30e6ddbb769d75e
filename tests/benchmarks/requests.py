"""A load generator that costs as little as Python allows: it shares its cores with what it measures.

Each connection sends one prepared request after the other, the next when the answer to the last is there. Nothing is
sent again; an answer of another status than expected ends the measurement.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

_LENGTH: Final = b"\r\ncontent-length: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of a load: how long it took, and each request's time in order of the answers."""

    took_s: float
    latencies_s: Sequence[float]

    @property
    def per_second(self) -> float:
        """Answers in a second."""
        return len(self.latencies_s) / self.took_s


def post(path: str, *, token: str, key: str, body: str) -> bytes:
    """A POST of JSON as it goes over the wire."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def send_all(url: str, requests: Sequence[bytes], *, connections: int, expected: int) -> Load:
    """Sends all of them over so many connections, and gives how long it took.

    Raises:
        RuntimeError: an answer had another status than `expected`, or a connection was lost.
    """
    return uvloop.run(_send_all(url, requests, connections, f"HTTP/1.1 {expected} ".encode()))


async def _send_all(url: str, requests: Sequence[bytes], connections: int, expected: bytes) -> Load:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    loop = asyncio.get_running_loop()
    waiting = iter(requests)
    latencies: list[float] = []
    open_connections = []
    for _ in range(connections):
        _transport, connection = await loop.create_connection(
            lambda: _Connection(lambda: next(waiting, None), latencies, expected), parts.hostname, parts.port
        )
        open_connections.append(connection)
    started = time.perf_counter()
    for connection in open_connections:
        connection.send()
    await asyncio.gather(*(connection.done for connection in open_connections))
    return Load(took_s=time.perf_counter() - started, latencies_s=latencies)


class _Connection(asyncio.Protocol):
    def __init__(self, take: Callable[[], bytes | None], latencies: list[float], expected: bytes) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take = take
        self._latencies = latencies
        self._expected = expected
        self._received = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are none by inheritance

    def send(self) -> None:
        """Sends the next request, or ends when there is none."""
        request = self._take()
        if request is None:
            self._transport.close()
            return
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Reads an answer; its headers and its body may come in parts."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        if not head.startswith(self._expected):
            self._fail(f"an answer was {self._received[:500]!r}")
            return
        self._latencies.append(time.perf_counter() - self._sent_s)
        self._received = b""
        self.send()

    def connection_lost(self, _error: Exception | None) -> None:
        """Ends the connection: orderly when nothing was to be sent any more."""
        if not self.done.done():
            if self._received or self._take() is not None:
                self._fail("a connection was lost")
            else:
                self.done.set_result(None)

    def _fail(self, problem: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(problem))
        self._transport.close()
