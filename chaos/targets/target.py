"""What the engine and the faults may do with a running system, whoever drives it.

    Topology (a file) -> Target (a driver) -> Instance (a process of a role)

`chaos.targets.local` starts processes of its own; `chaos.targets.attached` uses a target that `holdfast up` runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chaos.processes import Identity
from chaos.roster import Roster
from chaos.undo import Settings, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One process of a role: `portal-2`. Its port stays the same over restarts.

    An external instance has no process of ours: it is never signalled, started or stopped.
    """

    name: str
    role: str
    port: int
    zone: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    external: bool = False


class Target(Protocol):
    """A running system. Every wait inside has a limit; every failure is a `TargetError` naming cause and log."""

    @property
    def name(self) -> str:
        """The topology's name."""

    @property
    def run_id(self) -> str:
        """The run that uses it."""

    @property
    def url(self) -> str:
        """Where clients send their requests."""

    @property
    def roster(self) -> Roster:
        """Where a process that a fault starts itself is registered; its run's folder takes the log."""

    def instances(self, role: str | None = None) -> tuple[Instance, ...]:
        """All instances, or one role's, in the order of their numbers."""

    def identity(self, instance: str) -> Identity | None:
        """The process that is the instance now; None while it is not running."""

    def members(self, instance: str) -> tuple[Identity, ...]:
        """All living processes of the instance, in order of pid: its own and those it has started itself."""

    def output(self, reference: str) -> Any:
        """What a launcher reported, by `role.output`."""

    def address(self, reference: str) -> str:
        """The http address that a launcher reported, by `role.output`, if the topology allows its host."""

    async def start(self) -> None:
        """Brings every role up in order and waits until each is ready; nothing is left behind when that fails."""

    async def prepare(self) -> None:
        """Runs the topology's `prepare` commands."""

    async def start_instance(self, instance: str, *, env: Settings | None = None) -> Identity:
        """Starts a stopped instance and waits until it is ready; `env` also holds for its later starts."""

    async def stop_instance(self, instance: str) -> None:
        """Sends the role's stop signal, waits for the grace, then kills; returns when the process is gone."""

    async def expect_exit(self, instance: str, *, within_s: float) -> bool:
        """Marks the instance's end as intended and waits for it; whether it ended in time.

        Call it straight after sending the signal, with nothing awaited between: an end that is noticed before it is
        marked is written down as unexpected.
        """

    async def is_ready(self, instance: str) -> bool:
        """Asks the readiness check once, now."""

    async def version(self, instance: str) -> str | None:
        """The version the instance reports, where the role says how to ask; None otherwise."""

    async def observe(self, reading: str) -> float | str:
        """One of the topology's named readings, now."""

    async def act(self, action: str) -> None:
        """One of the topology's actions."""

    async def in_effect(self, action: str) -> tuple[bool, Mapping[str, Any]]:
        """Whether an action's effect shows now, and what was read; False where the topology names no effect."""

    def undo_of(self, action: str) -> tuple[Step, ...]:
        """What takes an action back, as undo steps; empty where the topology names nothing. Ask before acting."""

    async def wait_quiet(self, *, within_s: float) -> bool:
        """Waits for `quiet_when`; whether it came true in time. True at once where the topology has none."""

    async def dump(self, run_dir: Path) -> Mapping[str, str | int]:
        """Writes every final dump; name -> number of rows, or the text of what went wrong."""

    async def stop(self) -> tuple[str, ...]:
        """Stops everything this driver started and says what, against all efforts, is left."""
