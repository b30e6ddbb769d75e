"""Slow ways to the database: relays on the loopback interface that hold answers back, in a thread of their own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

_PIECE_BYTES: Final = 65_536


@dataclass(slots=True, kw_only=True)
class Gate:
    """One way to the database at `address`; `delay_s` holds each piece of an answer back, from when it is set."""

    address: SplitResult
    url: str = ""
    delay_s: float = 0.0

    async def open(self) -> asyncio.Server:
        """Listens, and says at which `url`."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        user = f"{self.address.username}:{self.address.password}"
        self.url = self.address._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
        return server

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection(self.address.hostname, self.address.port)
        await asyncio.gather(
            self._relay(reader, onward_writer, held_back=False), self._relay(onward_reader, writer, held_back=True)
        )

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held_back: bool) -> None:
        with suppress(OSError):  # either side may be killed; the other one is then told by the end of the stream
            while piece := await reader.read(_PIECE_BYTES):
                if held_back:
                    await asyncio.sleep(self.delay_s)
                writer.write(piece)
                await writer.drain()
        writer.close()


@contextmanager
def open_gates(database_url: str, count: int) -> Iterator[list[Gate]]:
    """That many ways to the same database."""
    gates = [Gate(address=urlsplit(database_url)) for _ in range(count)]
    loop = asyncio.new_event_loop()
    opened = threading.Event()

    async def serve() -> None:
        servers = [await gate.open() for gate in gates]
        opened.set()
        try:
            await asyncio.Event().wait()
        finally:
            for server in servers:
                server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner, suppress(asyncio.CancelledError):
            runner.run(serve())

    thread = threading.Thread(target=run, name="gates")
    thread.start()
    try:
        assert opened.wait(5), "the gates did not open"
        yield gates
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(5)
        assert not thread.is_alive()
