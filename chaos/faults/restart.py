"""What the faults that end processes share: who ran, who is gone, and starting them again."""

import asyncio
import signal
from typing import Final

from chaos.errors import TargetError
from chaos.faults.fault import Proof, Scene
from chaos.processes import Identity, alive, kill_all, send
from chaos.undo import Step, start_step

_SIGNALLED: Final = "signalled"
_MISSED: Final = "missed"
_MEMBERS: Final = "members"
_KILL_LIMIT_S: Final = 2.0
_DYING_S: Final = 2.0
"""How long a process that was told to end may take before healing ends it for good."""


def who_runs(scene: Scene) -> dict[str, Identity]:
    """The processes of the scene's instances as they were when it opened.

    Raises:
        TargetError: one of them did not run, so there is nothing to do harm to.
    """
    running = {name: identity for name, identity in scene.before.items() if identity is not None and alive(identity)}
    missing = [name for name in scene.instances if name not in running]
    if missing:
        raise TargetError(
            f"{scene.fault_id}: {', '.join(missing)} did not run when the fault was due; see the log in logs/"
        )
    return running


def signal_all(scene: Scene, signum: signal.Signals) -> None:
    """Sends a deadly signal to the main process of every instance at once, and remembers to whom.

    They must come back as new processes. One that died by itself before it could be signalled proves nothing.
    """
    victims = who_runs(scene)
    # Children are known for sure only while their parent lives.
    scene.notes[_MEMBERS] = {name: scene.target.members(name) for name in victims}
    scene.notes[_SIGNALLED] = list(victims)  # before the first one is sent: healing may come at any time
    scene.notes[_MISSED] = [name for name, identity in victims.items() if not send(identity, signum)]


def kill_children(scene: Scene) -> None:
    """Kills what is left of instances whose main processes have been killed. Whatever would not end, `gone` tells."""
    kill_all(
        lambda: tuple(identity for name in scene.instances for identity in scene.target.members(name)),
        within_s=_KILL_LIMIT_S,
        known=(identity for members in scene.notes[_MEMBERS].values() for identity in members),
    )


def restart_steps(scene: Scene) -> list[Step]:
    """The undo record: start each instance."""
    return [start_step(name) for name in scene.instances]


def gone(scene: Scene) -> Proof:
    """Whether every process of the instances as they were before has ended, and by this fault."""
    ended = {name: identity.pid for name, identity in scene.before.items() if identity is not None}
    known = scene.notes.get(_MEMBERS, {})
    left = {
        name: sorted({it.pid for it in (*known.get(name, ()), *scene.target.members(name)) if alive(it)})
        for name in scene.instances
    }
    missed = scene.notes.get(_MISSED, [])
    return Proof(
        proven=not any(left.values()) and bool(ended) and not missed,
        evidence={
            "gone": ended,
            "still_there": {name: pids for name, pids in left.items() if pids},
            "died_before": missed,
        },
    )


async def restart_missing(scene: Scene) -> None:
    """Starts, at the same time, the scene's instances that do not run; those still on their way out are awaited."""
    results = await asyncio.gather(*(_restart(scene, name) for name in scene.instances), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if failures:  # all were tried; one that fails does not keep the others down
        raise failures[0]


async def restarted(scene: Scene) -> Proof:
    """Whether every instance is ready, and those that were told to end are other processes than before."""
    now = {name: scene.target.identity(name) for name in scene.instances}
    dying = [name for name in scene.notes.get(_SIGNALLED, ()) if now[name] == scene.before[name]]
    pids = {name: identity.pid for name, identity in now.items() if identity is not None and alive(identity)}
    ready = [name for name in pids if name not in dying and await scene.target.is_ready(name)]
    return Proof(proven=len(ready) == len(scene.instances), evidence={"pids": pids, "ready": ready, "dying": dying})


def runs(scene: Scene, name: str) -> bool:
    """Whether the instance has a living process now."""
    identity = scene.target.identity(name)
    return identity is not None and alive(identity)


async def _restart(scene: Scene, name: str) -> None:
    signalled = name in scene.notes.get(_SIGNALLED, ())
    dying = signalled and scene.target.identity(name) == scene.before[name]
    # Dying: the injection was cut off between the signal and the exit.
    if dying and not await scene.target.expect_exit(name, within_s=_DYING_S):
        await scene.target.stop_instance(name)
    if not runs(scene, name):
        await scene.target.start_instance(name)
