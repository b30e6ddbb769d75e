"""SIGSTOP: an instance hangs; its sockets stay open and nothing answers, the hardest failure to notice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.freezing import freeze, going_on, let_go, let_go_steps, members_of, states_of
from chaos.faults.victims import Victims
from chaos.undo import Step
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
        """Let each process go on."""
        return let_go_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Stops the main processes at once, then what they have started."""
        freeze(scene)

    async def effect(self, scene: Scene) -> Proof:
        """Every process of every instance is in the state `T` of the kernel."""
        states = {name: states_of(members) for name, members in members_of(scene).items()}
        return Proof(
            proven=all(set(of_one.values()) == {"T"} for of_one in states.values()), evidence={"states": states}
        )

    async def heal(self, scene: Scene) -> None:
        """Lets them go on; an instance that ended meanwhile is started."""
        await let_go(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """No process is stopped and every instance is ready."""
        return await going_on(scene)
