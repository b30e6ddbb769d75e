"""A rolling deploy: each instance is stopped, started with changed settings and awaited before the next one.

It is a change, not an outage: it is kept once every instance shows it. Cut off half-way, it is rolled back to the
settings that the instances ran with before, as the kernel tells them.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.restart import runs, who_runs
from chaos.faults.victims import find_role
from chaos.processes import settings_of
from chaos.targets.models import EnvValue
from chaos.undo import Step, start_step
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
        """Start each with the settings of before, unless it runs with them."""
        return [start_step(name, env=env) for name, env in self._before(scene).items()]

    async def inject(self, scene: Scene) -> None:
        """Replaces one after the other; each is ready before the next one is stopped."""
        who_runs(scene)
        self._before(scene)
        scene.notes[_TOUCHED] = []
        scene.took_hold()
        for name in scene.instances:
            if name != scene.instances[0]:
                await asyncio.sleep(self.pause_between_s)
            scene.notes[_TOUCHED].append(name)  # before the first signal: healing may come at any time
            await _replace(scene, name, self.env)

    async def effect(self, scene: Scene) -> Proof:
        """Every instance is another process than before, with the new settings, ready, and reports the new version.

        A role that says nothing of versions is asked for the last only where the experiment gives a `version`.
        """
        proof = await self._all_run_with(scene, dict.fromkeys(scene.instances, self.env))
        new = [name for name in scene.instances if scene.target.identity(name) != scene.before[name]]
        wanted = self.version if self.version is not None else self.env.get(_VERSION)
        reported = set(proof.evidence["versions"].values())
        silent = reported == {None} and self.version is None
        as_wanted = len(reported) == 1 and (silent or wanted is None or reported == {wanted})
        everyone_new = len(new) == len(scene.instances)
        return Proof(proven=proof.proven and everyone_new and as_wanted, evidence={**proof.evidence, "renewed": new})

    async def heal(self, scene: Scene) -> None:
        """Rolls back what was replaced, or was about to be, to the settings of before."""
        touched: list[str] = scene.notes.get(_TOUCHED, [])
        while touched:
            await _replace(scene, touched[-1], scene.notes[_BEFORE][touched[-1]])
            touched.pop()

    async def heal_proof(self, scene: Scene) -> Proof:
        """Every instance is ready and runs with the settings of before."""
        return await self._all_run_with(scene, self._before(scene))

    async def _all_run_with(self, scene: Scene, wanted: Mapping[str, Mapping[str, str | None]]) -> Proof:
        ready = [name for name in scene.instances if runs(scene, name) and await scene.target.is_ready(name)]
        versions = {name: await scene.target.version(name) for name in ready}
        settings = {}
        for name in ready:
            identity = scene.target.identity(name)
            settings[name] = None if identity is None else settings_of(identity, self.env)
        as_wanted = [name for name in ready if settings[name] == wanted[name]]
        return Proof(
            proven=len(as_wanted) == len(scene.instances),
            evidence={"ready": ready, "versions": versions, "settings": settings},
        )

    def _before(self, scene: Scene) -> dict[str, dict[str, str | None]]:
        """What the instances ran with when it was first asked for: before anything was touched.

        Raises:
            TargetError: one does not run, or the kernel does not tell, so the change could not be rolled back.
        """
        if _BEFORE not in scene.notes:
            running = who_runs(scene).items()
            scene.notes[_BEFORE] = {name: settings_of(identity, self.env) for name, identity in running}
        before: dict[str, dict[str, str | None]] = scene.notes[_BEFORE]
        return before


async def _replace(scene: Scene, name: str, env: Mapping[str, str | None]) -> None:
    if runs(scene, name):
        await scene.target.stop_instance(name)
    await scene.target.start_instance(name, env=env)
