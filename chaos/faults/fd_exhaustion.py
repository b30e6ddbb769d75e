"""Descriptors run out: an instance goes on with the files and connections that it has, and can open no further one.

What a leak, a surge of connections or a limit set too low comes to: accepting, connecting and opening fail with EMFILE.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.descriptors import OpenFiles, limit_open_files, limit_step, open_files
from chaos.errors import TargetError
from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.restart import restart_missing, who_runs
from chaos.faults.victims import Victims
from chaos.processes import Identity
from chaos.undo import Step
from metrics.units import PositiveSeconds

_LIMITS: Final = "limits"
_SET: Final = "set"
_TRIES: Final = 5


@FAULTS.register("fd_exhaustion")
@dataclass(frozen=True, slots=True, kw_only=True)
class FdExhaustion(Victims):
    """Let instances open no further file or connection `for` a while, or just `leave` of them.

    The soft limit of each of their processes is lowered to what it has open. What they close meanwhile they may open
    again.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "count": 1, "for": "3s"}

    leave: Annotated[int, Field(ge=0, le=100_000)] = 0
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until they have their limits back."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as they are short of descriptors."""
        return self.for_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Give each process the limit of before."""
        return [limit_step(identity, soft_limit) for identity, soft_limit in _before(scene).items()]

    async def inject(self, scene: Scene) -> None:
        """Lowers the limit of every process of the instances at once."""
        before = _before(scene)
        wanted: dict[Identity, int] = scene.notes.setdefault(_SET, {})
        for identity, soft_limit in before.items():
            for _ in range(_TRIES):  # what it closes just then would be room again
                seen = open_files(identity)
                if seen is None or (identity in wanted and seen.room <= self.leave):
                    break
                wanted[identity] = min(seen.lowest_free + self.leave, soft_limit)
                limit_open_files(identity, wanted[identity])

    async def effect(self, scene: Scene) -> Proof:
        """The kernel has that limit for each process, and it is below that of before."""
        before, wanted = _before(scene), scene.notes.get(_SET, {})
        seen = {identity: open_files(identity) for identity in before}
        limited = [
            identity
            for identity, files in seen.items()
            if files is not None and files.soft_limit == wanted.get(identity) and files.soft_limit < before[identity]
        ]
        evidence = {"processes": {str(identity.pid): _told(files) for identity, files in seen.items()}}
        return Proof(proven=bool(before) and len(limited) == len(before), evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Gives each its limit; an instance that ended meanwhile, as many do without descriptors, is started."""
        failures = []
        for identity, soft_limit in _before(scene).items():
            try:
                limit_open_files(identity, soft_limit)
            except TargetError as error:  # all are told; one that must not be does not keep the others short
                failures.append(error)
        await restart_missing(scene)
        if failures:
            raise failures[0]

    async def heal_proof(self, scene: Scene) -> Proof:
        """Every process that still lives has the limit of before, and every instance is ready."""
        before = _before(scene)
        seen = {identity: files for identity in before if (files := open_files(identity)) is not None}
        short = [identity.pid for identity, files in seen.items() if files.soft_limit != before[identity]]
        ready = [] if short else [name for name in scene.instances if await scene.target.is_ready(name)]
        evidence = {"processes": {str(it.pid): _told(files) for it, files in seen.items()}, "ready": ready}
        return Proof(proven=not short and len(ready) == len(scene.instances), evidence=evidence)


def _before(scene: Scene) -> dict[Identity, int]:
    """Every process of the instances with the soft limit that it had when it was first asked for."""
    if _LIMITS not in scene.notes:
        main = list(who_runs(scene).values())
        others = [identity for name in scene.instances for identity in scene.target.members(name)]
        seen = {identity: open_files(identity) for identity in dict.fromkeys([*main, *others])}
        scene.notes[_LIMITS] = {identity: files.soft_limit for identity, files in seen.items() if files is not None}
    limits: dict[Identity, int] = scene.notes[_LIMITS]
    return limits


def _told(files: OpenFiles | None) -> dict[str, int] | None:
    return None if files is None else {"limit": files.soft_limit, "open": files.open, "room": files.room}
