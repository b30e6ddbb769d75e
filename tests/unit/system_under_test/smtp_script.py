"""An SMTP server of one's own making for one test: it says what its script says, whatever the client wants to hear."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

SILENCE = "silence"
CLOSE = "close"
GOOD = ("220 here", "250 here", "250 from", "250 to", "354 go on", "250 taken")
"""The replies to a connection, EHLO, MAIL, RCPT, DATA and a content."""


@dataclass(slots=True, kw_only=True)
class Script:
    """Where it listens, what it has heard (a list of words for each connection), which contents, and its silence."""

    port: int
    heard: list[list[str]] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)


@contextmanager
def scripted(*connections: Sequence[str]) -> Iterator[Script]:
    """Serves the connections, one after the other, each by its list of replies; what follows the last is QUIT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = Script(port=listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(listener, connections, script))
        thread.start()
        try:
            yield script
        finally:
            # Connections that were not used up: nobody is coming for them any more.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            assert not thread.is_alive()


def _serve(listener: socket.socket, connections: Sequence[Sequence[str]], script: Script) -> None:
    for replies in connections:
        try:
            connection, _ = listener.accept()
        except OSError:  # shut down: the test is over
            return
        script.heard.append([])
        # A client that goes away in mid-sentence is part of the play.
        with connection, connection.makefile("rb") as incoming, suppress(ConnectionError):
            _play(connection, incoming, replies, script)


def _play(connection: socket.socket, incoming: BinaryIO, replies: Sequence[str], script: Script) -> None:
    for number, said in enumerate(replies):
        if number > 0 and not _hear(incoming, script):
            return
        if said == CLOSE:
            return
        if said == SILENCE:
            script.silent.set()
            break
        connection.sendall("".join(f"{line}\r\n" for line in said.split("|")).encode())
        if said.startswith("354"):
            script.heard[-1].append("")
    incoming.read()


def _hear(incoming: BinaryIO, script: Script) -> bool:
    """Takes a command, or a content after 354; False when the client has gone."""
    heard = script.heard[-1]
    if heard and heard[-1] == "":
        content = b""
        while (line := incoming.readline()) not in {b".\r\n", b""}:
            content += line
        script.contents.append(content)
        heard[-1] = "content"
        return line != b""
    line = incoming.readline()
    heard.append(line.decode().split(" ")[0].strip())
    return line != b""
