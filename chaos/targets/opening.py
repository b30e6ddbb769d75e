"""The entry point: a target that can be started, with the watchdog that clears up should the runner die.

opened = await open_target(topology, run_dir=..., run_id=..., events=..., runs_dir=...)
try:
    await opened.target.start()
    ...
    left = await opened.target.stop()
finally:
    await opened.close()
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from chaos.errors import TargetError
from chaos.ports import Ports, hold_ports
from chaos.processes import become_subreaper
from chaos.roster import Roster
from chaos.targets.attached import AttachedTarget, attach_to
from chaos.targets.local import LocalTarget, ports_needed
from chaos.targets.target import Target
from chaos.targets.topology import Topology
from chaos.targets.upstate import UpState, find_up
from chaos.watchdog import Watchdog
from metrics.events import EventLog

Attach = Literal["auto", "never", "always"]


Driver_co = TypeVar("Driver_co", bound=Target, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTarget(Generic[Driver_co]):
    """A target with its watchdog; `roster` is where further processes of the run (load, prober) are registered."""

    target: Driver_co
    watchdog: Watchdog
    roster: Roster
    ports: Ports | None
    attached: bool

    async def close(self, *, in_order: bool = True) -> None:
        """Lets the watchdog go and releases the ports; to be called last, when the target has been stopped.

        Not `in_order`: nobody knows for sure that it has been, or what is left; the watchdog clears up then.
        """
        try:
            if isinstance(self.target, AttachedTarget):
                await self.target.detach()
            await self.watchdog.finish(in_order=in_order)
        finally:
            self.roster.close()
            if self.ports is not None:
                self.ports.release()


async def open_target(
    topology: Topology, *, run_dir: Path, run_id: str, events: EventLog, runs_dir: Path, attach: Attach = "auto"
) -> OpenTarget[Target]:
    """A target for one run: processes of its own, or the one that `holdfast up` holds for the same topology.

    `auto` uses a target that is up with the same overrides and otherwise starts its own; `always` insists.

    Raises:
        TargetError: no ports are free, the watchdog does not come up, or the target that is up cannot be used.
    """
    up = None if attach == "never" else find_up(topology.path, runs_dir)
    if up is not None and dict(up.overrides) != dict(topology.overrides):
        if attach == "always":
            raise TargetError(
                f"{topology.name} is up with the overrides {dict(up.overrides)}, this run wants "
                f"{dict(topology.overrides)}; start it again with `holdfast up --set ...`"
            )
        up = None
    if up is None and attach == "always":
        raise TargetError(f"{topology.path} is not up; start it with `holdfast up {topology.path}`")
    if up is not None:
        if up.digest != topology.digest:
            raise TargetError(f"{topology.path} has changed since `holdfast up` started it; start that again")
        if unmet := topology.requirement.unmet_by(up.requirement):
            raise TargetError(
                f"{topology.name} is up, but was started without what the faults need ({'; '.join(unmet)}): start it "
                "again with `holdfast up --for EXPERIMENT`, or end it and let the run start one of its own"
            )
        return await _attached(topology, up, run_dir=run_dir, run_id=run_id, events=events)
    return await open_own(topology, run_dir=run_dir, run_id=run_id, events=events)


async def open_own(topology: Topology, *, run_dir: Path, run_id: str, events: EventLog) -> OpenTarget[LocalTarget]:
    """A target of processes of our own, not started yet.

    Raises:
        TargetError: no ports are free, or the watchdog does not come up.
    """
    become_subreaper()
    ports = hold_ports(ports_needed(topology))
    roster = Roster(run_dir, run_id=run_id)
    try:
        watchdog = await Watchdog.start(roster, lock_fds=ports.lock_fds)
    except BaseException:
        roster.close()
        ports.release()
        raise
    target = LocalTarget(topology, roster=roster, ports=ports, events=events)
    return OpenTarget(target=target, watchdog=watchdog, roster=roster, ports=ports, attached=False)


async def _attached(
    topology: Topology, up: UpState, *, run_dir: Path, run_id: str, events: EventLog
) -> OpenTarget[AttachedTarget]:
    become_subreaper()
    roster = Roster(run_dir, run_id=run_id, socket=up.socket)
    try:
        watchdog = await Watchdog.start(roster)
    except BaseException:
        roster.close()
        raise
    try:
        target = await attach_to(topology, up, roster=roster, events=events)
    except BaseException:
        await watchdog.finish()
        roster.close()
        raise
    return OpenTarget(target=target, watchdog=watchdog, roster=roster, ports=None, attached=True)
