"""An HTTP client that shows answers as they came: status, headers, body."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered; the headers' names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """Speaks to the server at a URL; every request on a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80

    def ask(self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None) -> Answer:
        """Sends a request; bytes and text go as they are, anything else as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        sent = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        try:
            connection.request(method, path, body=sent, headers=headers or {})
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=fields, body=response.read())
        finally:
            connection.close()

    def proxy(self, upstream: str, name: str = "p", **more: object) -> int:
        """Makes a proxy to an address and gives the port that it listens at."""
        answer = self.ask("POST", "/proxies", {"name": name, "listen": "127.0.0.1:0", "upstream": upstream, **more})
        assert answer.status == 201, answer
        return int(answer.json["listen"].rpartition(":")[2])

    def toxic(self, kind: str, name: str = "p", *, stream: str = "downstream", **attributes: object) -> None:
        """Adds a toxic to a proxy; `toxicity` and `ttl_ms` are no attributes."""
        own: dict[str, object] = {key: attributes.pop(key) for key in ("toxicity", "ttl_ms") if key in attributes}
        body: dict[str, object] = {"type": kind, "stream": stream, "attributes": attributes, **own}
        answer = self.ask("POST", f"/proxies/{name}/toxics", body)
        assert answer.status == 200, answer

    def delete_all(self) -> None:
        """Deletes every proxy."""
        for name in self.ask("GET", "/proxies").json:
            assert self.ask("DELETE", f"/proxies/{name}").status == 204
