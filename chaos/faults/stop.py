"""SIGTERM: an instance is asked to end, as in a scale-down; it must finish what it has begun and exit by itself."""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.restart import gone, restart_missing, restart_steps, restarted, signal_all
from chaos.faults.victims import Victims
from chaos.undo import Step
from metrics.units import PositiveSeconds

_BY_ITSELF: Final = "by_itself"


@FAULTS.register("stop")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Victims):
    """Ask instances to end with SIGTERM, and start them again `restart_after`.

    One that has not exited by itself `within` that time is killed, and the effect counts as not proven.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "count": 1, "restart_after": "3s"}

    restart_after_s: Annotated[PositiveSeconds, Field(alias="restart_after")] = 3.0
    within_s: Annotated[PositiveSeconds, Field(alias="within")] = 30.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the instances are started again, or later where their exit takes longer."""
        return self.restart_after_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """Until they are started again; how long their exit takes is not known beforehand."""
        return self.restart_after_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Start them."""
        return restart_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Sends SIGTERM to the main processes at once, who tell their children, and waits for their exits."""
        signal_all(scene, signal.SIGTERM)
        scene.took_hold()
        # Straight after the signals, so that the driver knows these exits as intended before it notices them.
        await asyncio.gather(*(self._await_exit(scene, name) for name in scene.instances))

    async def effect(self, scene: Scene) -> Proof:
        """Every process that ran before has ended, children included, and by itself."""
        seen = gone(scene)
        by_itself = {name: bool(scene.notes.get((name, _BY_ITSELF))) for name in scene.instances}
        evidence = {**seen.evidence, "exited_by_itself": by_itself}
        return Proof(proven=seen.proven and all(by_itself.values()), evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Starts those that do not run."""
        await restart_missing(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Every instance is a new process and ready."""
        return await restarted(scene)

    async def _await_exit(self, scene: Scene, name: str) -> None:
        by_itself = await scene.target.expect_exit(name, within_s=self.within_s)
        scene.notes[name, _BY_ITSELF] = by_itself
        if not by_itself:
            await scene.target.stop_instance(name)
