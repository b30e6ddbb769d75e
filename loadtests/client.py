"""A Locust user with an honest HTTP client: a request goes out once, is recorded, and counts from its intended start.

    class Visitor(HonestUser):
        @task
        def look(self):
            self.client.get("/v1/balance", f="balance")

Trouble is no exception but an `Answer` with an `error`, as with Locust's own clients. Locust's statistics, CSV and web
pages go on working: each request fires its `request` event, with the response time from the intended start.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

from gevent import GreenletExit
from gevent.lock import BoundedSemaphore
from locust import User
from locust.exception import StopUser

from loadtests.connection import Connection, LostError
from loadtests.journal import Journal
from loadtests.open_loop import seat_of
from loadtests.outcome import Outcome, answered, of_answer, of_loss, parse_object
from loadtests.protocol import Address
from metrics.history import OK, Operation

_PATH: Final = re.compile(r"/[\x21-\x7e]*")
_LINE_BREAK: Final = re.compile(r"[\r\n\0]")
LOG_INS_AT_ONCE: Final = 8
UNFINISHED: Final = "unfinished"
"""The error of a request that was still in flight when the load was ended for good."""


@dataclass(slots=True, kw_only=True)
class Load:
    """What the users of a process share; `environment.load` in a locustfile."""

    address: Address
    journal: Journal
    run_dir: Path
    seed: int
    run_id: str
    ready_by_s: float
    """CLOCK_MONOTONIC in seconds until which users may try to log in."""
    entrance: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(LOG_INS_AT_ONCE))
    """Hold it while logging in: checking a password is slow on purpose, and a crowd of log-ins would time out."""
    users: int = 0
    given_up: str | None = None
    """Why a user cannot take part; ends the load before it begins."""

    def enlist(self) -> int:
        """The number of a new user, from 0."""
        self.users += 1
        return self.users - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: `status` 0 and an `error` when nothing complete did."""

    status: int = 0
    headers: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the service said yes (2xx)."""
        return self.error is None

    def json(self) -> dict[str, Any]:
        """The JSON object of the answer; empty when there is none."""
        return parse_object(self.body)


class HonestUser(User):
    """A user whose `client` sends each request once and records it; derive from it and write tasks."""

    abstract = True

    connect_timeout_s: ClassVar[float] = 2.0
    total_timeout_s: ClassVar[float] = 5.0
    """From the start of the request, connecting included, to the last byte of the answer."""
    keep_alive: ClassVar[bool] = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        load: Load | None = getattr(environment, "load", None)
        if load is None:
            raise RuntimeError(
                "HonestUser records what it does: start it with `python -m loadtests.run` or see plain_locust.py"
            )
        self.load = load
        self.number = load.enlist()
        self.client = Client(self)

    @property
    def arrival_number(self) -> int:
        """The number of the arrival that started the running task."""
        seat = seat_of(self)
        if seat is None:
            raise RuntimeError("no arrival yet: on_start runs before the first")
        return seat.number

    def on_stop(self) -> None:
        """Closes the user's connection."""
        self.client.close()

    def give_up(self, reason: str) -> NoReturn:
        """Says that this user cannot take part, which ends a load that has not begun."""
        self.load.given_up = self.load.given_up or reason
        raise StopUser(reason)


