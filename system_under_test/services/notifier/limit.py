"""Limits for a whole conversation: a socket's own timeout is for each read, of which a peer that drips has any number.

dial(within_s)    name -> address -> address ... -> a connected socket
Limit(seconds)    |--- hello - answer - a - n - s - w|  over: `cut` is called, which shuts the socket down
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Limit:
    """Calls `cut`, from a thread of its own, where the block is not over after `limit_s`; never after the block."""

    def __init__(self, limit_s: float, cut: Callable[[], None]) -> None:
        self._timer = threading.Timer(limit_s, cut)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # What it cuts must not be the next conversation.
        self._timer.join()


def dial(host: str, port: int, *, within_s: float) -> socket.socket:
    """A socket that is connected to the first address of `host` that answers; its timeout is `within_s` for each read.

    All addresses share `within_s`; the name service's own limits come before it.

    Raises:
        OSError: none answers.
        ValueError: no name service can have such a name.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    until_s = time.monotonic() + within_s
    problem: OSError = TimeoutError(f"no address answers within {within_s:g} s")
    for family, kind, protocol, _, address in addresses:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            break
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.settimeout(left_s)
            connecting.connect(address)
        except OSError as error:
            connecting.close()
            problem = error
        else:
            # What is written in two parts must not wait for the receipt of the first.
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connecting.settimeout(within_s)
            return connecting
    raise problem


def shut(connected: socket.socket | None) -> None:
    """Ends what another thread waits for on the socket."""
    if connected is not None:
        with suppress(OSError):
            # Not a TLS socket's own method, which takes away what the other thread is using.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)
