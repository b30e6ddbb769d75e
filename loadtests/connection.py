"""One HTTP/1.1 connection of one client: a request goes over the wire once, and what became of it is told as it is.

Popular clients send a request again behind our back when the server drops it, and count one success. This one has
no code that could: it connects, sends, reads, and any trouble is a `LostError` that says whether a byte may have left.
Only the parser of geventhttpclient (llhttp) is used; its client resends reads.
"""

import errno
import socket
import ssl
import time
from functools import lru_cache
from typing import Any, Final

import gevent.socket
import gevent.ssl
from gevent import monkey
from geventhttpclient.response import HTTPParseError, HTTPResponse

from loadtests.protocol import Address

_CHUNK_BYTES: Final = 64 * 1024
_FINAL_STATUS: Final = 200

# gevent's own poll yields to other greenlets; this one only looks.
_poll = monkey.get_original("select", "poll")


class LostError(Exception):
    """No complete answer came: `error` is a short class (`refused`, `reset`, `eof`, `timeout`, ...).

    `sent` tells whether a byte of the request may have left this machine.
    """

    def __init__(self, error: str, *, sent: bool) -> None:
        super().__init__(error)
        self.error = error
        self.sent = sent


class Connection:
    """A connection that is kept alive between requests, or opened for each; not for concurrent use."""

    def __init__(
        self,
        address: Address,
        *,
        connect_timeout_s: float,
        total_timeout_s: float,
        keep_alive: bool = True,
    ) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._total_timeout_s = total_timeout_s
        self._keep_alive = keep_alive
        self._tls = _tls_context() if address.tls else None
        self._idle: Any = None
        self._watch: Any = None

    def exchange(self, method: str, request: bytes) -> HTTPResponse:
        """Sends `request`, whole and once, and reads the answer to its end.

        Raises:
            LostError: no complete answer came within the time limits, for whatever reason.
        """
        deadline_s = time.monotonic() + self._total_timeout_s
        sock = self._take_idle() or self._connect()
        reusable = False
        try:
            response = self._converse(sock, method, request, deadline_s)
            reusable = self._keep_alive and not response.should_close()
        except TimeoutError as error:
            raise LostError("timeout", sent=True) from error
        except HTTPParseError as error:
            raise LostError("malformed", sent=True) from error
        except ssl.SSLError as error:
            raise LostError("tls", sent=True) from error
        except OSError as error:
            raise LostError(_reason(error), sent=True) from error
        finally:
            if reusable:
                self._idle = sock
            else:
                sock.close()
        return response

    def close(self) -> None:
        """Closes the idle connection, if there is one; the next request opens another."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _converse(self, sock: Any, method: str, request: bytes, deadline_s: float) -> HTTPResponse:
        sock.settimeout(_left(deadline_s))
        sock.sendall(request)
        response = HTTPResponse(method)
        begun = False
        # An interim answer (1xx) is followed by the final one.
        while not response.message_complete or response.get_code() < _FINAL_STATUS:
            sock.settimeout(_left(deadline_s))
            data = sock.recv(_CHUNK_BYTES)
            if not data:
                if response.headers_complete and _ends_with_stream(response):
                    return response
                raise LostError("eof" if not begun else "eof-midway", sent=True)
            begun = True
            response.feed(data)
        return response

    def _take_idle(self) -> Any:
        """The idle connection, unless its peer has closed it or sent what nobody asked for.

        Nothing has been sent then, so opening another is no resend.
        """
        sock, self._idle = self._idle, None
        if sock is None:
            return None
        if self._watch is None:
            self._watch = _poll()
        self._watch.register(sock.fileno(), 0x1)  # POLLIN
        quiet = not self._watch.poll(0)
        self._watch.unregister(sock.fileno())
        if quiet:
            return sock
        sock.close()
        return None

    def _connect(self) -> Any:
        try:
            sock = gevent.socket.create_connection(
                (self._address.host, self._address.port), timeout=self._connect_timeout_s
            )
        except TimeoutError as error:
            raise LostError("connect-timeout", sent=False) from error
        except socket.gaierror as error:
            raise LostError("dns", sent=False) from error
        except OSError as error:
            raise LostError(_reason(error), sent=False) from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock if self._tls is None else self._tls.wrap_socket(sock, server_hostname=self._address.host)
        except TimeoutError as error:
            sock.close()
            raise LostError("connect-timeout", sent=False) from error
        except ssl.SSLError as error:
            sock.close()
            raise LostError("tls", sent=False) from error
        except OSError as error:
            sock.close()
            raise LostError(_reason(error), sent=False) from error
        except BaseException:
            sock.close()
            raise


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """One context for all connections: it holds the trusted certificates, which are megabytes."""
    context: ssl.SSLContext = gevent.ssl.create_default_context()
    return context


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _ends_with_stream(response: HTTPResponse) -> bool:
    """Whether the end of the stream ends the body: neither a length nor chunks said otherwise."""
    return "content-length" not in response and "transfer-encoding" not in response


def _reason(error: OSError) -> str:
    match error:
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return "reset"
        case _:
            return errno.errorcode.get(error.errno or 0, "os-error").lower()
