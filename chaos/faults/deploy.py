"""A rolling deploy: each instance is stopped, started with changed settings and awaited before the next one.

It is a change, not an outage: it is kept once every instance shows it. Cut off half-way, it is rolled back to the
settings that the instances ran with before, as the kernel tells them.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.restart import restart_steps, runs, who_runs
from chaos.faults.victims import find_role
from chaos.processes import Identity
from chaos.targets.models import EnvValue
from chaos.undo import Step
from metrics.units import Seconds

_ENV: Final = "env."
_VERSION: Final = "VERSION"
_EACH_S: Final = 4.0
"""What replacing one instance takes, roughly; used only to plan other faults around it."""
_BEFORE: Final = "before"
_TOUCHED: Final = "touched"


@FAULTS.register("deploy")
@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """Replace every instance of a role, one after the other, by one with changed settings (`set`)."""

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "set": {"env.VERSION": "v2"}, "strategy": "rolling"}

    role: str
    changes: Annotated[Mapping[str, EnvValue], Field(alias="set", min_length=1)]
    strategy: Literal["rolling"] = "rolling"
    pause_between_s: Annotated[Seconds, Field(alias="pause_between")] = 0.0
    version: str | None = None
    """What the instances report afterwards; where it is not given, the value of `env.VERSION` if that is set."""
    env: Mapping[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [key for key in self.changes if not key.startswith(_ENV) or key == _ENV]
        if wrong:
            raise ValueError(f"set: {', '.join(wrong)}: a deploy changes the environment; write env.NAME: value")
        object.__setattr__(self, "env", {key.removeprefix(_ENV): value for key, value in self.changes.items()})

    @property
    def heal_after_s(self) -> None:
        """A change is kept."""
        return

    def takes_s(self, victims: int) -> float:
        """A guess: stop, start and readiness of each, and the pauses."""
        return victims * (_EACH_S + self.pause_between_s)

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Every instance of the role, in order; nothing is left to chance."""
        members = tuple(find_role(roles, self.role).zones)
        taken = [name for name in members if name in busy]
        if taken:
            raise ValueError(f"{', '.join(taken)} would be in the hands of another fault then")
        return members

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Start those that are stopped at the time."""
        return restart_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Replaces one after the other; each is ready before the next one is stopped."""
        victims = who_runs(scene)
        scene.notes[_BEFORE] = {name: _settings(identity, tuple(self.env)) for name, identity in victims.items()}
        scene.notes[_TOUCHED] = []
        scene.took_hold()
        for name in scene.instances:
            if name != scene.instances[0]:
                await asyncio.sleep(self.pause_between_s)
            scene.notes[_TOUCHED].append(name)  # before the first signal: healing may come at any time
            await _replace(scene, name, self.env)

    async def effect(self, scene: Scene) -> Proof:
        """Every instance is another process than before, ready, and reports the new version where it reports one."""
        wanted = self.version if self.version is not None else self.env.get(_VERSION)
        return await self._all_are(scene, wanted, renewed=True)

    async def heal(self, scene: Scene) -> None:
        """Rolls back what was replaced, or was about to be, to the settings of before."""
        touched: list[str] = scene.notes.get(_TOUCHED, [])
        while touched:
            await _replace(scene, touched[-1], scene.notes[_BEFORE][touched[-1]])
            touched.pop()

    async def heal_proof(self, scene: Scene) -> Proof:
        """Every instance is ready, and all report one version."""
        return await self._all_are(scene, None, renewed=False)

    async def _all_are(self, scene: Scene, wanted: str | None, *, renewed: bool) -> Proof:
        ready = [name for name in scene.instances if runs(scene, name) and await scene.target.is_ready(name)]
        versions = {name: await scene.target.version(name) for name in ready}
        reported = {version for version in versions.values() if version is not None}
        as_wanted = len(reported) <= 1 and (wanted is None or reported <= {wanted})
        new = [name for name in ready if scene.target.identity(name) != scene.before[name]]
        everyone = len(ready) == len(scene.instances) and (len(new) == len(ready) or not renewed)
        return Proof(proven=everyone and as_wanted, evidence={"ready": ready, "versions": versions, "renewed": new})


async def _replace(scene: Scene, name: str, env: Mapping[str, str]) -> None:
    if runs(scene, name):
        await scene.target.stop_instance(name)
    await scene.target.start_instance(name, env=env)


def _settings(identity: Identity, names: tuple[str, ...]) -> dict[str, str]:
    """What a process was started with; a name that was not set comes back as empty.

    Raises:
        TargetError: the kernel does not tell, so the change could not be rolled back.
    """
    try:
        raw = Path(f"/proc/{identity.pid}/environ").read_bytes()
    except OSError as error:
        raise TargetError(
            f"the settings of process {identity.pid} cannot be read, so nothing could be rolled back: {error}"
        ) from error
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    found = {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}
    return {name: found.get(name, "") for name in names}
