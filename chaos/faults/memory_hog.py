"""Memory that is gone: a process of our own that takes a stated amount, and never the machine's last."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.hogging import ended, hogs_of, kill_steps, living, put_down, set_loose
from chaos.hog import available_bytes
from chaos.undo import Step
from metrics.units import Bytes, PositiveSeconds, format_size

_LEAST_REST_BYTES: Final = 128 * 2**20


@FAULTS.register("memory_hog")
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHog:
    """Take memory of `size` `for` a while, and leave the machine at least `leave`.

    It is refused when less would be left, and stops growing should others take memory meanwhile. The kernel ends the
    hog before anybody else when memory runs out.
    """

    example: ClassVar[Mapping[str, Any]] = {"size": "32MiB", "for": "3s"}

    size_bytes: Annotated[Bytes, Field(alias="size", ge=2**20, le=2**44)]
    leave_bytes: Annotated[Bytes, Field(alias="leave", ge=_LEAST_REST_BYTES)] = 512 * 2**20
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the hog is killed."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """No instance is taken."""
        return 0.0

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Nobody: it acts on the machine."""
        return ()

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Kill the hog, should it outlive us.

        Raises:
            TargetError: too little memory would be left, so nothing may be taken.
        """
        there_bytes = available_bytes()
        if not hogs_of(scene) and there_bytes - self.size_bytes < self.leave_bytes:
            raise TargetError(
                f"{scene.fault_id}: size: {format_size(self.size_bytes)} of {format_size(there_bytes)} available would "
                f"leave less than {format_size(self.leave_bytes)} (`leave`): take less, or free some"
            )
        return kill_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Starts the hog; it takes the memory step by step."""
        set_loose(scene, [("memory", str(self.size_bytes), str(self.leave_bytes))])

    async def effect(self, scene: Scene) -> Proof:
        """The hog holds that much memory that is its own, as the kernel counts it."""
        held = [_own_bytes(hog.identity.pid) for hog in hogs_of(scene)]
        proven = bool(held) and sum(held) >= self.size_bytes
        evidence = {"held_bytes": sum(held), "available_bytes": available_bytes(), "ended": ended(scene)}
        return Proof(proven=proven, evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Kills the hog, which gives its memory back."""
        await put_down(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """It does not live any more."""
        left = living(scene)
        return Proof(proven=not left, evidence={"left": left, "available_bytes": available_bytes()})


def _own_bytes(pid: int) -> int:
    """Memory of a process that no file backs and nobody shares; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
