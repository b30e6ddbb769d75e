"""What a hop through the embedded proxy costs, without toxics: small exchanges, bulk data, and added latency.

Client, proxy and server are three processes that share the cores with each other; the direct path is measured with
the same client and server in the same run. Both figures therefore hang on how many cores there are.
"""

import asyncio
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Final, cast

import uvloop

from tests.benchmarks.measure import Figure
from tests.integration.toxiproxy.client import Client

_MESSAGE: Final = bytes(64)
_CONNECTIONS: Final = 32
_EXCHANGES: Final = 100_000
_ALONE: Final = 5_000
_BULK_BYTES: Final = 1_000_000_000
_CHUNK: Final = bytes(256 * 1024)
_BULK: Final = b"bulk"
"""A client that begins with this gets the bulk; what any other sends comes back."""
_TARGET_PAIRS_PER_S: Final = 25_000
_TARGET_MB_PER_S: Final = 1_000


def measure_proxy() -> Iterator[Figure]:
    """Exchanges a second over many connections, bulk data a second, and the median latency of one exchange alone."""
    with _server() as direct, _proxied(direct) as through:
        direct_s, through_s = (_exchanges(port, _EXCHANGES, _CONNECTIONS) for port in (direct, through))
        yield Figure(
            name="small exchanges through the proxy",
            value=_EXCHANGES / through_s[0],
            unit="1/s",
            compared_to="direct",
            ratio=direct_s[0] / through_s[0],
            at_least=_TARGET_PAIRS_PER_S,
        )
        direct_bulk_s, bulk_s = _bulk(direct), _bulk(through)
        yield Figure(
            name="bulk data through the proxy",
            value=_BULK_BYTES / bulk_s / 1e6,
            unit="MB/s",
            compared_to="direct",
            ratio=direct_bulk_s / bulk_s,
            at_least=_TARGET_MB_PER_S,
        )
        alone = [statistics.median(_exchanges(port, _ALONE, 1)[1]) for port in (direct, through)]
        yield Figure(
            name="median latency that the proxy adds",
            value=(alone[1] - alone[0]) * 1e6,
            unit="us",
            compared_to="a direct exchange",
            ratio=(alone[1] - alone[0]) / alone[0],
        )


@contextmanager
def _proxied(port: int) -> Iterator[int]:
    """The port of a proxy to that port."""
    command = [sys.executable, "-c", "from chaos.cli import main; main()", "toxiproxy", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("toxiproxy listens at ").split()[0]
        yield Client(url).proxy(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def _server() -> Iterator[int]:
    """The port of a server in a process of its own."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(ready: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(serve())


class _Server(asyncio.Protocol):
    """Sends back what comes, or the bulk."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are none by inheritance
        self._left_bytes = 0
        self._paused = False

    def data_received(self, data: bytes) -> None:
        if data != _BULK:
            self._transport.write(data)
            return
        self._left_bytes = _BULK_BYTES
        self._pour()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pour()

    def _pour(self) -> None:
        while self._left_bytes and not self._paused:
            size = min(self._left_bytes, len(_CHUNK))
            self._left_bytes -= size
            self._transport.write(_CHUNK[:size])


class _Client(asyncio.Protocol):
    """Sends the next message when `wanted` bytes have come, as long as `go_on` says so."""

    def __init__(self, first: bytes, wanted_bytes: int, go_on: Callable[[], bool]) -> None:
        self._first = first
        self._wanted_bytes = wanted_bytes
        self._go_on = go_on
        self._came_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        """Sends the first message."""
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self._came_bytes += len(data)
        if self._came_bytes >= self._wanted_bytes:
            self._came_bytes = 0
            if self._go_on():
                self._transport.write(self._first)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()


async def _run(port: int, first: bytes, wanted_bytes: int, times: int, connections: int) -> tuple[float, list[float]]:
    """Seconds for so many exchanges over so many connections, and the time between one answer and the next."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    answered_s: list[float] = []

    def go_on() -> bool:
        answered_s.append(time.perf_counter())
        if len(answered_s) == times:
            ended.set_result(None)
        return len(answered_s) + connections <= times

    clients = [
        (await loop.create_connection(lambda: _Client(first, wanted_bytes, go_on), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    started_s = time.perf_counter()
    for client in clients:
        client.begin()
    await ended
    for client in clients:
        client.close()
    between_s = [later - earlier for earlier, later in zip([started_s, *answered_s], answered_s, strict=False)]
    return answered_s[-1] - started_s, between_s


def _exchanges(port: int, times: int, connections: int) -> tuple[float, list[float]]:
    return uvloop.run(_run(port, _MESSAGE, len(_MESSAGE), times, connections))


def _bulk(port: int) -> float:
    return uvloop.run(_run(port, _BULK, _BULK_BYTES, 1, 1))[0]
