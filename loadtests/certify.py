"""Proves on this machine, with these library versions, that the load client hides no dropped request.

    python -m loadtests.certify                     exit 0: failures reported == requests dropped, in every mode
    python -m loadtests.certify --client fasthttp   exit 1: what Locust's FastHttpUser makes of the same server

A real TCP server reads each request and closes the connection without an answer on every second one. A client that
sends again behind our back reports fewer failures than there were drops, and the server sees more than were made.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from gevent.server import StreamServer
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment

from loadtests.client import HonestUser, Load
from loadtests.journal import Journal
from loadtests.options import OptionParser, whole
from loadtests.protocol import EXIT_FAILED, EXIT_FINE, Address, complain, parse_address
from metrics.history import OK, Recorder, read_recording

REQUESTS: Final = 20
_METHODS: Final = ("GET", "POST")
_LIMIT_S: Final = 5.0

Send = Callable[[str], bool]
"""Makes one request by this method; whether the client called it a success."""
Client = Callable[[Address, bool], AbstractContextManager[Send]]
"""A client for this address, over fresh connections or a kept one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One client against the dropping server: `made` requests of `method`, over kept or fresh connections."""

    method: str
    connections: str
    made: int
    seen: int
    """Requests the server read."""
    dropped: int
    reported: int
    """Failures the client told of."""

    @property
    def honest(self) -> bool:
        """Whether nothing was sent twice and no drop was hidden."""
        return self.seen == self.made and self.reported == self.dropped and self.dropped > 0


class DroppingServer:
    """Answers a request, drops the next, and so on; counts both."""

    def __init__(self) -> None:
        self.seen = 0
        self.dropped = 0
        self._server = StreamServer(("127.0.0.1", 0), self._serve)

    @contextmanager
    def running(self) -> Iterator[Address]:
        """Serves while the block runs."""
        self._server.start()
        try:
            yield parse_address(f"http://127.0.0.1:{self._server.server_port}")
        finally:
            self._server.stop()

    def _serve(self, sock: Any, _peer: object) -> None:
        sock.settimeout(_LIMIT_S)
        with sock, sock.makefile("rb") as stream:
            while request_line := stream.readline():
                length, last = _read_head(stream)
                stream.read(length)
                self.seen += 1
                if self.seen % 2 == 0:
                    self.dropped += 1
                    return
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                if last or not request_line.rstrip().endswith(b"1.1"):
                    return


def certify(client: Client, *, requests: int = REQUESTS) -> list[Trial]:
    """Tries `client(address, fresh)` in every mode; it is fit for judging availability when all trials are honest."""
    return [_try(client, method, fresh=fresh, requests=requests) for fresh in (False, True) for method in _METHODS]


@contextmanager
def honest_client(address: Address, fresh: bool) -> Iterator[Send]:  # noqa: FBT001  # the shape of every client on trial
    """The client of `HonestUser`; a success is what the recorded history calls one, not what the client returns."""
    with tempfile.TemporaryDirectory(prefix="holdfast-certify-") as folder:
        run_dir = Path(folder)
        with closing(Recorder(run_dir, name="certify", writer=0)) as recorder:
            environment = Environment(user_classes=[])
            environment.load = Load(
                address=address,
                journal=Journal(recorder=recorder, writer=0),
                run_dir=run_dir,
                seed=0,
                run_id="",
                ready_by_s=time.monotonic(),
            )
            user = (_FreshUser if fresh else _KeepingUser)(environment)

            def send(method: str) -> bool:
                user.client.request(method, "/", f="try", body={"n": 1} if method == "POST" else None)
                recorder.flush()
                rows, _ = read_recording(run_dir)
                return rows[-1].type == OK

            with closing(user.client):
                yield send


@contextmanager
def fasthttp_client(address: Address, fresh: bool) -> Iterator[Send]:  # noqa: FBT001  # the shape of every client on trial
    """Locust's own fast client, for comparison."""
    session = FastHttpSession(
        base_url=f"http://{address.authority}",
        request_event=Environment(user_classes=[]).events.request,
        user=None,
        network_timeout=_LIMIT_S,
        connection_timeout=_LIMIT_S,
    )
    headers = {"Connection": "close"} if fresh else {}

    def send(method: str) -> bool:
        body = {"n": 1} if method == "POST" else None
        status: int = session.request(method, "/", json=body, headers=headers).status_code
        return 200 <= status < 300

    try:
        yield send
    finally:
        session.client.clientpool.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one JSON object a trial and gives 0 when the client is honest, else 1."""
    parser = OptionParser(prog="loadtests.certify", description="Show whether a client hides dropped requests.")
    parser.add_argument("--client", choices=["honest", "fasthttp"], default="honest", help="which (honest)")
    parser.add_argument("--requests", type=whole(2, 10_000), default=REQUESTS, help=f"a trial ({REQUESTS})")
    options = parser.parse_args(arguments)
    client = honest_client if options.client == "honest" else fasthttp_client
    trials = certify(client, requests=options.requests)
    for trial in trials:
        sys.stdout.write(json.dumps({**asdict(trial), "honest": trial.honest}) + "\n")
    if all(trial.honest for trial in trials):
        return EXIT_FINE
    complain(f"loadtests.certify: the client {options.client!r} hides failures; availability seen by it means nothing")
    return EXIT_FAILED


class _KeepingUser(HonestUser):
    abstract = True


class _FreshUser(HonestUser):
    abstract = True
    keep_alive: ClassVar[bool] = False


def _try(client: Client, method: str, *, fresh: bool, requests: int) -> Trial:
    server = DroppingServer()
    with server.running() as address, client(address, fresh) as send:
        successes = sum(send(method) for _ in range(requests))
    return Trial(
        method=method,
        connections="fresh" if fresh else "kept",
        made=requests,
        seen=server.seen,
        dropped=server.dropped,
        reported=requests - successes,
    )


def _read_head(stream: Any) -> tuple[int, bool]:
    """The length of the body that follows, and whether the client wants the connection closed."""
    length, last = 0, False
    while (line := stream.readline().strip().lower()) != b"":
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
        elif name == b"connection":
            last = value.strip() == b"close"
    return length, last


if __name__ == "__main__":
    sys.exit(main())
