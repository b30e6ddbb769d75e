"""The driver that starts a system as processes of this machine, and leaves nothing of it behind.

Topology -> start: roles as soon as what they need is ready -> instances, each with port, log, data folder
            stop: the other way round, asked, then killed; then everything that belongs to the run
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.errors import TargetError
from chaos.leftovers import end_run, members_of
from chaos.ports import Ports
from chaos.processes import (
    INSTANCE_MARK,
    Identity,
    Process,
    freeze,
    own_environment,
    send,
    settings_of,
    spawn,
    state,
)
from chaos.roster import CHILD, READY_FOLDER, Roster
from chaos.signals import named
from chaos.targets.commands import Commands, argv_of, ending, last_lines, sweep
from chaos.targets.observing import observe
from chaos.targets.readiness import check_ready
from chaos.targets.system import System
from chaos.targets.target import Instance
from chaos.targets.templates import expand
from chaos.targets.topology import Topology
from chaos.undo import Settings, Step
from metrics.events import EventLog

READY_POLL_S: Final = 0.015
RUNNING_FOR_S: Final = 0.2
"""An instance without any check counts as ready when it has run for this long."""
ABORT_GRACE_S: Final = 1.0
_KILL_LIMIT_S: Final = 5.0
_FREEZE_LIMIT_S: Final = 0.3


@dataclass(slots=True, kw_only=True)
class _Running:
    """A process that is an instance now; `expected` once its end is intended, `ready` once it has been ready."""

    process: Process
    watch: "asyncio.Task[None]"
    expected: bool = False
    ready: bool = False


@dataclass(slots=True, kw_only=True)
class _Seat:
    """An instance and what happens to it over its restarts."""

    instance: Instance
    env: dict[str, str | None] = field(default_factory=dict)
    running: _Running | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


def allot(topology: Topology, ports: Ports) -> dict[str, Instance]:
    """Every instance with its ports; an external one has the port of its address."""
    return {planned.name: _seated(topology, planned, ports) for planned in topology.instances()}


def ports_needed(topology: Topology) -> int:
    """How many ports the instances of a topology take."""
    return sum(role.count * (1 + len(role.ports)) for role in topology.roles.values() if not role.external)


def _seated(topology: Topology, planned: Instance, ports: Ports) -> Instance:
    from dataclasses import replace
    from urllib.parse import urlsplit

    role = topology.roles[planned.role]
    if role.external:
        address = urlsplit(role.url or "")
        return replace(planned, port=address.port or (443 if address.scheme == "https" else 80))
    return replace(planned, port=ports.take(), ports={name: ports.take() for name in role.ports})


class LocalTarget:
    """A system of processes that this driver starts; see `chaos.targets.target.Target`."""

    def __init__(self, topology: Topology, *, roster: Roster, ports: Ports, events: EventLog) -> None:
        self._topology = topology
        self._roster = roster
        self._events = events
        self._seats = {name: _Seat(instance=it) for name, it in allot(topology, ports).items()}
        instances = {name: seat.instance for name, seat in self._seats.items()}
        self._system = System(topology, run_dir=roster.run_dir, instances=instances)
        self._commands = Commands(self._system, roster, self._running_now)
        self._stopped = False

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
    def system(self) -> System:
        """What is known of the running system."""
        return self._system

    @property
    def roster(self) -> Roster:
        """Where a process that a fault starts itself is registered."""
        return self._roster

    def instances(self, role: str | None = None) -> tuple[Instance, ...]:
        """All instances, or one role's, in the order of their numbers."""
        return self._system.instances(role)

    def identity(self, instance: str) -> Identity | None:
        """The process that is the instance now; None while it is not running."""
        running = self._seat(instance).running
        return running.process.identity if running and running.process.poll() is None else None

    def members(self, instance: str) -> tuple[Identity, ...]:
        """All living processes of the instance, in order of pid: its own and those it has started itself."""
        self._system.instance(instance)
        return members_of(self._roster.run_dir, instance)

    def output(self, reference: str) -> Any:
        """What a launcher reported, by `role.output`."""
        return self._system.output(reference)

    def address(self, reference: str) -> str:
        """The http address that a launcher reported, by `role.output`, if the topology allows its host."""
        return self._system.url(reference)

    async def start(self) -> None:
        """Brings every role up, each as soon as what it needs is ready; nothing is left behind when that fails."""
        try:
            await self._start_roles()
        except BaseException:
            await self._stop(grace_limit_s=ABORT_GRACE_S)
            raise

    async def prepare(self) -> None:
        """Runs the topology's `prepare` commands."""
        await self._commands.prepare()

    async def start_instance(self, instance: str, *, env: Settings | None = None) -> Identity:
        """Starts a stopped instance on its port and waits until it is ready; `env` also holds for later starts."""
        seat = self._seat(instance)
        async with seat.turn:
            if self.identity(instance) is not None:
                raise TargetError(f"{instance} runs already; stop it first")
            return await self._start(seat, env or {})

    async def ensure_started(self, instance: str, *, env: Settings | None = None) -> None:
        """Starts an instance unless it runs; one that runs with other settings than `env` is replaced.

        One that is just being stopped or started is awaited first.
        """
        seat = self._seat(instance)
        async with seat.turn:
            identity = self.identity(instance)
            if identity is not None and env and settings_of(identity, env) != dict(env):
                await self._end(seat, grace_s=self._grace(seat, None))
            if self.identity(instance) is None:
                await self._start(seat, env or {})

    async def _start(self, seat: _Seat, env: Settings) -> Identity:
        name = seat.instance.name
        await self._settle(seat)
        # A child that outlived the last process of the instance may still hold its port or its data.
        sweep(self._roster, name)
        seat.env.update(env)
        running = self._spawn(seat)
        try:
            await self._await_ready(seat, running)
            running.ready = True
            self._register_children(name, running.process.identity)
        except BaseException:
            running.expected = True
            await self._end(seat, grace_s=0)
            raise
        return running.process.identity

    async def stop_instance(self, instance: str) -> None:
        """Sends the role's stop signal, waits for the grace, then kills; returns when the process is gone."""
        seat = self._seat(instance)
        async with seat.turn:
            await self._end(seat, grace_s=self._system.role(seat.instance).stop.grace)

    async def expect_exit(self, instance: str, *, within_s: float) -> bool:
        """Marks the instance's end as intended and waits for it; whether it ended in time."""
        seat = self._seat(instance)
        if seat.running is None:
            return True
        seat.running.expected = True
        done, _ = await asyncio.wait({seat.running.watch}, timeout=within_s)
        return bool(done)

    async def is_ready(self, instance: str) -> bool:
        """Asks the readiness check once, now."""
        seat = self._seat(instance)
        if not seat.instance.external and self.identity(instance) is None:
            return False
        return await check_ready(self._system, seat.instance, self._ready_file(instance)) is None

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
        """Stops everything in the reverse order of its start, and says what, against all efforts, is left."""
        return await self._stop(grace_limit_s=None)

    def _seat(self, instance: str) -> _Seat:
        self._system.instance(instance)
        return self._seats[instance]

    def _running_now(self) -> tuple[Instance, ...]:
        return tuple(it for it in self._system.instances() if it.external or self.identity(it.name) is not None)

    def _ready_file(self, instance: str) -> Path:
        return self._roster.run_dir / READY_FOLDER / f"{instance}.json"

    async def _start_roles(self) -> None:
        up = {name: asyncio.Event() for name in self._topology.roles}
        needs = self._topology.needs()

        async def bring_up(role: str) -> None:
            for needed in sorted(needs[role]):
                await up[needed].wait()
            async with asyncio.TaskGroup() as group:
                for instance in self._system.instances(role):
                    group.create_task(self._bring_up(instance))
            up[role].set()

        try:
            async with asyncio.TaskGroup() as group:
                for role in self._topology.roles:
                    group.create_task(bring_up(role))
        except BaseExceptionGroup as failures:
            first = _first(failures)
            raise first from first.__cause__

    async def _bring_up(self, instance: Instance) -> None:
        role = self._system.role(instance)
        if role.external:
            await self._await_external(instance)
        elif role.task:
            await self._run_task(instance)
        else:
            await self.start_instance(instance.name)

    def _spawn(self, seat: _Seat) -> _Running:
        if self._stopped:
            raise TargetError(f"{seat.instance.name} is not started: {self.name} has been stopped")
        instance, role = seat.instance, self._system.role(seat.instance)
        data_dir = self._roster.run_dir / "data" / instance.name
        ready_file = self._ready_file(instance.name)
        for folder in (data_dir, ready_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        # What an earlier process reported must not count for this one.
        ready_file.unlink(missing_ok=True)
        look_up = self._system.look_up_for(instance, data_dir)
        needed = self._topology.requirement
        settings = {
            **own_environment(),
            **{key: expand(value, look_up) for key, value in role.env.items()},
            **{key: expand(value, look_up) for key, value in needed.env.get(instance.role, {}).items()},
            **seat.env,
        }
        wrap = [expand(part, look_up) for command in needed.wrap.get(instance.role, ()) for part in command]
        env = {
            **{key: value for key, value in settings.items() if value is not None},
            INSTANCE_MARK: instance.name,
            "HOLDFAST_PORT": str(instance.port),
            **{f"HOLDFAST_PORT_{name.upper().replace('-', '_')}": str(port) for name, port in instance.ports.items()},
            "HOLDFAST_ZONE": instance.zone or "",
            "HOLDFAST_READY_FILE": str(ready_file),
            "HOLDFAST_DATA_DIR": str(data_dir),
        }
        self._roster.stop_signals[instance.name] = role.stop.signal
        process = spawn(
            [*wrap, *argv_of(self._system, [expand(part, look_up) for part in role.command or []])],
            env=env,
            cwd=self._topology.folder / expand(role.cwd, look_up),
            log=self._log(instance.name),
            name=instance.name,
            registrar=self._roster,
        )
        identity = process.identity
        self._events.append(
            "instance.started",
            instance=instance.name,
            pid=identity.pid,
            start_ticks=identity.start_ticks,
            port=instance.port,
        )
        running = _Running(process=process, watch=asyncio.create_task(self._watch(seat, process)))
        seat.running = running
        return running

    def _register_children(self, instance: str, identity: Identity) -> None:
        """Writes down what an instance has started itself: should it be killed, its children are known as its own."""
        for member in members_of(self._roster.run_dir, instance):
            if member != identity:
                self._roster.add(f"{instance}{CHILD}", member)

    def _log(self, instance: str) -> Path:
        return self._roster.run_dir / "logs" / f"{instance}.log"

    async def _watch(self, seat: _Seat, process: Process) -> None:
        """Writes down the end of a process, whether it was intended or not."""
        returncode = await process.wait()
        expected = seat.running is not None and seat.running.expected
        # Whoever awaits this wants to know the process gone; whoever ends the run meets the full disk all the same.
        with suppress(OSError):
            self._events.append(
                "instance.exited", instance=seat.instance.name, returncode=returncode, expected=expected
            )

    async def _await_ready(self, seat: _Seat, running: _Running) -> None:
        """Polls the readiness check until it holds.

        Raises:
            TargetError: the process ended, or was not ready in time; with the end of its log.
        """
        name, role = seat.instance.name, self._system.role(seat.instance)
        checked = role.ready is not None or seat.instance.role in self._topology.file.outputs
        within_s = role.ready.within if role.ready is not None else 30.0
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            if running.watch.done():
                raise TargetError(
                    f"{name} {ending(running.process.poll() or 0)} before it was ready; {last_lines(self._log(name))}"
                )
            missing = (
                await check_ready(self._system, seat.instance, self._ready_file(name))
                if checked
                else ("it has not run for a moment" if loop.time() - started < RUNNING_FOR_S else None)
            )
            if missing is None and not running.watch.done():
                break
            if loop.time() - started > within_s:
                raise TargetError(
                    f"{name} was not ready within {within_s:g} s: {missing}; {last_lines(self._log(name))}"
                )
            await asyncio.wait({running.watch}, timeout=READY_POLL_S)
        self._events.append("instance.ready", instance=name)

    async def _await_external(self, instance: Instance) -> None:
        role = self._system.role(instance)
        within_s = role.ready.within if role.ready is not None else 0.0
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while (missing := await check_ready(self._system, instance, self._ready_file(instance.name))) is not None:
            if loop.time() >= deadline:
                raise TargetError(f"{instance.name}, which others run, was not ready within {within_s:g} s: {missing}")
            await asyncio.sleep(READY_POLL_S)
        self._events.append("instance.ready", instance=instance.name)

    async def _run_task(self, instance: Instance) -> None:
        """Runs a task role to its end."""
        seat = self._seats[instance.name]
        within_s = self._system.role(instance).within
        async with seat.turn:
            running = self._spawn(seat)
            running.expected = True
            try:
                await asyncio.wait({running.watch}, timeout=within_s)
                returncode = running.process.poll()
            finally:
                await self._end(seat, grace_s=0)
        if returncode != 0:
            what = f"did not finish within {within_s:g} s" if returncode is None else ending(returncode)
            raise TargetError(f"{instance.name} {what}; {last_lines(self._log(instance.name))}")
        if instance.role in self._topology.file.outputs:
            missing = await check_ready(self._system, instance, self._ready_file(instance.name))
            if missing is not None:
                raise TargetError(f"{instance.name} ended, but {missing}; {last_lines(self._log(instance.name))}")

    async def _end(self, seat: _Seat, *, grace_s: float) -> None:
        """Ends an instance: asked, then killed, with everything it started."""
        running = seat.running
        if running is None:
            return
        running.expected = True
        known = self._tree(seat, running)
        if not running.watch.done() and grace_s > 0:
            self._ask_to_end(seat, running)
            await asyncio.wait({running.watch}, timeout=grace_s)
        sweep(self._roster, seat.instance.name, known=known)
        await asyncio.wait({running.watch}, timeout=_KILL_LIMIT_S)
        await self._settle(seat)

    def _ask_to_end(self, seat: _Seat, running: _Running) -> None:
        identity = running.process.identity
        send(identity, named(self._system.role(seat.instance).stop.signal))
        if state(identity) == "T":
            # A stopped process takes no other signal before it may go on.
            send(identity, named("CONT"))

    def _tree(self, seat: _Seat, running: _Running) -> tuple[Identity, ...]:
        """What an instance consists of: while the parent lives its children are still known as such.

        One that never became ready may just be starting children, so it is held still meanwhile.
        """

        def find() -> tuple[Identity, ...]:
            return members_of(self._roster.run_dir, seat.instance.name)

        return find() if running.ready else freeze(find, within_s=_FREEZE_LIMIT_S)

    async def _settle(self, seat: _Seat) -> None:
        """Lets the watch of an ended process write its line.

        Raises:
            TargetError: it has not ended: it hangs in the kernel.
        """
        running = seat.running
        if running is None:
            return
        if not running.watch.done() and running.process.poll() is None:
            raise TargetError(f"{seat.instance.name} (process {running.process.pid}) does not end, even when killed")
        await running.watch
        seat.running = None

    async def _stop(self, *, grace_limit_s: float | None) -> tuple[str, ...]:
        # A start that waits for its turn must not come after the stop.
        self._stopped = True
        left: list[str] = []
        known = members_of(self._roster.run_dir)
        try:
            for level in reversed(self._topology.levels()):
                seats = [seat for seat in self._seats.values() if seat.instance.role in level]
                ends = [self._end(seat, grace_s=self._grace(seat, grace_limit_s)) for seat in seats]
                results = await asyncio.gather(*ends, return_exceptions=True)
                left += [str(it) for it in results if isinstance(it, TargetError)]
                broken = next((it for it in results if isinstance(it, BaseException)), None)
                if broken is not None and not isinstance(broken, TargetError):
                    raise broken
        finally:
            # Also when we are cancelled once more: this takes no turn of the event loop.
            left += end_run(self._roster.run_dir, known=known)
            await self._system.close()
        return tuple(left)

    def _grace(self, seat: _Seat, limit_s: float | None) -> float:
        grace_s = self._system.role(seat.instance).stop.grace
        return grace_s if limit_s is None else min(grace_s, limit_s)


async def read_version(system: System, instance: str) -> str | None:
    """The version an instance reports, where its role says how to ask; None otherwise."""
    it = system.instance(instance)
    rule = system.role(it).version
    if rule is None:
        return None
    return str(await system.ask_json(system.base_url(it, rule.port) + rule.http, rule.field))


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain failure in a tree of them."""
    inner: BaseException = failures
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
