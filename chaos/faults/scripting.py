"""What faults that are commands share: running one of their steps to its end, and what its exit status means.

    inject   0: done               anything else: it failed
    effect   0: in force           1 to 125: not in force       126 and more, or a signal: it could not look
    heal     0: done               anything else: it failed

Every step is a process of its own, with a limit, a log, and `HOLDFAST_URL`, `HOLDFAST_RUN_DIR` and `HOLDFAST_FAULT_ID`
in its environment. What an injection leaves running in the background goes on until it is healed.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal

from chaos.errors import TargetError
from chaos.faults.fault import Proof, Scene
from chaos.processes import INSTANCE_MARK, python_environment, spawn
from chaos.targets.commands import ending, last_lines, sweep, wait_or_kill
from chaos.undo import Step

StepName = Literal["inject", "effect", "heal", "healed"]
_COULD_NOT_LOOK: Final = 126
"""From here on a shell says that it could not run a command at all."""
_SAID_LIMIT_BYTES: Final = 2000


async def carry_through(
    scene: Scene, step: StepName, command: Sequence[str], *, folder: Path, within_s: float
) -> tuple[int, str]:
    """Runs one step to its end; its exit status and the end of what it said.

    Raises:
        TargetError: it could not be started, or took too long; nothing of it is left then.
    """
    roster, name = scene.target.roster, _name(scene, step)
    log = roster.run_dir / "logs" / f"{scene.fault_id}.log"
    with tempfile.TemporaryFile() as said:
        process = spawn(
            command,
            env={**python_environment(), **_settings(scene), INSTANCE_MARK: name},
            cwd=folder,
            log=log,
            name=name,
            registrar=roster,
            stdout=said.fileno(),
        )
        status = await wait_or_kill(process, roster, name, within_s=within_s, spare_children=step == "inject")
        if status is None:
            raise TargetError(f"{scene.fault_id}: {step} did not finish within {within_s:g} s; {last_lines(log)}")
        return status, _end_of(said)


async def inject(scene: Scene, command: Sequence[str], *, folder: Path, within_s: float) -> None:
    """Carries out the injection.

    Raises:
        TargetError: it failed; with the end of its log.
    """
    scene.took_hold()
    await _do(scene, "inject", command, folder=folder, within_s=within_s)


async def heal(scene: Scene, command: Sequence[str], *, folder: Path, within_s: float) -> None:
    """Carries out the healing, and ends what the injection left in the background.

    Raises:
        TargetError: it failed; with the end of its log.
    """
    try:
        await _do(scene, "heal", command, folder=folder, within_s=within_s)
    finally:
        sweep(scene.target.roster, _name(scene, "inject"))


async def look(
    scene: Scene, step: Literal["effect", "healed"], command: Sequence[str], *, folder: Path, within_s: float
) -> Proof:
    """Whether a look found what it was looking for.

    Raises:
        TargetError: it could not look.
    """
    status, said = await carry_through(scene, step, command, folder=folder, within_s=within_s)
    if not 0 <= status < _COULD_NOT_LOOK:
        raise TargetError(f"{scene.fault_id}: {step} {ending(status)}; {_log_of(scene)}")
    evidence: dict[str, Any] = {"exit_status": status, "said": said}
    return Proof(proven=status == 0, evidence=evidence)


def undo_step(scene: Scene, command: Sequence[str], *, folder: Path, within_s: float) -> Step:
    """The healing as an undo step."""
    env = {**_settings(scene), "PYTHONPATH": python_environment()["PYTHONPATH"]}
    return {"do": "command", "command": list(command), "cwd": str(folder), "env": env, "within_s": within_s}


async def _do(
    scene: Scene, step: Literal["inject", "heal"], command: Sequence[str], *, folder: Path, within_s: float
) -> None:
    status, said = await carry_through(scene, step, command, folder=folder, within_s=within_s)
    if status != 0:
        told = f" It said: {said}." if said else ""
        raise TargetError(f"{scene.fault_id}: {step} {ending(status)}.{told} {_log_of(scene)}")


def _settings(scene: Scene) -> Mapping[str, str]:
    return {
        "HOLDFAST_URL": scene.target.url,
        "HOLDFAST_RUN_DIR": str(scene.target.roster.run_dir),
        "HOLDFAST_FAULT_ID": scene.fault_id,
    }


def _name(scene: Scene, step: StepName) -> str:
    return f"fault/{scene.fault_id}/{step}"


def _log_of(scene: Scene) -> str:
    return last_lines(scene.target.roster.run_dir / "logs" / f"{scene.fault_id}.log")


def _end_of(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, 2) - _SAID_LIMIT_BYTES))
    return said.read().decode(errors="replace").strip()
