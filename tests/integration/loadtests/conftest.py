"""A real little HTTP server that can misbehave, and the load processes run against it as they are in a run."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from metrics.history import Row, read_recording

REPOSITORY = Path(__file__).parents[3]
PROBLEM = "application/problem+json"


@dataclass(slots=True, kw_only=True)
class Request:
    """A request as the server read it, and when."""

    t_ns: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Reply:
    """What the server does with a request: answers, or drops the connection."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    after_s: float = 0.0
    drop: str | None = None  # "eof", "rst" or "midway"


Behaviour = Callable[[Request], Reply]


def good(request: Request) -> Reply:
    """Behaves like the reference platform as far as clients can see."""
    if request.path == "/v1/sessions":
        return Reply(status=201, body=json.dumps({"token": "t", "account": "a"}).encode())
    if request.method == "POST":
        amount = json.loads(request.body).get("amount")
        body = json.dumps({"id": "1", "amount": amount, "balance": 1000 + amount}).encode()
        return Reply(status=201, body=body, headers={"X-Served-By": "portal-1@v1", "x-envoy-attempt-count": "1"})
    return Reply(body=json.dumps({"balance": 7, "head": 3}).encode(), headers={"X-Served-By": "portal-1@v1"})


class Server:
    """Serves in a thread of its own on a port that stays the same when it is stopped and started again."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._call(self._start())

    def kill(self) -> None:
        """Refuses new connections and resets those there are, as the death of a process does."""
        self._call(self._kill())

    def close(self) -> None:
        self._call(self._kill())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=5)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _kill(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        current = asyncio.current_task()
        serving = [task for task in asyncio.all_tasks() if task is not current]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    continue
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(t_ns=time.monotonic_ns(), method=method, path=path, headers=headers, body=body)
        self.requests.append(request)
        reply = self.behaviour(request)
        if reply.after_s:
            await asyncio.sleep(reply.after_s)
        if reply.drop == "rst":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        if reply.drop == "eof":
            return False
        lines = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {len(reply.body)}"]
        lines += [f"Content-Type: {reply.content_type}", *(f"{name}: {value}" for name, value in reply.headers.items())]
        wire = ("\r\n".join(lines) + "\r\n\r\n").encode() + reply.body
        writer.write(wire[:-1] if reply.drop == "midway" else wire)
        await writer.drain()
        return reply.drop is None and headers.get("connection") != "close"


@dataclass(slots=True, kw_only=True)
class Ended:
    """A load process that has ended: exit code, what it said, what it complained of."""

    code: int
    said: list[dict[str, Any]]
    stderr: str

    @property
    def finished(self) -> dict[str, Any]:
        assert self.said, self.stderr
        assert self.said[-1]["load"] == "finished", self.said[-1]
        return self.said[-1]


class Process:
    """`python -m MODULE ARGUMENTS` with the environment of a load process."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            cwd=REPOSITORY,
            env=inherited | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._said: list[dict[str, Any]] = []

    def until(self, load: str) -> dict[str, Any]:
        """Reads what the process says until the first line of this kind."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(json.loads(line))
            if self._said[-1]["load"] == load:
                return self._said[-1]
        raise AssertionError(f"it ended without saying {load!r}: {self._process.communicate()[1]}")

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self, *, by: int | None = signal.SIGTERM, within_s: float = 20) -> Ended:
        """Sends a signal, or none, and waits for the end."""
        if by is not None:
            self._process.send_signal(by)
        stdout, stderr = self._process.communicate(timeout=within_s)
        said = self._said + [json.loads(line) for line in stdout.splitlines()]
        return Ended(code=self._process.returncode, said=said, stderr=stderr)

    def discard(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@dataclass(slots=True, kw_only=True)
class Bench:
    """A run folder, and the means to start servers and load processes for it."""

    run_dir: Path
    stack: contextlib.ExitStack

    def server(self, behaviour: Behaviour = good) -> Server:
        server = Server(behaviour)
        self.stack.callback(server.close)
        return server

    def process(self, module: str, *arguments: str, url: str, seed: int = 42, **environment: str) -> Process:
        given = {"HOLDFAST_URL": url, "HOLDFAST_RUN_DIR": str(self.run_dir), "HOLDFAST_SEED": str(seed)}
        process = Process(module, arguments, given | environment)
        self.stack.callback(process.discard)
        return process

    def load(self, locustfile: Path | str, *arguments: str, url: str, **environment: Any) -> Process:
        return self.process("loadtests.run", "--locustfile", str(locustfile), *arguments, url=url, **environment)

    def prober(self, *arguments: str, url: str) -> Process:
        return self.process("loadtests.prober", "--path", "/v1/status", *arguments, url=url)

    def locustfile(self, text: str) -> Path:
        path = self.run_dir / "users.py"
        path.write_text("from locust import task\nfrom loadtests.client import HonestUser\n\n" + text)
        return path

    def rows(self) -> list[Row]:
        rows, torn = read_recording(self.run_dir)
        assert not torn
        return rows


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh run folder; whatever a test starts is ended after it."""
    with contextlib.ExitStack() as stack:
        yield Bench(run_dir=tmp_path, stack=stack)


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    """`accounts.csv` with five accounts."""
    path = tmp_path / "accounts.csv"
    rows = [f"saver-{n}@example.org,secret,{n},1000000" for n in range(5)]
    path.write_text("\n".join(["email,password,account,opening_balance", *rows]) + "\n")
    return path
