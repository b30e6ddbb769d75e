"""A fault of your own in Python: a class with `inject`, `effect` and `heal`, or a function of the step's name."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema

from chaos.calling import Callee
from chaos.faults import scripting
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.parameters import Folder, beside_source
from chaos.undo import Step
from metrics.units import PositiveSeconds


def _callee(value: object, info: ValidationInfo) -> Callee:
    """Looked up without running it; a file lies beside the experiment."""
    if not isinstance(value, str):
        raise ValueError(f"expected file.py:Name or package.module:Name, got {value!r}")  # noqa: TRY004  # for its author
    callee = Callee.parse(value)
    if callee.in_file:
        callee = replace(callee, where=str(beside_source(callee.where, info)))
    callee.check()
    return callee


@FAULTS.register("python")
@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """Have the class or function `call` (`file.py:Name`) inject, see by its `effect` that it bites, heal after `for`.

    `with` are its parameters. Each step runs in a process of its own and must end `within` its limit; `heal` must be
    harmless when nothing is in force. Another process that heals for a dead runner waits 2 s at most.
    """

    example: ClassVar[Mapping[str, Any]] = {"call": "chaos.samples:Outage", "with": {"mark": "outage"}, "for": "3s"}

    call: Annotated[
        Callee,
        PlainValidator(_callee),
        WithJsonSchema(
            {"type": "string", "pattern": r"^.+:\w+$", "description": "file.py:Name or package.module:Name"}
        ),
    ]
    parameters: Annotated[Mapping[str, Any], Field(alias="with")] = field(default_factory=dict)
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0
    within_s: Annotated[PositiveSeconds, Field(alias="within", le=600)] = 10.0
    folder: Annotated[Folder, Field(validate_default=True)] = field(default=Path())

    @property
    def heal_after_s(self) -> float:
        """Seconds until it is healed."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """No instance is taken."""
        return 0.0

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Nobody: what the code touches is its own to know."""
        return ()

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Its `heal`, in a process of its own as ever."""
        return [scripting.undo_step(scene, self._command("heal"), folder=self.folder, within_s=self.within_s)]

    async def inject(self, scene: Scene) -> None:
        """Calls its `inject`."""
        await scripting.inject(scene, self._command("inject"), folder=self.folder, within_s=self.within_s)

    async def effect(self, scene: Scene) -> Proof:
        """Calls its `effect`; what it returns is true."""
        return await scripting.look(
            scene, "effect", self._command("effect"), folder=self.folder, within_s=self.within_s
        )

    async def heal(self, scene: Scene) -> None:
        """Calls its `heal`."""
        await scripting.heal(scene, self._command("heal"), folder=self.folder, within_s=self.within_s)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Its `effect` is not true."""
        proof = await self.effect(scene)
        return Proof(proven=not proof.proven, evidence=proof.evidence)

    def _command(self, step: str) -> list[str]:
        return [sys.executable, "-m", "chaos.calling", str(self.call), step, json.dumps(dict(self.parameters))]
