"""One probe: an HTTP/1.1 GET over asyncio streams, sent once, read to its end, and classified.

No HTTP library: those that fit resend a dropped GET, which is just what a probe must report.
"""

import asyncio
import errno
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final

from loadtests.protocol import Address

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")
_BODY_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a probe found: `error` is None for 2xx, else `http-503`, `refused`, `reset`, `eof`, `timeout`, `tls`, ..."""

    error: str | None
    node: str | None = None
    attempt: int = 0


@dataclass(slots=True, kw_only=True)
class Link:
    """An open connection to the target."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def usable(self) -> bool:
        """Whether the peer has not closed it meanwhile, as far as known."""
        return not (self.reader.at_eof() or self.writer.is_closing() or self.reader.exception())

    def close(self) -> None:
        """Closes it at once; nothing is in flight on it that anybody waits for."""
        self.writer.transport.abort()


@dataclass(slots=True, kw_only=True)
class Prober:
    """Sends probes to `path` of `address`, each over a fresh connection or a kept one, with a limit of `timeout_s`."""

    address: Address
    path: str
    timeout_s: float
    _kept: list[Link] = field(default_factory=list)
    _tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.address.tls:
            self._tls = ssl.create_default_context()

    async def probe(self, index: int, *, fresh: bool) -> Reply:
        """Sends one probe, known as operation `index`, and tells what became of it."""
        link: Link | None = None
        keep = False
        try:
            async with asyncio.timeout(self.timeout_s):
                link = (None if fresh else self._take_kept()) or await self._connect()
                link.writer.write(self._request(index, fresh=fresh))
                reply, keep = await _read_reply(link.reader)
        except TimeoutError:
            reply = Reply(error="timeout")
        except asyncio.IncompleteReadError as error:
            reply = Reply(error="eof-midway" if error.partial else "eof")
        except (ValueError, asyncio.LimitOverrunError):
            reply = Reply(error="malformed")
        except ssl.SSLError:
            reply = Reply(error="tls")
        except socket.gaierror:
            reply = Reply(error="dns")
        except OSError as error:
            reply = Reply(error=_reason(error))
        finally:
            if link is not None:
                if keep and not fresh and not self._kept:
                    self._kept.append(link)
                else:
                    link.close()
        return reply

    def close(self) -> None:
        """Closes the kept connection."""
        while self._kept:
            self._kept.pop().close()

    def _take_kept(self) -> Link | None:
        while self._kept:
            link = self._kept.pop()
            if link.usable:
                return link
            link.close()
        return None

    async def _connect(self) -> Link:
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port, ssl=self._tls)
        return Link(reader=reader, writer=writer)

    def _request(self, index: int, *, fresh: bool) -> bytes:
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: {self.address.authority}\r\nUser-Agent: holdfast-prober\r\n"
            f"X-Request-Id: {index}\r\nConnection: {'close' if fresh else 'keep-alive'}\r\n\r\n"
        ).encode("ascii")


async def _read_reply(reader: asyncio.StreamReader) -> tuple[Reply, bool]:
    """The reply, and whether the connection can be used again.

    Raises:
        ValueError: what came is not HTTP/1.
    """
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        status_line = _STATUS_LINE.match(head)
        if status_line is None:
            raise ValueError("no HTTP/1 status line")
        status = int(status_line[1])
        if status >= 200:  # an interim answer is followed by the final one
            break
    headers = _headers(head[status_line.end() :])
    keep = head.startswith(b"HTTP/1.1") and headers.get("connection", "").lower() != "close"
    if "chunked" in headers.get("transfer-encoding", "").lower():
        await _skip_chunks(reader)
    elif (length := headers.get("content-length")) is not None:
        if int(length) > _BODY_BYTES_MAX:
            raise ValueError(f"a body of {length} bytes")
        await reader.readexactly(int(length))
    elif status not in {204, 304}:
        keep = False
        await _skip_to_end(reader)
    attempt = headers.get("x-envoy-attempt-count", "0")
    reply = Reply(
        error=None if 200 <= status < 300 else f"http-{status}",
        node=headers.get("x-served-by"),
        attempt=int(attempt) if attempt.isascii() and attempt.isdigit() else 0,
    )
    return reply, keep


def _headers(block: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.decode("latin-1").split("\r\n") if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _skip_chunks(reader: asyncio.StreamReader) -> None:
    skipped = 0
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        skipped += size
        if skipped > _BODY_BYTES_MAX:
            raise ValueError("a body without an end")
        await reader.readexactly(size + 2)
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        continue


async def _skip_to_end(reader: asyncio.StreamReader) -> None:
    skipped = 0
    while data := await reader.read(65_536):
        skipped += len(data)
        if skipped > _BODY_BYTES_MAX:
            raise ValueError("a body without an end")


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):
        return "reset"
    return errno.errorcode.get(error.errno or 0, "os-error").lower()
