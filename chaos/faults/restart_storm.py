"""A restart storm: many instances restart within seconds of each other, and nobody waits for anybody to be ready.

What a hasty operator, a crashing dependency or a scheduler does: all of them connect, warm up and take work at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from chaos.faults.cycling import Cycle, calm, calm_down, kill_whole, seen, stop_whole
from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.restart import restart_steps
from chaos.faults.victims import Victims
from chaos.undo import Step
from metrics.units import PositiveSeconds, Seconds


@FAULTS.register("restart_storm")
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartStorm(Victims):
    """Restart instances one shortly after the other, all `within` a time, again and again `for` a while.

    Each is asked to end, or killed (`how: kill`), started again at once, and restarted anew when it has been `up` for
    that long; with `times` so often at most.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "all": True, "within": "200ms", "for": "3s"}

    within_s: Annotated[Seconds, Field(alias="within")] = 1.0
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 10.0
    up_s: Annotated[Seconds, Field(alias="up")] = 1.0
    times: Annotated[int, Field(ge=1, le=1000)] | None = None
    how: Literal["stop", "kill"] = "stop"

    @property
    def heal_after_s(self) -> float:
        """Seconds until the instances are left alone; the last start may come to its end later."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as the storm goes on; how long its last start takes is not known beforehand."""
        return self.for_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Start them."""
        return restart_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Begins with each, and returns when each has been restarted once; the storm goes on until healed."""
        cycle = Cycle(scene=scene, end=kill_whole if self.how == "kill" else stop_whole, enough=1, up_s=self.up_s)
        cycle.offset_s = self.within_s / max(1, len(scene.instances) - 1)
        cycle.times = self.times
        await cycle.begin()

    async def effect(self, scene: Scene) -> Proof:
        """Each instance was ended and started anew, or would not start any more."""
        return seen(scene)

    async def heal(self, scene: Scene) -> None:
        """Ends the storm, and starts those that do not run."""
        await calm_down(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Nobody is restarted any more, and every instance is ready."""
        return await calm(scene)
