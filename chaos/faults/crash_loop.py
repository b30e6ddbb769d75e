"""A crash loop: an instance comes up, is killed as soon as it is ready, comes up again, and so on.

It is killed only once it is ready: it takes requests for a moment each time, so that balancers, pools and elections
trust it again and again. One that dies before it is ready is just an instance that is down, as after `kill`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults.cycling import Cycle, calm, calm_down, kill_whole, seen
from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.restart import restart_steps
from chaos.faults.victims import Victims
from chaos.undo import Step
from metrics.units import PositiveSeconds, Seconds


@FAULTS.register("crash_loop")
@dataclass(frozen=True, slots=True, kw_only=True)
class CrashLoop(Victims):
    """Kill instances again each time they are ready, `for` a while or `times` kills each, whichever comes first.

    Each is started again `restart_after`, and killed when it has been `up` for that long after becoming ready. At
    least two kills of each are done, however short the time is.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "count": 1, "for": "3s"}

    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 10.0
    times: Annotated[int, Field(ge=2, le=1000)] | None = None
    restart_after_s: Annotated[Seconds, Field(alias="restart_after")] = 0.0
    up_s: Annotated[Seconds, Field(alias="up")] = 0.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the instances are left alone; the last start may come to its end later."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as the loop goes on; how long its last start takes is not known beforehand."""
        return self.for_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Start them: whoever kills them again and again has died by then."""
        return restart_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Kills all at once, each of them again when it is ready; the rest is done while the fault is in force."""
        cycle = Cycle(scene=scene, end=kill_whole, enough=2, down_s=self.restart_after_s, up_s=self.up_s)
        cycle.times = self.times
        await cycle.begin()

    async def effect(self, scene: Scene) -> Proof:
        """Each instance was killed at least twice, as another process each time, or would not start any more."""
        return seen(scene)

    async def heal(self, scene: Scene) -> None:
        """Ends the loop, and starts those that do not run."""
        await calm_down(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Nobody is killed any more, and every instance is ready."""
        return await calm(scene)
