"""What the faults that stop processes for a time share: whom they stop, what the kernel says of it, and letting go."""

import signal
import time
from collections.abc import Iterable
from typing import Final

from chaos.errors import TargetError
from chaos.faults.fault import Proof, Scene
from chaos.faults.restart import restart_missing, who_runs
from chaos.processes import Identity, send, state
from chaos.undo import Step, signal_step

_KNOWN: Final = "known"
_FIND_LIMIT_S: Final = 1.0
"""An instance that goes on starting processes after this is not stopped, and the effect says so."""


def let_go_steps(scene: Scene) -> list[Step]:
    """The undo record: let each process go on, known by pid and start time."""
    return [signal_step(identity, signal.SIGCONT) for identity in _known(scene)]


def freeze(scene: Scene) -> list[Identity]:
    """Sends SIGSTOP to the main processes at once, then to what they have started, until nothing new is found.

    Gives all of them; whoever the undo record did not name is in it before being stopped.
    """
    stopped = list(who_runs(scene).values())
    known = _known(scene)
    for identity in stopped:
        send(identity, signal.SIGSTOP)
    deadline_s = time.monotonic() + _FIND_LIMIT_S
    while time.monotonic() < deadline_s:
        found = [identity for members in members_of(scene).values() for identity in members]
        new = [identity for identity in found if identity not in stopped]
        if not new:
            break
        if added := [identity for identity in new if identity not in known]:
            known += added
            scene.record(let_go_steps(scene))
        for identity in new:
            send(identity, signal.SIGSTOP)
        stopped += new
    return stopped


async def let_go(scene: Scene) -> None:
    """Sends SIGCONT to all; an instance that ended meanwhile is started."""
    failures = []
    for identity in _concerned(scene):
        try:
            send(identity, signal.SIGCONT)
        except TargetError as error:  # all are told; one that must not be does not keep the others stopped
            failures.append(error)
    await restart_missing(scene)
    if failures:
        raise failures[0]


async def going_on(scene: Scene) -> Proof:
    """No process is stopped and every instance is ready."""
    states = states_of(_concerned(scene))
    stopped = "T" in states.values()
    ready = [] if stopped else [name for name in scene.instances if await scene.target.is_ready(name)]
    return Proof(proven=not stopped and len(ready) == len(scene.instances), evidence={"states": states, "ready": ready})


def members_of(scene: Scene) -> dict[str, tuple[Identity, ...]]:
    """The processes of each instance now."""
    return {name: scene.target.members(name) for name in scene.instances}


def states_of(identities: Iterable[Identity]) -> dict[str, str | None]:
    """Process -> the kernel's letter for it, None: gone."""
    return {str(identity.pid): state(identity) for identity in identities}


def _known(scene: Scene) -> list[Identity]:
    """The processes that the undo record names: first the main ones, then those that they had started."""
    if _KNOWN not in scene.notes:
        main = list(who_runs(scene).values())
        others = [identity for members in members_of(scene).values() for identity in members if identity not in main]
        scene.notes[_KNOWN] = [*main, *others]
    known: list[Identity] = scene.notes[_KNOWN]
    return known


def _concerned(scene: Scene) -> list[Identity]:
    """Whoever may have been stopped, and whoever is part of the instances now."""
    now = [identity for members in members_of(scene).values() for identity in members]
    main = [identity for identity in scene.before.values() if identity is not None]
    return list(dict.fromkeys([*main, *scene.notes.get(_KNOWN, ()), *now]))
