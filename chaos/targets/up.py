"""A target held up in the foreground for runs to use: `holdfast up TARGET`.

It registers itself under `runs/up/<name>/` and answers on a socket: `attach`, `start`, `stop`, `ensure_started`.
When it dies, by whatever signal, its watchdog tears the target down.
"""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from chaos.errors import HoldfastError, TargetError, cannot_be_made
from chaos.processes import myself
from chaos.requirement import Requirement
from chaos.roster import boot_id
from chaos.targets.local import LocalTarget
from chaos.targets.opening import open_own
from chaos.targets.topology import Topology, load_topology
from chaos.targets.upstate import STATE_FILE, UpState, socket_of
from chaos.undo import Settings
from metrics.events import EventLog

_LINE_LIMIT_BYTES: Final = 1024 * 1024


async def up(
    topology_path: Path,
    overrides: Mapping[str, Any],
    runs_dir: Path,
    *,
    requirement: Requirement | None = None,
    on_up: Callable[[UpState], None] = lambda _state: None,
) -> tuple[str, ...]:
    """Starts a target and holds it until SIGINT or SIGTERM; `on_up` is told when it is ready. Gives what is left.

    `requirement` is what the faults of later runs need of it.

    Raises:
        ExperimentError: the topology cannot be used, or the folder not be made.
        TargetError: it cannot be started, or is up already.
    """
    topology = replace(load_topology(topology_path, overrides), requirement=requirement or Requirement())
    folder = runs_dir / "up" / topology.name
    # Signals are caught from here on: whenever one comes, what has been started is stopped in order.
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.set)
    try:
        with _bound(socket_of(_made(folder)), topology) as listening:
            return await _hold(topology, folder, listening, stop=stop, on_up=on_up)
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(signum)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_be_made(folder, error) from error
    return folder


def _bound(name: str, topology: Topology) -> socket.socket:
    """The socket of the target, which only one process can have."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(name)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise TargetError(f"{topology.name} is up already; `holdfast status` shows it") from error
        raise
    return listening


async def _hold(
    topology: Topology,
    folder: Path,
    listening: socket.socket,
    *,
    stop: asyncio.Event,
    on_up: Callable[[UpState], None],
) -> tuple[str, ...]:
    run_id = f"up-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    run_dir = _made(folder / run_id)
    events = EventLog(run_dir)
    opened = await open_own(topology, run_dir=run_dir, run_id=run_id, events=events)
    left: tuple[str, ...] = ()
    try:
        if await _unless(stop, opened.target.start()):
            holder = _Holder(opened.target, folder / STATE_FILE, listening.getsockname(), run_dir)
            server = await asyncio.start_unix_server(holder.serve, sock=listening, limit=_LINE_LIMIT_BYTES)
            async with server:
                on_up(holder.write())
                await _until(stop, opened.watchdog.lost())
                holder.hang_up()
            if not opened.watchdog.alive():
                raise TargetError(
                    f"the watchdog of {topology.name} has died, so the target was stopped; see {run_dir}/logs"
                )
    finally:
        (folder / STATE_FILE).unlink(missing_ok=True)
        left = await opened.target.stop()
        await opened.close()
        events.close()
    return left


async def _unless(stop: asyncio.Event, starting: Any) -> bool:
    """Waits for a start; False when `stop` came first and the start was given up."""
    task = asyncio.ensure_future(starting)
    await _until(stop, task)
    if task.done():
        await task
        return True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return False


async def _until(stop: asyncio.Event, other: Any) -> None:
    """Returns when `stop` is set or `other` is done; `other` is not cancelled."""
    stopping, task = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(other)
    try:
        await asyncio.wait({stopping, task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()


class _Holder:
    """Answers those who are attached; one run at a time, and only of the same user or root."""

    def __init__(self, target: LocalTarget, state_file: Path, socket_name: bytes | str, run_dir: Path) -> None:
        self._target = target
        self._state_file = state_file
        self._socket = socket_name.decode() if isinstance(socket_name, bytes) else socket_name
        self._run_dir = run_dir
        self._attached: str | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def write(self) -> UpState:
        """Writes down what is up now."""
        system = self._target.system
        state = UpState(
            name=self._target.name,
            topology=system.topology.path,
            overrides=system.topology.overrides,
            digest=system.topology.digest,
            holder=myself(),
            boot=boot_id(),
            socket=self._socket,
            run_dir=self._run_dir,
            url=self._target.url,
            instances=self._instances(),
            outputs=system.outputs,
            requirement=system.topology.requirement,
        )
        state.write(self._state_file)
        return state

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: a JSON object a line, one answer each."""
        lease: str | None = None
        self._writers.add(writer)
        try:
            if not _may_ask(writer):
                return
            while line := await reader.readline():
                question = json.loads(line)
                try:
                    answer = await self._answer(question)
                    if question["ask"] == "attach":
                        lease = question["run_id"]
                except (HoldfastError, OSError) as error:
                    answer = {"error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            # Whoever asked has died; what it asked for has been done all the same.
            return
        finally:
            if lease is not None:
                self._attached = None
            self._writers.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        """Ends every connection, so that none outlives the server."""
        for writer in self._writers:
            writer.close()

    async def _answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        match question["ask"]:
            case "attach":
                if self._attached is not None:
                    raise TargetError(f"the run {self._attached} uses {self._target.name} now; wait for its end")
                self._attached = question["run_id"]
                return {"instances": self._instances(), "outputs": self._target.system.outputs}
            case "start":
                return await self._start(question["instance"], question["env"])
            case "ensure_started":
                await self._target.ensure_started(question["instance"], env=question["env"])
                self.write()
                return {}
            case "stop":
                await self._target.stop_instance(question["instance"])
                self.write()
                return {}
        raise TargetError(f"the target that is up cannot be asked to {question['ask']!r}; is it of another version?")

    async def _start(self, instance: str, env: Settings) -> dict[str, Any]:
        identity = await self._target.start_instance(instance, env=env)
        self.write()
        return {
            "pid": identity.pid,
            "start_ticks": identity.start_ticks,
            "outputs": self._target.system.outputs,
        }

    def _instances(self) -> dict[str, dict[str, Any]]:
        found = {}
        for it in self._target.instances():
            identity = self._target.identity(it.name)
            found[it.name] = {
                "port": it.port,
                "ports": dict(it.ports),
                "zone": it.zone,
                "pid": identity.pid if identity else None,
                "start_ticks": identity.start_ticks if identity else None,
            }
        return found


def _may_ask(writer: asyncio.StreamWriter) -> bool:
    """Whether the other side is the same user, or root: anybody can connect to an abstract socket."""
    connection = writer.get_extra_info("socket")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", peer)
    return uid in {0, os.getuid()}
