"""The driver for a target that `holdfast up` holds: the same faults, but it stays up when the run ends.

Signals go straight to the instances' processes, which are known by pid and start time. Starting and stopping is asked
of the holder, whose children they are, over its socket: one JSON object a line, one answer each.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from chaos.errors import TargetError
from chaos.leftovers import end_run, members_of
from chaos.processes import Identity, alive
from chaos.roster import READY_FOLDER, Roster
from chaos.targets.commands import Commands
from chaos.targets.local import read_version
from chaos.targets.observing import observe
from chaos.targets.readiness import check_ready
from chaos.targets.system import System
from chaos.targets.target import Instance
from chaos.targets.topology import Topology
from chaos.targets.upstate import UpState
from chaos.undo import Settings, Step
from metrics.events import EventLog

_CONNECT_LIMIT_S: Final = 2.0
_SLACK_S: Final = 10.0
_LINE_LIMIT_BYTES: Final = 1024 * 1024


class Line:
    """A connection to the holder of a target."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, socket: str) -> "Line":
        """A new connection.

        Raises:
            TargetError: nobody holds the target any more.
        """
        try:
            opening = asyncio.open_unix_connection(socket, limit=_LINE_LIMIT_BYTES)
            return cls(*await asyncio.wait_for(opening, _CONNECT_LIMIT_S))
        except OSError as error:
            raise TargetError("the target that was up is gone; start it again with `holdfast up`") from error

    async def ask(self, *, within_s: float, **question: Any) -> dict[str, Any]:
        """The holder's answer.

        Raises:
            TargetError: what the holder says went wrong, or that it has gone.
        """
        self._writer.write(json.dumps(question).encode() + b"\n")
        try:
            async with asyncio.timeout(within_s):
                await self._writer.drain()
                line = await self._reader.readline()
        except TimeoutError as error:
            raise TargetError(f"the target that is up did not answer within {within_s:g} s: {question}") from error
        except OSError as error:
            raise TargetError(f"the target that was up is gone: {error}") from error
        if not line:
            raise TargetError("the target that was up is gone; start it again with `holdfast up`")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TargetError(answer["error"])
        return answer

    async def close(self) -> None:
        """Hangs up."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


async def attach_to(topology: Topology, up: UpState, *, roster: Roster, events: EventLog) -> "AttachedTarget":
    """A hold on the target that is up, for one run at a time.

    Raises:
        TargetError: it is gone, or another run is attached.
    """
    line = await Line.open(up.socket)
    try:
        state = await line.ask(ask="attach", run_id=roster.run_id, within_s=_CONNECT_LIMIT_S)
    except BaseException:
        await line.close()
        raise
    return AttachedTarget(topology, up, line=line, state=state, roster=roster, events=events)


class AttachedTarget:
    """A target that somebody else holds up; see `chaos.targets.target.Target`."""

    def __init__(
        self, topology: Topology, up: UpState, *, line: Line, state: dict[str, Any], roster: Roster, events: EventLog
    ) -> None:
        self._topology = topology
        self._up = up
        self._line = line
        self._roster = roster
        self._events = events
        self._identities: dict[str, Identity | None] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._expected: set[str] = set()
        instances = {}
        for planned in topology.instances():
            known = state["instances"][planned.name]
            instances[planned.name] = Instance(
                name=planned.name,
                role=planned.role,
                port=known["port"],
                ports=known["ports"],
                zone=planned.zone,
                external=planned.external,
            )
        self._system = System(topology, run_dir=roster.run_dir, instances=instances)
        self._system.outputs = state["outputs"]
        self._commands = Commands(self._system, roster, self._running_now)
        for name, known in state["instances"].items():
            if known["pid"] is not None:
                self._follow(name, Identity(pid=known["pid"], start_ticks=known["start_ticks"]))

    @property
    def name(self) -> str:
        """The topology's name."""
        return self._topology.name

    @property
    def run_id(self) -> str:
        """The run that uses it."""
        return self._roster.run_id

    @property
    def url(self) -> str:
        """Where clients send their requests."""
        return self._system.url(self._topology.file.url)

    @property
    def roster(self) -> Roster:
        """Where a process that a fault starts itself is registered."""
        return self._roster

    def instances(self, role: str | None = None) -> tuple[Instance, ...]:
        """All instances, or one role's, in the order of their numbers."""
        return self._system.instances(role)

    def identity(self, instance: str) -> Identity | None:
        """The process that is the instance now; None while it is not running."""
        self._system.instance(instance)
        identity = self._identities.get(instance)
        return identity if identity is not None and alive(identity) else None

    def members(self, instance: str) -> tuple[Identity, ...]:
        """All living processes of the instance, in order of pid: its own and those it has started itself."""
        self._system.instance(instance)
        return members_of(self._up.run_dir, instance)

    def output(self, reference: str) -> Any:
        """What a launcher reported, by `role.output`."""
        return self._system.output(reference)

    def address(self, reference: str) -> str:
        """The http address that a launcher reported, by `role.output`, if the topology allows its host."""
        return self._system.url(reference)

    async def start(self) -> None:
        """Sees that everything is up and ready; what an earlier run left down is started."""
        for instance in self._system.instances():
            role = self._system.role(instance)
            if role.task:
                continue
            if not instance.external and self.identity(instance.name) is None:
                await self.start_instance(instance.name)
            elif not await self.is_ready(instance.name):
                raise TargetError(f"{instance.name} of the target that is up is not ready; see {self._up.run_dir}/logs")

    async def prepare(self) -> None:
        """Runs the topology's `prepare` commands."""
        await self._commands.prepare()

    async def start_instance(self, instance: str, *, env: Settings | None = None) -> Identity:
        """Has a stopped instance started and waits until it is ready; `env` also holds for its later starts."""
        ready = self._system.role(self._system.instance(instance)).ready
        within_s = (ready.within if ready is not None else 30.0) + _SLACK_S
        answer = await self._ask(ask="start", instance=instance, env=dict(env or {}), within_s=within_s)
        identity = Identity(pid=answer["pid"], start_ticks=answer["start_ticks"])
        self._system.outputs = answer["outputs"]
        port = self._system.instance(instance).port
        self._events.append(
            "instance.started", instance=instance, pid=identity.pid, start_ticks=identity.start_ticks, port=port
        )
        self._events.append("instance.ready", instance=instance)
        self._follow(instance, identity)
        return identity

    async def stop_instance(self, instance: str) -> None:
        """Has the instance stopped: asked, then killed after its grace; returns when the process is gone."""
        grace_s = self._system.role(self._system.instance(instance)).stop.grace
        self._expected.add(instance)
        await self._ask(ask="stop", instance=instance, within_s=grace_s + _SLACK_S)
        if instance in self._watches:
            await self._watches[instance]

    async def expect_exit(self, instance: str, *, within_s: float) -> bool:
        """Marks the instance's end as intended and waits for it; whether it ended in time."""
        self._system.instance(instance)
        self._expected.add(instance)
        watch = self._watches.get(instance)
        if watch is None:
            return True
        done, _ = await asyncio.wait({watch}, timeout=within_s)
        return bool(done)

    async def is_ready(self, instance: str) -> bool:
        """Asks the readiness check once, now."""
        it = self._system.instance(instance)
        if not it.external and self.identity(instance) is None:
            return False
        return await check_ready(self._system, it, self._up.run_dir / READY_FOLDER / f"{instance}.json") is None

    async def version(self, instance: str) -> str | None:
        """The version the instance reports, where the role says how to ask; None otherwise."""
        return await read_version(self._system, instance)

    async def observe(self, reading: str) -> float | str:
        """One of the topology's named readings, now."""
        return await observe(self._system, reading, running=self._running_now())

    async def act(self, action: str) -> None:
        """One of the topology's actions."""
        await self._commands.act(action)

    async def in_effect(self, action: str) -> tuple[bool, Mapping[str, Any]]:
        """See `Target.in_effect`."""
        return await self._commands.in_effect(action)

    def undo_of(self, action: str) -> tuple[Step, ...]:
        """What takes an action back, as undo steps."""
        return self._commands.undo_of(action)

    async def wait_quiet(self, *, within_s: float) -> bool:
        """Waits for `quiet_when`; whether it came true in time. True at once where the topology has none."""
        return await self._commands.wait_quiet(within_s=within_s)

    async def dump(self, run_dir: Path) -> Mapping[str, str | int]:
        """Writes every final dump; name -> number of rows, or the text of what went wrong."""
        return await self._commands.dump(run_dir)

    async def stop(self) -> tuple[str, ...]:
        """Leaves the target up; ends what this run itself has started, and says what of it is left."""
        left = end_run(self._roster.run_dir)
        await self._system.close()
        return left

    async def detach(self) -> None:
        """Gives the target free for another run."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        await self._line.close()

    async def _ask(self, *, within_s: float, **question: Any) -> dict[str, Any]:
        # A connection for each question: several instances may be started at once.
        line = await Line.open(self._up.socket)
        try:
            return await line.ask(within_s=within_s, **question)
        finally:
            await line.close()

    def _running_now(self) -> tuple[Instance, ...]:
        return tuple(it for it in self._system.instances() if it.external or self.identity(it.name) is not None)

    def _follow(self, instance: str, identity: Identity) -> None:
        self._identities[instance] = identity
        self._expected.discard(instance)
        self._watches[instance] = asyncio.create_task(self._watch(instance, identity))

    async def _watch(self, instance: str, identity: Identity) -> None:
        """Writes down the end of an instance's process; whose exit status only the holder learns."""
        await gone(identity)
        expected = instance in self._expected
        # Whoever awaits this wants to know the process gone; whoever ends the run meets the full disk all the same.
        with suppress(OSError):
            self._events.append("instance.exited", instance=instance, returncode=None, expected=expected)


async def gone(identity: Identity) -> None:
    """Returns when a process, which need not be ours, has ended."""
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if not alive(identity):
            return
        loop.add_reader(fd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
