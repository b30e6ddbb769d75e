"""A push service that answers as it is told, byte for byte, and keeps what it was sent."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Pushed:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Script:
    """One answer for each connection, in turn; None takes the request and says nothing until the end."""

    listener: socket.socket
    host: str
    answers: Sequence[bytes | None]
    pushed: list[Pushed] = field(default_factory=list)
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def play(self) -> None:
        """Answers until there are no answers left."""
        for answer in self.answers:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with client:
                client.settimeout(30)
                self.pushed.append(_read(client))
                self.arrived.set()
                if answer is None:
                    self.over.wait(30)
                else:
                    client.sendall(answer)


def _read(client: socket.socket) -> Pushed:
    with client.makefile("rb") as file:
        line = file.readline().decode("ascii").strip()
        headers = {}
        while (header := file.readline().decode("ascii").strip()) != "":
            name, _, value = header.partition(": ")
            headers[name] = value
        return Pushed(line=line, headers=headers, body=file.read(int(headers["Content-Length"])))


@contextmanager
def played(*answers: bytes | None) -> Iterator[Script]:
    """A service that plays these answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = Script(listener=listener, host=f"127.0.0.1:{listener.getsockname()[1]}", answers=answers)
        thread = threading.Thread(target=script.play)
        thread.start()
        try:
            yield script
        finally:
            script.over.set()
            # Wakes it where it still waits for a connection.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def status(code: int, *headers: str) -> bytes:
    """An answer of this status."""
    return "\r\n".join((f"HTTP/1.1 {code} Said", "Content-Length: 0", *headers, "", "")).encode("ascii")
