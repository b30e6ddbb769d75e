"""A server whose answer has no end: a byte each 50 ms, for as long as somebody takes them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

EVERY_S = 0.05


@contextmanager
def dripping(first: bytes = b"HTTP/1.1 ") -> Iterator[int]:
    """Gives its port; says `first` at once to whoever connects, and goes on so until the client or the test is gone."""
    over = threading.Event()

    def serve() -> None:
        # Shut down without anybody having come, or the client has gone.
        with suppress(OSError):
            client, _ = listener.accept()
            with client:
                client.sendall(first)
                while not over.wait(EVERY_S):
                    client.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)
            assert not thread.is_alive()
