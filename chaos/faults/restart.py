"""What the faults that end processes share: who ran, who is gone, and starting them again."""

import asyncio

from chaos.errors import TargetError
from chaos.faults.fault import Proof, Scene
from chaos.processes import Identity, alive
from chaos.undo import Step, start_step


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


def restart_steps(scene: Scene) -> list[Step]:
    """The undo record: start each instance."""
    return [start_step(name) for name in scene.instances]


def gone(scene: Scene) -> Proof:
    """Whether every process that was an instance before has ended."""
    left = [name for name, identity in scene.before.items() if identity is not None and alive(identity)]
    ended = {name: identity.pid for name, identity in scene.before.items() if identity is not None}
    return Proof(proven=not left and bool(ended), evidence={"gone": ended, "still_there": left, **scene.notes})


async def restart_missing(scene: Scene) -> None:
    """Starts, at the same time, the scene's instances that do not run now."""
    missing = [name for name in scene.instances if not runs(scene, name)]
    results = await asyncio.gather(*(scene.target.start_instance(name) for name in missing), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if failures:  # all were tried; one that fails does not keep the others down
        raise failures[0]


async def restarted(scene: Scene) -> Proof:
    """Whether every instance is ready as another process than before."""
    now = {name: scene.target.identity(name) for name in scene.instances}
    renewed = {
        name: identity.pid
        for name, identity in now.items()
        if identity is not None and identity != scene.before[name] and alive(identity)
    }
    ready = [name for name in renewed if await scene.target.is_ready(name)]
    return Proof(proven=len(ready) == len(scene.instances), evidence={"pids": renewed, "ready": ready})


def runs(scene: Scene, name: str) -> bool:
    """Whether the instance has a living process now."""
    identity = scene.target.identity(name)
    return identity is not None and alive(identity)
