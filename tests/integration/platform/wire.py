"""One HTTP request as bytes, so that a test can send what no client library would."""

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request: `path` with its query, percent-encoded; the body's length is added unless it is chunked."""

    method: str
    path: str
    headers: Headers = ()
    body: bytes | None = None

    def __repr__(self) -> str:
        text = repr(self.encode())
        return f"Sent({text[:1000]}{f'... {len(text)} characters' if len(text) > 1000 else ''})"

    def encode(self) -> bytes:
        """The bytes that go over the wire."""
        lines = [f"{self.method} {self.path} HTTP/1.1".encode(), b"Host: portal", b"Connection: close"]
        lines += [name + b": " + value for name, value in self.headers]
        if self.body is not None and not any(name.lower() == b"transfer-encoding" for name, _ in self.headers):
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.body or b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """An answer; of an event stream the first two lines only."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """What the body is, without parameters; empty where it does not say."""
        return self.headers.get("content-type", "").partition(";")[0]

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def exchange(port: int, sent: Sent | bytes, *, within_s: float = 20.0) -> Got:
    """Sends on a connection of its own and gives the answer.

    Raises:
        OSError, http.client.HTTPException: no answer came.
    """
    method = sent.method if isinstance(sent, Sent) else ""
    with socket.create_connection(("127.0.0.1", port), timeout=within_s) as connection:
        connection.sendall(sent.encode() if isinstance(sent, Sent) else sent)
        response = http.client.HTTPResponse(connection, method=method)
        try:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            stream = headers.get("content-type", "").startswith("text/event-stream")
            body = response.readline() + response.readline() if stream else response.read()
            return Got(status=response.status, headers=headers, body=body)
        finally:
            response.close()
