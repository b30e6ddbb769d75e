"""The processes that play the clients: the load and the prober, and what they say on standard output.

spawn -> {"load": "ready"} -> {"load": "status", ...} once a second -> SIGTERM -> {"load": "finished", ...} -> exit 0
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.errors import TargetError
from chaos.processes import Process, Registrar, send, spawn
from chaos.targets.commands import last_lines

LINE_LIMIT_BYTES: Final = 64 * 1024
COUNTS: Final = ("intended", "started", "completed", "ok", "fail", "info", "unsent", "lateness_p99_s")
FINISH_WITHIN_S: Final = 15.0
"""A client process awaits what is in flight for 10 s at most, and then has its history to write."""
LAST_WORD_WITHIN_S: Final = 2.0

Listener = Callable[["Client", str, Mapping[str, Any]], None]
"""Told of every line a client says: the client, the word after `load`, the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCommand:
    """How to start a client process; `name` is also that of its log."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Client:
    """A running client process; read from its birth to its exit."""

    def __init__(self, command: ClientCommand, process: Process, log: Path, listener: Listener) -> None:
        self.name = command.name
        self.log = log
        self.latest: Mapping[str, Any] = {}
        """The newest counts."""
        self.ready = asyncio.Event()
        self.stopping = False
        self._process = process
        self._listener = listener
        self._finished: Mapping[str, Any] | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        command: ClientCommand,
        *,
        env: Mapping[str, str],
        run_dir: Path,
        registrar: Registrar,
        listener: Listener,
    ) -> "Client":
        """Spawns the process, its standard error appended to `logs/<name>.log`.

        Raises:
            TargetError: it cannot be spawned.
        """
        log = run_dir / "logs" / f"{command.name}.log"
        read_end, write_end = os.pipe()
        try:
            process = spawn(
                command.argv,
                env={**env, **command.env},
                cwd=run_dir,
                log=log,
                name=command.name,
                registrar=registrar,
                stdout=write_end,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        client = cls(command, process, log, listener)
        client._reading = asyncio.create_task(client._read(read_end), name=f"read {command.name}")
        return client

    async def exited(self) -> int:
        """Waits for the end; the exit status."""
        return await self._process.wait()

    async def wait_ready(self, *, within_s: float) -> None:
        """Returns when the process has said that its clients are ready.

        Raises:
            TargetError: it ended before, or did not get there in time; names the log.
        """
        ready = asyncio.create_task(self.ready.wait())
        exited = asyncio.create_task(self.exited())
        try:
            await asyncio.wait({ready, exited}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if not self.ready.is_set():
                why = f"exited with {exited.result()}" if exited.done() else f"is not ready after {within_s:g} s"
                raise TargetError(f"{self.name} {why}; {last_lines(self.log)}")
        finally:
            ready.cancel()
            exited.cancel()
            await asyncio.gather(ready, exited, return_exceptions=True)

    async def finish(self) -> tuple[int, Mapping[str, Any]]:
        """Ends the process: SIGTERM, and SIGKILL when it takes too long; the exit status (-9: killed) and counts.

        The counts are those of its last word, or the newest status where it left without one.
        """
        self.stopping = True
        send(self._process.identity, signal.SIGTERM)
        try:
            returncode = await asyncio.wait_for(self.exited(), FINISH_WITHIN_S)
        except TimeoutError:
            send(self._process.identity, signal.SIGKILL)
            returncode = await self.exited()
        if self._reading is not None:
            # A child of the client may hold its output open for longer than the client lives.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reading, LAST_WORD_WITHIN_S)
        return returncode, self._finished if self._finished is not None else self.latest

    async def _read(self, fd: int) -> None:
        reader = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
        loop = asyncio.get_running_loop()
        with os.fdopen(fd, "rb", buffering=0) as pipe:
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            try:
                async for line in _lines(reader):
                    self._take(line)
            finally:
                transport.close()

    def _take(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            word = str(said.pop("load"))
        except (ValueError, KeyError, TypeError, AttributeError):
            with self.log.open("ab") as log:  # a print of the user's own code
                log.write(line)
            return
        if word == "ready":
            self.ready.set()
        elif word == "status":
            self.latest = said
        elif word == "finished":
            self.latest = self._finished = said
        self._listener(self, word, said)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream; of one that is longer than the limit, and so none of ours, only its end."""
    pending = b""
    while chunk := await reader.read(LINE_LIMIT_BYTES):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
        pending = pending[-LINE_LIMIT_BYTES:]
    if pending:
        yield pending


def counts(said: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of docs/formats.md in what a client said, 0 where it left one out, and whatever it said beside."""
    return {**dict.fromkeys(COUNTS, 0), **said}


def failed_of(said: Mapping[str, Any]) -> int:
    """How many operations failed for the client: `fail` and `info`, without correct answers that decline."""
    return int(said.get("fail", 0)) + int(said.get("info", 0)) - int(said.get("declined", 0))


def python_command(name: str, module: str, arguments: Sequence[str]) -> ClientCommand:
    """`python -m module arguments` as a client process."""
    import sys

    return ClientCommand(name=name, argv=(sys.executable, "-m", module, *arguments))
