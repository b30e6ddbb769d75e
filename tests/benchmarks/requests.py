"""A load generator that costs as little as Python allows: it shares its cores with what it measures.

Each connection sends one prepared request after the other, the next when the answer to the last is there. A request is
sent again only when whoever asked says so about its answer; an answer that cannot be judged ends the measurement.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

_LENGTH: Final = b"\r\ncontent-length: "
_RETRY_AFTER: Final = b"\r\nretry-after: "
_UNAVAILABLE: Final = frozenset({502, 503, 504})
_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for the request with this `number`; `head` as it came, from the status line on."""

    number: int
    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.head[9:12])

    def has(self, header: bytes) -> bool:
        """Whether the head has this line, in lower case and without its end."""
        return b"\r\n" + header in self.head.lower()

    @property
    def refused(self) -> bool:
        """Whether the platform refused it on purpose and says when to come again."""
        return self.status in _UNAVAILABLE and _RETRY_AFTER in self.head.lower()

    @property
    def again_s(self) -> float | None:
        """When it may be sent again, as everything here reads or has a key; None where it was answered."""
        if self.status not in _UNAVAILABLE:
            return None
        _, found, rest = self.head.lower().partition(_RETRY_AFTER)
        return float(rest.partition(b"\r\n")[0]) if found else _AGAIN_S


Judge = Callable[[Answer], float | None]
"""Takes an answer, and gives the seconds after which the request is sent again, or None when it is done with.

Raises:
    RuntimeError: the measurement cannot go on.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of a load: how long it took, each answer's time in their order, and how many asked to come again."""

    took_s: float
    latencies_s: Sequence[float]
    again: int

    @property
    def per_second(self) -> float:
        """Requests that were done with in a second."""
        return (len(self.latencies_s) - self.again) / self.took_s


def post(path: str, *, token: str, key: str, body: str) -> bytes:
    """A POST of JSON as it goes over the wire."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def get(path: str, *, token: str) -> bytes:
    """A GET as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def send_all(url: str, requests: Sequence[bytes], *, connections: int, expected: int) -> Load:
    """Sends all of them over so many connections, and gives how long it took.

    Raises:
        RuntimeError: an answer had another status than `expected`, or a connection was lost. What the platform could
            not do now is sent again.
    """

    def judge(answer: Answer) -> float | None:
        if answer.again_s is None and answer.status != expected:
            raise RuntimeError(f"an answer was {(answer.head + answer.body)[:500]!r}")
        return answer.again_s

    return uvloop.run(exchange(url, requests, connections=connections, judge=judge))


async def exchange(url: str, requests: Sequence[bytes], *, connections: int, judge: Judge) -> Load:
    """Sends all of them over so many connections, until `judge` is done with each.

    Raises:
        RuntimeError: from `judge`, or a connection was lost.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    loop = asyncio.get_running_loop()
    work = _Work(requests=requests, judge=judge, ended=loop.create_future())
    opened = [
        (await loop.create_connection(lambda: _Connection(work), parts.hostname, parts.port))[1]
        for _ in range(connections)
    ]
    started = time.perf_counter()
    for connection in opened:
        connection.send()
    try:
        await work.ended
    finally:
        took_s = time.perf_counter() - started
        for connection in opened:
            connection.close()
    return Load(took_s=took_s, latencies_s=work.latencies_s, again=work.again)


@dataclass(slots=True, kw_only=True)
class _Work:
    """What is still to be sent, and the connections that have nothing to send now."""

    requests: Sequence[bytes]
    judge: Judge
    ended: asyncio.Future[None]
    waiting: deque[int] = field(init=False)
    left: int = field(init=False)
    idle: list["_Connection"] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    again: int = 0

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.requests)))
        self.left = len(self.requests)

    def answered(self, answer: Answer, took_s: float) -> None:
        """Has the answer judged."""
        self.latencies_s.append(took_s)
        try:
            again_s = self.judge(answer)
        except RuntimeError as error:
            self.fail(error)
            return
        if again_s is not None:
            self.again += 1
            asyncio.get_running_loop().call_later(again_s, self._again, answer.number)
            return
        self.left -= 1
        if not self.left and not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: RuntimeError) -> None:
        """Ends the measurement."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def _again(self, number: int) -> None:
        self.waiting.append(number)
        if self.idle:
            self.idle.pop().send()


class _Connection(asyncio.Protocol):
    def __init__(self, work: _Work) -> None:
        self._work = work
        self._received = b""
        self._number = 0
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are none by inheritance

    def send(self) -> None:
        """Sends the next request, or waits until there is one."""
        if not self._work.waiting:
            self._work.idle.append(self)
            return
        self._number = self._work.waiting.popleft()
        self._sent_s = time.perf_counter()
        self._transport.write(self._work.requests[self._number])

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Reads an answer; its headers and its body may come in parts."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        self._received = b""
        self._work.answered(Answer(self._number, head, body), time.perf_counter() - self._sent_s)
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that is lost before all is done ends the measurement."""
        waited_s = time.perf_counter() - self._sent_s
        self._work.fail(
            RuntimeError(f"a connection was lost {waited_s:.1f} s after a request: {error}; it had {self._received!r}")
        )
