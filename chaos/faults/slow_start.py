"""A slow start: an instance is asked to end, and its next process is held still for a time before it gets ready.

    stopped -> spawned -> SIGSTOP  ------ by 3 s ------  SIGCONT -> ready

What a cold cache, a slow disk or a busy image registry does to a start; whoever waits for readiness waits longer.
"""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.freezing import states_of
from chaos.faults.restart import restart_missing, restart_steps, restarted, who_runs
from chaos.faults.victims import Victims
from chaos.processes import Identity, send, state
from chaos.undo import Step, signal_step
from metrics.units import PositiveSeconds

_HELD: Final = "held"
_SPAWN_LIMIT_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.002


@FAULTS.register("slow_start")
@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStart(Victims):
    """Stop instances, and make the start that follows take `by` longer.

    They are not served by anybody meanwhile. A start that takes longer than the role's readiness allows fails, as it
    would without us; healing then starts the instance once more.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "count": 1, "by": "3s"}

    by_s: Annotated[PositiveSeconds, Field(alias="by", le=600)] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the new processes may go on."""
        return self.by_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as the starts are held up; stopping and the rest of a start are not known beforehand."""
        return self.by_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Let the new processes go on, those that are known; then have every instance started."""
        known = [identity for start in _starts(scene).values() for identity in start.processes]
        # Carried out from the last to the first: nothing gets ready while it is stopped.
        return [*restart_steps(scene), *(signal_step(identity, signal.SIGCONT) for identity in known)]

    async def inject(self, scene: Scene) -> None:
        """Stops all, starts all, and stops each new process as soon as there is one."""
        who_runs(scene)
        scene.notes[_HELD] = {name: _Start() for name in scene.instances}
        await asyncio.gather(*(scene.target.stop_instance(name) for name in scene.instances))
        await asyncio.gather(*(self._start_and_hold(scene, name) for name in scene.instances))

    async def effect(self, scene: Scene) -> Proof:
        """The processes that ran before are gone, those in their place are stopped and were never ready."""
        starts = _starts(scene)
        states = {name: states_of(start.processes) for name, start in starts.items()}
        waiting = [name for name, start in starts.items() if start.task is not None and not start.task.done()]
        held = [name for name in waiting if set(states[name].values()) == {"T"}]
        replaced = all(before not in starts[name].processes for name, before in scene.before.items() if name in starts)
        proven = bool(starts) and held == list(scene.instances) and replaced
        return Proof(proven=proven, evidence={"states": states, "not_ready": waiting})

    async def heal(self, scene: Scene) -> None:
        """Lets all go on and awaits their starts; whoever does not run then is started."""
        failures = []
        for start in _starts(scene).values():
            try:
                start.let_go()
            except TargetError as error:  # all are told; one that must not be does not keep the others stopped
                failures.append(error)
        for start in _starts(scene).values():
            await start.end()
        await restart_missing(scene)
        if failures:
            raise failures[0]

    async def heal_proof(self, scene: Scene) -> Proof:
        """No process is stopped, every instance is ready; with how long each start took."""
        starts = _starts(scene)
        stopped = [it.pid for start in starts.values() for it in start.processes if state(it) == "T"]
        ready = await restarted(scene) if not stopped else Proof(proven=False, evidence={"stopped": stopped})
        took_s = {name: start.took_s for name, start in starts.items() if start.took_s is not None}
        return Proof(proven=ready.proven, evidence={**ready.evidence, "start_took_s": took_s})

    async def _start_and_hold(self, scene: Scene, name: str) -> None:
        start = _starts(scene)[name]
        start.began_s = asyncio.get_running_loop().time()
        start.task = asyncio.create_task(_timed(scene, name, start))
        deadline_s = start.began_s + _SPAWN_LIMIT_S
        while not (found := _new_processes(scene, name)):
            if start.task.done() or asyncio.get_running_loop().time() > deadline_s:
                await start.end()
                raise TargetError(f"{name}: no process was seen to start; {start.failure or 'see its log in logs/'}")
            await asyncio.sleep(_LOOK_EVERY_S)
        # A stopped process starts no further ones: what is found once all are stopped is all there is.
        while new := [identity for identity in found if identity not in start.processes]:
            start.processes += new
            scene.record(self.undo_steps(scene))
            for identity in new:
                send(identity, signal.SIGSTOP)
            scene.took_hold()
            found = list(scene.target.members(name))


@dataclass(slots=True, kw_only=True)
class _Start:
    """The start of one instance that is held up."""

    task: "asyncio.Task[None] | None" = None
    processes: list[Identity] = field(default_factory=list)
    began_s: float = 0.0
    took_s: float | None = None
    failure: str | None = None

    def let_go(self) -> None:
        for identity in self.processes:
            send(identity, signal.SIGCONT)

    async def end(self) -> None:
        """Returns when the start has succeeded or failed; its driver limits it."""
        if self.task is not None:
            await asyncio.wait({self.task})


async def _timed(scene: Scene, name: str, start: _Start) -> None:
    try:
        await scene.target.start_instance(name)
    except TargetError as error:
        start.failure = str(error)
    else:
        start.took_s = round(asyncio.get_running_loop().time() - start.began_s, 3)


def _new_processes(scene: Scene, name: str) -> list[Identity]:
    """The instance's processes as soon as there are any; a driver that starts by asking learns of them late."""
    identity = scene.target.identity(name)
    return [identity] if identity is not None else list(scene.target.members(name))


def _starts(scene: Scene) -> dict[str, _Start]:
    starts: dict[str, _Start] = scene.notes.get(_HELD, {})
    return starts
