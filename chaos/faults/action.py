"""An operator's action, as the topology describes it: a maintenance window, a change of traffic, a switch."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.undo import Step, carry_out
from metrics.units import PositiveSeconds


@FAULTS.register("action")
@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Carry out one of the target's `actions` by `name`; with `for`, take it back after that time.

    Its effect is what the topology says shows it. Without `for` it is a change, kept once it shows: what it started
    may end by itself later. It touches no instance, so faults on instances may play meanwhile.
    """

    example: ClassVar[Mapping[str, Any]] = {"name": "maintenance.start", "for": "3s"}

    action: Annotated[str, Field(alias="name")]
    for_s: Annotated[PositiveSeconds | None, Field(alias="for")] = None

    @property
    def action_taken_back(self) -> str | None:
        """The action, where the experiment asks for it to be taken back."""
        return self.action if self.for_s is not None else None

    @property
    def heal_after_s(self) -> float | None:
        """Seconds until it is taken back; None where it is kept."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """No instance is taken."""
        return 0.0

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Nobody: it acts on the system as a whole."""
        return ()

    def undo_steps(self, scene: Scene) -> list[Step]:
        """What the topology says takes it back; nothing for an action that is kept."""
        return list(scene.target.undo_of(self.action)) if self.for_s is not None else []

    async def inject(self, scene: Scene) -> None:
        """Carries it out; it bites while the topology's `effect` is awaited."""
        scene.took_hold()
        await scene.target.act(self.action)

    async def effect(self, scene: Scene) -> Proof:
        """The reading that shows the action has the value that shows it."""
        proven, evidence = await scene.target.in_effect(self.action)
        return Proof(proven=proven, evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Carries out its undo; where it is kept there is nothing to take back."""
        for step in self.undo_steps(scene):
            await asyncio.to_thread(carry_out, step)

    async def heal_proof(self, scene: Scene) -> Proof:
        """The reading no longer has that value."""
        shows, evidence = await scene.target.in_effect(self.action)
        return Proof(proven=not shows, evidence=evidence)
