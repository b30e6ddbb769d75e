"""SIGSTOP: an instance hangs; its sockets stay open and nothing answers, the hardest failure to notice."""

import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.restart import restart_missing, who_runs
from chaos.faults.victims import Victims
from chaos.processes import Identity, send, state
from chaos.undo import Step, signal_step
from metrics.units import PositiveSeconds

_KNOWN: Final = "known"
_FIND_LIMIT_S: Final = 1.0
"""An instance that goes on starting processes after this is not stopped, and the effect says so."""


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
        """Let each process go on, known by pid and start time."""
        return [signal_step(identity, signal.SIGCONT) for identity in _known(scene)]

    async def inject(self, scene: Scene) -> None:
        """Sends SIGSTOP to the main processes at once, then to what they have started, until nothing new is found."""
        stopped = list(who_runs(scene).values())
        known = _known(scene)
        for identity in stopped:
            send(identity, signal.SIGSTOP)
        deadline_s = time.monotonic() + _FIND_LIMIT_S
        while time.monotonic() < deadline_s:
            found = [identity for members in _members(scene).values() for identity in members]
            new = [identity for identity in found if identity not in stopped]
            if not new:
                break
            if added := [identity for identity in new if identity not in known]:
                known += added
                scene.record(self.undo_steps(scene))
            for identity in new:
                send(identity, signal.SIGSTOP)
            stopped += new

    async def effect(self, scene: Scene) -> Proof:
        """Every process of every instance is in the state `T` of the kernel."""
        states = {name: _states(members) for name, members in _members(scene).items()}
        return Proof(
            proven=all(set(of_one.values()) == {"T"} for of_one in states.values()), evidence={"states": states}
        )

    async def heal(self, scene: Scene) -> None:
        """Sends SIGCONT; an instance that ended meanwhile is started."""
        failures = []
        for identity in _concerned(scene):
            try:
                send(identity, signal.SIGCONT)
            except TargetError as error:  # all are told; one that must not be does not keep the others stopped
                failures.append(error)
        await restart_missing(scene)
        if failures:
            raise failures[0]

    async def heal_proof(self, scene: Scene) -> Proof:
        """No process is stopped and every instance is ready."""
        states = _states(_concerned(scene))
        stopped = "T" in states.values()
        ready = [] if stopped else [name for name in scene.instances if await scene.target.is_ready(name)]
        return Proof(
            proven=not stopped and len(ready) == len(scene.instances), evidence={"states": states, "ready": ready}
        )


def _known(scene: Scene) -> list[Identity]:
    """The processes that the undo record names: first the main ones, then those that they had started."""
    if _KNOWN not in scene.notes:
        main = list(who_runs(scene).values())
        others = [identity for members in _members(scene).values() for identity in members if identity not in main]
        scene.notes[_KNOWN] = [*main, *others]
    known: list[Identity] = scene.notes[_KNOWN]
    return known


def _members(scene: Scene) -> dict[str, tuple[Identity, ...]]:
    return {name: scene.target.members(name) for name in scene.instances}


def _concerned(scene: Scene) -> list[Identity]:
    """Whoever may have been stopped, and whoever is part of the instances now."""
    now = [identity for members in _members(scene).values() for identity in members]
    main = [identity for identity in scene.before.values() if identity is not None]
    return list(dict.fromkeys([*main, *scene.notes.get(_KNOWN, ()), *now]))


def _states(identities: Iterable[Identity]) -> dict[str, str | None]:
    """Process -> the kernel's letter for it, None: gone."""
    return {str(identity.pid): state(identity) for identity in identities}
