"""A fault of your own as commands: one does harm, one looks whether it is in force, one puts things right."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults import scripting
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.parameters import Folder
from chaos.undo import Step
from metrics.units import PositiveSeconds

Argv = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
"""A command and its arguments; a shell only where it is named."""

_MARK = '"$HOLDFAST_RUN_DIR/outage"'


@FAULTS.register("command")
@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Run `inject`, see by `effect` (exit status 0: in force) that it bites, and run `heal` after `for`.

    `heal` must be harmless when nothing is in force: it runs after an injection that failed, and maybe twice. It is
    right again when `healed` exits with 0, or without that when `effect` does not. They run in the experiment's folder
    or `folder`; each must end `within` its limit. Another process that heals for a dead runner waits 2 s at most.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "inject": ["sh", "-c", f"touch {_MARK}"],
        "effect": ["sh", "-c", f"test -e {_MARK}"],
        "heal": ["sh", "-c", f"rm -f {_MARK}"],
        "for": "3s",
    }

    injecting: Annotated[Argv, Field(alias="inject")]
    looking: Annotated[Argv, Field(alias="effect")]
    healing: Annotated[Argv, Field(alias="heal")]
    healed: Argv | None = None
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0
    within_s: Annotated[PositiveSeconds, Field(alias="within", le=600)] = 10.0
    folder: Annotated[Folder, Field(validate_default=True)] = field(default=Path())

    def __post_init__(self) -> None:
        commands = {
            "inject": self.injecting,
            "effect": self.looking,
            "heal": self.healing,
            "healed": self.healed or self.looking,
        }
        for key, (program, *_) in commands.items():
            # A relative program with a slash lies in the folder, as it will when it is started from there.
            there = str(self.folder / program) if "/" in program else program
            if shutil.which(there) is None:
                where = f"there is no program {there}" if "/" in program else "it is not on the PATH"
                raise ValueError(f"{key}: {program} cannot be run: {where}")

    @property
    def heal_after_s(self) -> float:
        """Seconds until `heal` runs."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """No instance is taken."""
        return 0.0

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Nobody: what commands touch is theirs to know."""
        return ()

    def undo_steps(self, scene: Scene) -> list[Step]:
        """The command `heal`."""
        return [scripting.undo_step(scene, self.healing, folder=self.folder, within_s=self.within_s)]

    async def inject(self, scene: Scene) -> None:
        """Runs `inject`."""
        await scripting.inject(scene, self.injecting, folder=self.folder, within_s=self.within_s)

    async def effect(self, scene: Scene) -> Proof:
        """Runs `effect`; it says so with exit status 0."""
        return await scripting.look(scene, "effect", self.looking, folder=self.folder, within_s=self.within_s)

    async def heal(self, scene: Scene) -> None:
        """Runs `heal`."""
        await scripting.heal(scene, self.healing, folder=self.folder, within_s=self.within_s)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Runs `healed`, or sees that `effect` says no."""
        if self.healed is not None:
            return await scripting.look(scene, "healed", self.healed, folder=self.folder, within_s=self.within_s)
        proof = await self.effect(scene)
        return Proof(proven=not proof.proven, evidence=proof.evidence)
