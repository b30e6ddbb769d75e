"""SIGKILL: an instance is gone at once, as when its machine loses power."""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.restart import gone, kill_children, restart_missing, restart_steps, restarted, signal_all
from chaos.faults.victims import Victims
from chaos.undo import Step
from metrics.units import PositiveSeconds

_EXIT_WITHIN_S = 5.0


@FAULTS.register("kill")
@dataclass(frozen=True, slots=True, kw_only=True)
class Kill(Victims):
    """Kill instances with SIGKILL and start them again `restart_after`."""

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "count": 1, "restart_after": "3s"}

    restart_after_s: Annotated[PositiveSeconds, Field(alias="restart_after")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the instances are started again."""
        return self.restart_after_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """Until the instances are started again; how long their start takes is not known beforehand."""
        return self.restart_after_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Start them."""
        return restart_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Sends SIGKILL to all at once, then to the children they leave, and waits until they are gone."""
        signal_all(scene, signal.SIGKILL)
        scene.took_hold()
        kill_children(scene)
        # Straight after the signals, so that the driver knows these exits as intended before it notices them.
        await asyncio.gather(*(scene.target.expect_exit(name, within_s=_EXIT_WITHIN_S) for name in scene.instances))

    async def effect(self, scene: Scene) -> Proof:
        """None of the processes that ran before is there any more, children included."""
        return gone(scene)

    async def heal(self, scene: Scene) -> None:
        """Starts those that do not run."""
        await restart_missing(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Every instance is a new process and ready."""
        return await restarted(scene)
