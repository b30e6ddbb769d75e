"""The load processes run as they are in a run: started by command, told by environment, heard on standard output."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics.history import INVOKE, Row, read_recording
from tests.integration.loadtests.server import Behaviour, Server, good

REPOSITORY = Path(__file__).parents[3]


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

    def deafen(self) -> None:
        """Closes our end of its standard output, as the death of the process that started it would."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait(self, *, within_s: float) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(timeout=within_s)

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

    def locustfile(self, text: str, name: str = "users.py") -> Path:
        path = self.run_dir / name
        path.write_text("from locust import task\nfrom loadtests.client import HonestUser\n\n" + text)
        return path

    def rows(self) -> list[Row]:
        rows, torn = read_recording(self.run_dir)
        assert not torn
        return rows

    def operations(self, f: str) -> list[tuple[Row, Row]]:
        """Each operation's invoke and completion, by intended start."""
        rows = [row for row in self.rows() if row.f == f]
        completions = {row.index: row for row in rows if row.type != INVOKE}
        pairs = [(row, completions[row.index]) for row in rows if row.type == INVOKE]
        return sorted(pairs, key=lambda pair: pair[0].intended_ns)
