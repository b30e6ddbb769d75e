"""The platform on this machine, started by its own commands: what the tests of this folder act on."""

import asyncio
import csv
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

ROOT: Final = Path(__file__).parents[3]
_PORTS: Final = range(32_000, 32_768)  # below the ephemeral ones, above those that Holdfast gives its targets
OPERATOR_TOKEN: Final = "the-operators-token-of-the-tests"
PATIENT: Final = {"MAX_WAIT_SECONDS": "5"}
"""For nodes whose tests are not about overload: other tests take the machine's time meanwhile."""
_taken: Final[set[int]] = set()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on and that was not given before."""
    for port in random.SystemRandom().sample(_PORTS, k=200):
        with socket.socket() as probe:
            if port not in _taken and probe.connect_ex(("127.0.0.1", port)) != 0:
                _taken.add(port)
                return port
    raise AssertionError("no free port among 200")


def await_ready(portal: "Process") -> None:
    """Waits until a portal or another service says that it can serve."""
    await_true(lambda: portal.answers("/readyz"), f"{portal.name} is ready")


def await_true(condition: Callable[[], bool], what: str, *, within_s: float = 60.0) -> None:
    """Asks `condition` a hundred times a second until it holds; fails naming `what` after `within_s`."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET; (0, b"") when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


@dataclass(slots=True, kw_only=True)
class Process:
    """One process of the platform; its port and folder stay the same when it is started again."""

    name: str
    command: tuple[str, ...]
    port: int
    folder: Path
    environment: Mapping[str, str]
    ready_file_name: str = "ready.json"
    release: Path = ROOT
    """The folder whose package it runs."""
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, its output appended to `log`."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOLDFAST_INSTANCE": self.name,
            "HOLDFAST_PORT": str(self.port),
            "HOLDFAST_DATA_DIR": str(self.folder),
            "HOLDFAST_READY_FILE": str(self.ready_file),
            **self.environment,
        }
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=self.release
            )

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")

    @property
    def ready_file(self) -> Path:
        return self.folder / self.ready_file_name

    def outputs(self) -> dict[str, str]:
        """What the launcher reported."""
        outputs: dict[str, str] = json.loads(self.ready_file.read_text(encoding="utf-8"))
        return outputs

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log that report `event`."""
        records = (json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line[:1] == "{")
        return [record for record in records if record.get("event") == event]

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def signal_family(self, number: signal.Signals) -> None:
        """Sends a signal to the process and to its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        for pid in (self.pid, *map(int, children)):
            os.kill(pid, number)

    def program(self) -> Path:
        """What the process runs now."""
        return Path(f"/proc/{self.pid}/exe").readlink()

    def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 60.0) -> int:
        """Sends a signal, waits for the end and gives the exit code; kills what does not end in time, and fails."""
        assert self.running is not None
        self.running.send_signal(number)
        try:
            return self.running.wait(within_s)
        finally:
            self.running.kill()
            self.running.wait()

    def answers(self, path: str, status: int = 200, *, port: int | None = None) -> bool:
        """Whether a GET gets this status now; fails when the process has ended instead."""
        if self.running is not None and self.running.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.running.returncode}: {self.log.read_text()[-2000:]}")
        return get(port or self.port, path)[0] == status


