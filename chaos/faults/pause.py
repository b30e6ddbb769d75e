"""SIGSTOP: an instance hangs; its sockets stay open and nothing answers, the hardest failure to notice."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.restart import restart_missing, who_runs
from chaos.faults.victims import Victims
from chaos.processes import alive, send, state
from chaos.undo import Step, signal_step
from metrics.units import PositiveSeconds


@FAULTS.register("pause")
@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Victims):
    """Stop instances with SIGSTOP `for` a while and let them go on with SIGCONT."""

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "count": 1, "for": "3s"}

    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the instances go on."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as they are stopped."""
        return self.for_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Let each process go on, known by pid and start time."""
        return [signal_step(identity, signal.SIGCONT) for identity in who_runs(scene).values()]

    async def inject(self, scene: Scene) -> None:
        """Sends SIGSTOP to all at once."""
        for identity in who_runs(scene).values():
            send(identity, signal.SIGSTOP)

    async def effect(self, scene: Scene) -> Proof:
        """Every process is in the state `T` of the kernel."""
        states = _states(scene)
        return Proof(proven=set(states.values()) == {"T"}, evidence={"states": states})

    async def heal(self, scene: Scene) -> None:
        """Sends SIGCONT; an instance that ended meanwhile is started."""
        for identity in scene.before.values():
            if identity is not None and alive(identity):
                send(identity, signal.SIGCONT)
        await restart_missing(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """No process is stopped and every instance is ready."""
        stopped = {name: value for name, value in _states(scene).items() if value == "T"}
        ready = [] if stopped else [name for name in scene.instances if await scene.target.is_ready(name)]
        return Proof(
            proven=not stopped and len(ready) == len(scene.instances),
            evidence={"states": _states(scene), "ready": ready},
        )


def _states(scene: Scene) -> dict[str, str | None]:
    return {name: None if identity is None else state(identity) for name, identity in scene.before.items()}
