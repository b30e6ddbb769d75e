"""What the faults that use up a resource of the machine share: processes of our own that do it, and the end of them.

spawned (they stand by) -> written down in the undo record -> told to begin -> killed, or ended with their runner
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.errors import TargetError
from chaos.faults.fault import Scene
from chaos.hog import GO
from chaos.processes import Identity, Process, alive, python_environment, send, spawn
from chaos.undo import Step, signal_step

_HOGS: Final = "hogs"
_END_LIMIT_S: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Hog:
    """One such process, and the pipe that holds it: it ends when this is closed, by us or by our death."""

    process: Process
    pipe: int

    @property
    def identity(self) -> Identity:
        """The process."""
        return self.process.identity

    def close(self) -> None:
        """Closes the pipe; may be repeated."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


def hogs_of(scene: Scene) -> list[Hog]:
    """The hogs of a scene, in the order of their start."""
    hogs: list[Hog] = scene.notes.setdefault(_HOGS, [])
    return hogs


def kill_steps(scene: Scene) -> list[Step]:
    """The undo record: kill each hog, known by pid and start time; none is there before the injection."""
    return [signal_step(hog.identity, signal.SIGKILL) for hog in hogs_of(scene)]


def set_loose(scene: Scene, commands: Sequence[Sequence[str]]) -> None:
    """Starts a hog for each command; they begin together, after it is on disk who they are."""
    hogs = hogs_of(scene)
    roster = scene.target.roster
    for number, command in enumerate(commands, start=1):
        theirs, ours = os.pipe()
        try:
            process = spawn(
                [sys.executable, "-m", "chaos.hog", *command],
                env=python_environment(),
                cwd=Path("/"),
                log=roster.run_dir / "logs" / f"{scene.fault_id}.log",
                name=f"fault/{scene.fault_id}/hog-{number}",
                registrar=roster,
                stdin=theirs,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        hogs.append(Hog(process=process, pipe=ours))
    scene.record(kill_steps(scene))
    for hog in hogs:
        with suppress(BrokenPipeError):  # it has ended already: the effect tells
            os.write(hog.pipe, GO)


async def put_down(scene: Scene) -> None:
    """Kills all hogs and awaits their ends.

    Raises:
        TargetError: one does not end, even when killed.
    """
    hogs = hogs_of(scene)
    for hog in hogs:
        send(hog.identity, signal.SIGKILL)
        hog.close()
    for hog in hogs:
        if hog.process.wait_blocking(within_s=_END_LIMIT_S) is None:
            raise TargetError(f"process {hog.identity.pid} does not end, even when killed")


def ended(scene: Scene) -> dict[str, int | None]:
    """Pid -> exit status, of the hogs that have ended, by themselves or by us."""
    return {str(hog.identity.pid): hog.process.poll() for hog in hogs_of(scene) if not alive(hog.identity)}


def living(scene: Scene) -> list[int]:
    """The pids of the hogs that still live."""
    return [hog.identity.pid for hog in hogs_of(scene) if alive(hog.identity)]
