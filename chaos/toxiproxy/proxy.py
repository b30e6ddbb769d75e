"""A proxy: a listening socket, the connections that came in through it, and the toxics that are done to them."""

import asyncio
import errno
import socket
import time
from dataclasses import dataclass
from typing import Final

import structlog

from chaos.toxiproxy.addresses import AddressError, address_text, listen, port_number, resolved, shown_address, split
from chaos.toxiproxy.connection import Connection
from chaos.toxiproxy.installed import InstalledToxic, Stream

log = structlog.get_logger()

_ACCEPTED_AT_ONCE: Final = 128
"""So many connections are taken in one turn of the event loop, so that those that exist get theirs."""
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_AGAIN_S: Final = 0.1


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Bytes of a direction over all connections that are over, as the original counts them."""

    received_bytes: int = 0
    sent_bytes: int = 0


class Proxy:
    """Forwards every connection to `listen` on to `upstream`.

    `listen` becomes the real address once it was started. `toxics` are in the order in which data passes them, per
    stream. `seed_text` is what all chances of this proxy hang on, together with the number of the connection.
    """

    def __init__(self, name: str, *, listen: str, upstream: str, seed_text: str) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.enabled = False
        self.toxics: list[InstalledToxic] = []
        self.connections: dict[int, Connection] = {}
        self.traffic: dict[tuple[str, str, Stream], Traffic] = {}
        self._seed_text = f"{seed_text}/{name}"
        self._last_number = 0
        self._listener: socket.socket | None = None
        self._dials: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens; nothing to do when it does already.

        Raises:
            AddressError: the address cannot be had.
        """
        if self.enabled:
            return
        self._listener = await listen(self.listen)
        self.listen = shown_address(self._listener)
        self.enabled = True
        self._accept_on(self._listener)
        log.info("proxy.started", proxy=self.name, listen=self.listen, upstream=self.upstream)

    def stop(self) -> None:
        """Closes the listening socket and drops every connection; nothing to do when it is stopped."""
        self.enabled = False
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for dial in self._dials:
            dial.cancel()
        for connection in list(self.connections.values()):
            connection.abort()
        log.info("proxy.stopped", proxy=self.name, listen=self.listen, upstream=self.upstream)

    async def differs(self, *, listen: str, upstream: str) -> bool:
        """Whether these addresses are others than its own.

        Raises:
            AddressError: the new one cannot be understood or found.
        """
        return await resolved(listen) != self.listen or upstream != self.upstream

    async def update(self, *, listen: str, upstream: str, enabled: bool) -> None:
        """Changes what is different; other addresses drop every connection. A failed start leaves it stopped.

        Raises:
            AddressError: the new address cannot be understood, or not be had.
        """
        if await self.differs(listen=listen, upstream=upstream):
            self.stop()
            self.listen, self.upstream = listen, upstream
        if enabled and not self.enabled:
            await self.start()
        elif not enabled and self.enabled:
            self.stop()

    def find(self, name: str) -> InstalledToxic | None:
        """The toxic of that name."""
        return next((one for one in self.toxics if one.name == name), None)

    def ordered_toxics(self) -> list[InstalledToxic]:
        """Those upstream first, then those downstream, each in the order in which they were added."""
        return sorted(self.toxics, key=lambda one: one.stream is not Stream.UPSTREAM)

    def add(self, toxic: InstalledToxic) -> None:
        """Puts a toxic at the end of its stream, on live connections, too."""
        self.toxics.append(toxic)
        for connection in list(self.connections.values()):
            connection.link(toxic.stream).add(toxic)

    def changed(self, toxic: InstalledToxic) -> None:
        """Starts a toxic over on all connections, after its attributes or its share were changed."""
        for connection in list(self.connections.values()):
            connection.link(toxic.stream).update(toxic)

    def remove(self, toxic: InstalledToxic) -> None:
        """Takes a toxic off all connections; one that is not there any more is none to take off."""
        if toxic in self.toxics:
            self.toxics.remove(toxic)
            for connection in list(self.connections.values()):
                connection.link(toxic.stream).remove(toxic)

    def remove_all(self) -> None:
        """Takes all toxics off."""
        for toxic in self.ordered_toxics():
            self.remove(toxic)

    def _accept_on(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                # The clients wait in the listening socket's queue until there is room again.
                log.warning("proxy.full", proxy=self.name, error=str(error))
                loop.remove_reader(listener)
                loop.call_later(_ACCEPT_AGAIN_S, self._accept_on, listener)
                return
            self._last_number += 1
            dial = loop.create_task(self._connect(client, address_text(address[:2]), self._last_number))
            self._dials.add(dial)
            dial.add_done_callback(self._dials.discard)

    async def _connect(self, client: socket.socket, address: str, number: int) -> None:
        """Connects a client's socket to the upstream server; closes it when that cannot be reached."""
        loop = asyncio.get_running_loop()
        connection = Connection(number, client_address=address, opened_s=time.monotonic(), gone=self._forget)
        try:
            client.setblocking(False)  # noqa: FBT003 -- the standard library's signature
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host, port = split(self.upstream)
            await loop.create_connection(lambda: connection.server, host or "localhost", port_number(port))
        except (OSError, AddressError, UnicodeError) as error:
            client.close()
            log.warning("proxy.upstream_unreachable", proxy=self.name, upstream=self.upstream, error=str(error))
            return
        except asyncio.CancelledError:
            client.close()
            raise
        try:
            await loop.connect_accepted_socket(lambda: connection.client, client)
        except asyncio.CancelledError:
            connection.server.transport.abort()
            client.close()
            raise
        self.connections[number] = connection
        connection.start(self.toxics, f"{self._seed_text}/{number}")

    def _forget(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)
        for link in (connection.upstream, connection.downstream):
            traffic = self.traffic.setdefault((self.listen, self.upstream, link.stream), Traffic())
            traffic.received_bytes += link.received_bytes
            traffic.sent_bytes += link.sent_bytes