@dataclass(slots=True, kw_only=True)
class Stage:
    """A folder with the processes that were started in it; `close` ends them all."""

    folder: Path
    processes: dict[str, Process] = field(default_factory=dict)
    release: Path = ROOT
    """The folder whose package its commands and new processes run."""

    def add(self, name: str, module: str, **environment: str) -> Process:
        """Starts `python -m system_under_test MODULE` as `name`."""
        folder = self.folder / name
        folder.mkdir()
        process = Process(
            name=name,
            command=(sys.executable, "-m", "system_under_test", module),
            port=free_port(),
            folder=folder,
            environment=environment,
            release=self.release,
        )
        self.processes[name] = process
        process.start()
        return process

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the platform to its end."""
        return subprocess.run(
            (sys.executable, "-m", "system_under_test", *arguments),
            env={"PATH": os.environ["PATH"], **environment},
            cwd=self.release,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def add_database(self, name: str = "postgres", *, verified: bool = True, **migration: str) -> Process:
        """Starts a database server and brings its schema up to date, the migration told what is given.

        Its empty ledger counts as `verified`, as if a maintenance process had been there; not every stage has one.
        """
        postgres = self.add(name, "postgres")
        await_true(lambda: self.is_up(postgres), "postgres accepts connections")
        migrated = self.run("migrate", DATABASE_ADMIN_URL=postgres.outputs()["admin_dsn"], **migration)
        assert migrated.returncode == 0, migrated.stderr
        if verified:
            with ThreadPoolExecutor(1) as beside:  # there may be an event loop in this thread
                beside.submit(asyncio.run, _open_gate(postgres.outputs()["admin_dsn"])).result()
        return postgres

    def seed(self, postgres: Process, *, customers: int) -> list[dict[str, str]]:
        """Opens accounts and gives the rows of their CSV."""
        out = self.folder / "accounts.csv"
        seeded = self.run(
            *("seed", "--accounts", str(customers), "--out", str(out)),
            DATABASE_ADMIN_URL=postgres.outputs()["admin_dsn"],
        )
        assert seeded.returncode == 0, seeded.stderr
        with out.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @staticmethod
    def is_up(postgres: Process) -> bool:
        """Whether the server says so itself, in its log, since its last start; fails when it has ended instead."""
        assert postgres.running is not None
        said = postgres.log.read_text(encoding="utf-8")
        assert postgres.running.poll() is None, said
        return f"[{postgres.pid}] LOG:  database system is ready to accept connections" in said

    def add_portal(self, name: str, postgres: Process, **environment: str) -> Process:
        """Starts a portal node; it is not ready yet."""
        return self.add(name, "portal", DATABASE_URL=postgres.outputs()["dsn"], **environment)

    def add_settlement(self, name: str, postgres: Process, **environment: str) -> Process:
        """Starts a settler; it is not active yet."""
        return self.add(name, "settlement", DATABASE_URL=postgres.outputs()["settlement_dsn"], **environment)

    def add_accrual(self, name: str, postgres: Process, **environment: str) -> Process:
        """Starts an accrual process; it is not ready yet."""
        return self.add(name, "accrual", DATABASE_URL=postgres.outputs()["accrual_dsn"], **environment)

    def add_maintenance(self, postgres: Process, **environment: str) -> Process:
        """Starts the maintenance process, with `OPERATOR_TOKEN`, and waits until it is ready."""
        url = postgres.outputs()["maintenance_dsn"]
        maintenance = self.add(
            "maintenance", "maintenance", DATABASE_URL=url, OPERATOR_TOKEN=OPERATOR_TOKEN, **environment
        )
        await_ready(maintenance)
        return maintenance

    def add_balancer(self, name: str, portals: list[Process], *, retries: str = "on") -> Process:
        """Starts a balancer in front of `portals`, in zones a and b by turns, and waits until it is ready."""
        upstreams = ",".join(f"127.0.0.1:{portal.port}@{'ab'[i % 2]}" for i, portal in enumerate(portals))
        admin = free_port()
        balancer = self.add(name, "balancer", UPSTREAMS=upstreams, RETRIES=retries, HOLDFAST_PORT_ADMIN=str(admin))
        await_true(lambda: balancer.answers("/ready", port=admin), f"{name} is ready")
        return balancer

    def close(self) -> None:
        """Ends every process; a balancer and portals before the database."""
        for process in reversed(self.processes.values()):
            if process.running is not None and process.running.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.end(signal.SIGINT if "postgres" in process.name else signal.SIGKILL)


async def _open_gate(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        await connection.execute("update service_state set gate = 'open', gate_reason = ''")
    finally:
        await connection.close(timeout=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The whole: a database, four portals in two zones, a settler, a balancer; its customers are not logged in yet."""

    stage: Stage
    postgres: Process
    portals: list[Process]
    balancer: Process
    customers: list[dict[str, str]]

    @property
    def url(self) -> str:
        """Where clients go."""
        return self.balancer.outputs()["url"]


def start_platform(folder: Path, *, portals: int = 4, customers: int = 60) -> Iterator[Platform]:
    """Starts everything, gives it, and ends it."""
    stage = Stage(folder=folder)
    try:
        postgres = stage.add_database()
        nodes = [stage.add_portal(f"portal-{number}", postgres, **PATIENT) for number in range(1, portals + 1)]
        for node in nodes:
            await_ready(node)
        await_ready(stage.add_settlement("settlement", postgres))
        balancer = stage.add_balancer("balancer", nodes)
        rows = stage.seed(postgres, customers=customers)
        yield Platform(stage=stage, postgres=postgres, portals=nodes, balancer=balancer, customers=rows)
    finally:
        stage.close()
