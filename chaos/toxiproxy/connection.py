"""One connection through a proxy: a client's socket, the socket to the upstream server, and a link for each direction.

An end of data is passed on as that, so that half-closed connections keep working; once both directions have ended, or
one socket is gone and what it had sent is delivered, both sockets are closed.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast

from chaos.toxiproxy.installed import InstalledToxic, Stream
from chaos.toxiproxy.link import Link
from chaos.toxiproxy.toxics.stage import Ending

_WRITE_LIMIT_BYTES: Final = 256 * 1024
"""So much may wait for a receiver that does not read; then the sender waits."""
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""Closing the socket sends a reset."""


class Side(asyncio.Protocol):
    """One socket of a connection: the source of one link, and the sink of the other."""

    __slots__ = (
        "_connection",
        "_early",
        "_paused",
        "_reading",
        "_through",
        "incoming",
        "lost",
        "outgoing",
        "transport",
    )

    transport: asyncio.Transport
    outgoing: Link
    incoming: Link

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._paused = False
        self._reading = False
        self._through = False
        self._early: bytes | None = b""
        self.lost = False

    def begin(self) -> None:
        """Lets data flow, first what came before the other side was connected."""
        early, self._early = self._early, None
        self.transport.pause_reading()
        if early:
            self.outgoing.feed(early)
        if self._through:
            self.outgoing.feed_end()
        self.outgoing.pump()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is read before the other side is connected."""
        # uvloop's transports are none by inheritance.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()
        self.transport.set_write_buffer_limits(high=_WRITE_LIMIT_BYTES)

    def data_received(self, data: bytes) -> None:
        """Passes it on."""
        if self._early is None:
            self.outgoing.feed(data)
        else:
            # uvloop reads once although reading was paused when the connection was made.
            self._early += data
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Passes the end on; the socket stays open for the other direction."""
        self._through = True
        if self._early is None:
            self.outgoing.feed_end()
        return True

    def pause_writing(self) -> None:
        """The receiver does not read: its sender has to wait."""
        self._paused = True
        self.incoming.pump()

    def resume_writing(self) -> None:
        """The receiver reads again."""
        self._paused = False
        self.incoming.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, by whomever."""
        del exc
        self.lost = True
        self._connection.lost(self)

    def set_reading(self, *, wanted: bool) -> None:
        """Reads, or lets the sender wait."""
        # After the end there is nothing to read; asking again would give a second end.
        if wanted is not self._reading and not self._through and not self.transport.is_closing():
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def ready(self) -> bool:
        """Whether little enough waits to be sent."""
        return not self._paused

    def write(self, data: bytes) -> None:
        """Sends data; a socket that is being closed takes none."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def end(self, ending: Ending) -> None:
        """Has the connection decide what the end of a direction means."""
        self._connection.ended(self, ending)

    def reset(self) -> None:
        """Closes the socket with a reset."""
        if self.transport.is_closing():
            return
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.transport.abort()


class Connection:
    """A client's connection with its two sockets and links; `number` counts the connections of its proxy from 1."""

    __slots__ = (
        "_gone",
        "_started",
        "client",
        "client_address",
        "downstream",
        "number",
        "opened_s",
        "server",
        "upstream",
    )

    def __init__(
        self, number: int, *, client_address: str, opened_s: float, gone: "Callable[[Connection], None]"
    ) -> None:
        self.number = number
        self.client_address = client_address
        self.opened_s = opened_s
        self._gone = gone
        self._started = False
        self.client = Side(self)
        self.server = Side(self)

    def start(self, toxics: Sequence[InstalledToxic], seed_text: str) -> None:
        """Lets data flow; both sockets are connected by now."""

        def link(stream: Stream, source: Side, sink: Side) -> Link:
            chosen = [one for one in toxics if one.stream is stream]
            text = f"{seed_text}/{stream.value}"
            return Link(stream, chosen, source=source, sink=sink, seed_text=text, alarms=asyncio.get_running_loop())

        self.upstream = link(Stream.UPSTREAM, self.client, self.server)
        self.downstream = link(Stream.DOWNSTREAM, self.server, self.client)
        self.client.outgoing = self.server.incoming = self.upstream
        self.server.outgoing = self.client.incoming = self.downstream
        self._started = True
        if self.client.lost or self.server.lost:
            self.abort()
            self._report_gone()
            return
        self.client.begin()
        self.server.begin()

    def link(self, stream: Stream) -> Link:
        """The link of a direction."""
        return self.upstream if stream is Stream.UPSTREAM else self.downstream

    def ended(self, sink: Side, ending: Ending) -> None:
        """A direction has ended at its sink, or a toxic cuts the connection."""
        if ending is Ending.RESET:
            self._stop()
            self.client.reset()
            self.server.reset()
        elif ending is Ending.CLOSE or self._other(sink).lost or sink.outgoing.ended:
            self.close()
        elif not sink.transport.is_closing():
            sink.transport.write_eof()

    def lost(self, side: Side) -> None:
        """A socket is gone: what it had sent is still delivered, what was for it is dropped."""
        if not self._started:
            return
        if self._other(side).lost:
            self._report_gone()
            return
        side.incoming.stop()
        side.outgoing.feed_end()
        if side.outgoing.ended:
            self.close()

    def close(self) -> None:
        """Closes both sockets when what is written to them is sent."""
        self._stop()
        self.client.transport.close()
        self.server.transport.close()

    def abort(self) -> None:
        """Closes both sockets now."""
        self._stop()
        self.client.transport.abort()
        self.server.transport.abort()

    def _other(self, side: Side) -> Side:
        return self.server if side is self.client else self.client

    def _report_gone(self) -> None:
        if self.client.lost and self.server.lost:
            self._stop()
            self._gone(self)

    def _stop(self) -> None:
        self.upstream.stop()
        self.downstream.stop()