class Client:
    """The HTTP client of one user; `headers` go with every request."""

    def __init__(self, user: HonestUser) -> None:
        self._user = user
        self._journal = user.load.journal
        self._recorder = user.load.journal.recorder
        self._process = self._journal.new_process()
        self._authority = user.load.address.authority
        self._requests = user.environment.events.request
        self._connection = Connection(
            user.load.address,
            connect_timeout_s=user.connect_timeout_s,
            total_timeout_s=user.total_timeout_s,
            keep_alive=user.keep_alive,
        )
        self.headers: dict[str, str] = {}

    def get(self, path: str, *, f: str, value: Any = None) -> Answer:
        """Reads `path`, recorded as a try of `f`."""
        return self.request("GET", path, f=f, value=value)

    def post(self, path: str, *, f: str, body: Any = None, key: str | None = None, value: Any = None) -> Answer:
        """Sends `body` as JSON to `path`, recorded as a try of `f`; `key` is its Idempotency-Key."""
        return self.request("POST", path, f=f, body=body, key=key, value=value)

    def request(
        self, method: str, path: str, *, f: str, body: Any = None, key: str | None = None, value: Any = None
    ) -> Answer:
        """Sends one request, once.

        The first request of a task counts from its arrival's intended start, a later one from its own; `value` is
        what the history notes as asked.

        Raises:
            ValueError: a path or header that cannot go on the wire.
        """
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        head = self._head(method, path, len(payload) if body is not None else None, key)
        operation, counted = self._invoke(f, key, value)
        request = b"%sX-Request-Id: %d\r\n\r\n%s" % (head, operation.index, payload)
        try:
            response = self._connection.exchange(method, request)
        except LostError as lost:
            answer = Answer(error=lost.error)
            outcome = of_loss(method, lost.error, sent=lost.sent)
            self._complete(operation, outcome, counted=counted)
        except GreenletExit:
            self._complete(operation, of_loss(method, UNFINISHED, sent=True), counted=counted)
            raise
        else:
            headers = response.info()
            content = bytes(response._body_buffer)  # noqa: SLF001  # public only with its own reading of sockets
            outcome = of_answer(method, response.get_code(), headers, content)
            answer = Answer(status=response.get_code(), headers=headers, body=content, error=outcome.error)
            self._complete(
                operation,
                outcome,
                counted=counted,
                value=answered(headers, content),
                node=_text(headers.get("x-served-by")),
                attempt=_attempts(headers.get("x-envoy-attempt-count")),
            )
        self._tell_locust(method, f, operation, answer, outcome)
        return answer

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        self._connection.close()

    def _head(self, method: str, path: str, length: int | None, key: str | None) -> bytes:
        head = _request_line(method, path, self._authority)
        for name, value in self.headers.items():
            head += _header(name, value)
        if key is not None:
            head += _header("Idempotency-Key", key)
        if length is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
        elif method in {"POST", "PUT", "PATCH"}:
            head += "Content-Length: 0\r\n"
        if not self._user.keep_alive:
            head += "Connection: close\r\n"
        return head.encode("latin-1")

    def _invoke(self, f: str, key: str | None, value: Any) -> tuple[Operation, bool]:
        """Records the start; the second is whether it counts, which it does not before the user's first arrival."""
        seat = seat_of(self._user)
        arrival = None if seat is None else seat.claim()
        if arrival is None and seat is not None:
            self._journal.tally.follow_ups += 1
        intended_ns = time.monotonic_ns() if arrival is None else arrival.intended_ns
        operation = self._recorder.invoke(f, process=self._process, intended_ns=intended_ns, key=key, value=value)
        return operation, seat is not None

    def _complete(
        self,
        operation: Operation,
        outcome: Outcome,
        *,
        counted: bool,
        value: Any = None,
        node: str | None = None,
        attempt: int = 0,
    ) -> None:
        self._process = self._journal.complete(operation, outcome, value=value, node=node, attempt=attempt)
        if counted:
            self._journal.tally.add(outcome)

    def _tell_locust(self, method: str, f: str, operation: Operation, answer: Answer, outcome: Outcome) -> None:
        elapsed_ms = (time.monotonic_ns() - operation.intended_ns) / 1e6
        declined = (outcome.error or "").startswith("declined:")
        failed = outcome.type != OK and not declined
        self._requests.fire(
            request_type=method,
            name=f,
            response_time=elapsed_ms,
            response_length=len(answer.body),
            exception=RuntimeError(outcome.error) if failed else None,
            context=self._user.context(),
            response=answer,
            start_time=time.time() - elapsed_ms / 1e3,
            url=None,
        )


@lru_cache(maxsize=1024)
def _request_line(method: str, path: str, authority: str) -> str:
    if not method.isalpha() or not _PATH.fullmatch(path):
        raise ValueError(f"expected a method and a path such as /v1/status, got {method!r} {path!r}")
    return f"{method} {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\nUser-Agent: holdfast\r\n"


def _header(name: str, value: str) -> str:
    line = f"{name}: {value}"
    if _LINE_BREAK.search(line):
        raise ValueError(f"header {name!r} has a line break or NUL in {value!r}")
    return line + "\r\n"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _attempts(value: Any) -> int:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else 0
