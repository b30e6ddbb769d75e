"""A deploy: every instance is stopped and started with changed settings, in one of the ways in which that is done.

    rolling      1' -> 2' -> 3' -> 4'                  each ready before the next one is stopped
    all_at_once  1' 2' 3' 4'                           nobody serves meanwhile
    half         1' -> 2' -- hold -- 3' -> 4'          two versions side by side, then finished,
                 1' -> 2' -- hold -- 2 -> 1            or with `then: roll_back` given up
    rolled_back  1' -> 2' -> 3' -> 4' -- hold -- 4 -> 3 -> 2 -> 1

It is a change, not an outage: it is kept once every instance shows it. Cut off half-way, it is rolled back to the
settings that the instances ran with before, as the kernel tells them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from chaos.faults.fault import FAULTS, NotThereError, Proof, RoleShape, Scene
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
_HOLD_S: Final = 3.0
_BEFORE: Final = "before"
_TOUCHED: Final = "touched"
_HELD: Final = "held"


@FAULTS.register("deploy")
@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """Replace the instances of a role by ones with changed settings (`set`), in the way of `strategy`.

    `half` and `rolled_back` stand still `hold` before they go on; `half` goes on as `then` says.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "set": {"env.VERSION": "v2"}, "strategy": "rolling"}

    role: str
    changes: Annotated[Mapping[str, EnvValue], Field(alias="set", min_length=1)]
    strategy: Literal["rolling", "all_at_once", "half", "rolled_back"] = "rolling"
    pause_between_s: Annotated[Seconds, Field(alias="pause_between")] = 0.0
    hold_s: Annotated[Annotated[Seconds, Field(le=300)] | None, Field(alias="hold")] = None
    """How long the new version stands, on some or all, before the deploy goes on; absent: 3 s."""
    then: Literal["finish", "roll_back"] | None = None
    """How a half-finished deploy goes on; absent: it is finished."""
    version: str | None = None
    """What the instances report afterwards; where it is not given, the value of `env.VERSION` if that is set."""
    env: Mapping[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [key for key in self.changes if not key.startswith(_ENV) or key == _ENV]
        if wrong:
            raise ValueError(f"set: {', '.join(wrong)}: a deploy changes the environment; write env.NAME: value")
        if self.hold_s is not None and self.strategy not in ("half", "rolled_back"):
            raise ValueError(f"hold: a deploy that is {self.strategy} never stands still; leave it out")
        if self.then is not None and self.strategy != "half":
            raise ValueError(f"then: only `strategy: half` has two ways to go on, not {self.strategy}; leave it out")
        if self.strategy == "all_at_once" and self.pause_between_s:
            raise ValueError("pause_between: all_at_once has nothing in between; leave it out")
        object.__setattr__(self, "env", {key.removeprefix(_ENV): value for key, value in self.changes.items()})

    @property
    def heal_after_s(self) -> None:
        """A change is kept."""
        return

    def takes_s(self, victims: int) -> float:
        """A guess: stop, start and readiness of each, and the pauses."""
        if self.strategy == "all_at_once":
            return _EACH_S
        back = {"rolling": 0, "half": victims // 2 if self.then == "roll_back" else 0, "rolled_back": victims}
        return (victims + back[self.strategy]) * (_EACH_S + self.pause_between_s) + self._hold_s

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Every instance of the role, in order; nothing is left to chance."""
        members = tuple(find_role(roles, self.role).zones)
        taken = [name for name in members if name in busy]
        if taken:
            raise ValueError(f"{', '.join(taken)} would be in the hands of another fault then")
        if self.strategy == "half" and len(members) < 2:
            raise NotThereError([f"role {self.role!r} has one instance: there is no half of it to deploy"])
        return members

    def takes_at_once(self, victims: int) -> int:
        """One after the other, unless the strategy says otherwise."""
        return victims if self.strategy == "all_at_once" else 1

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Start each with the settings of before, unless it runs with them."""
        return [start_step(name, env=env) for name, env in self._before(scene).items()]

    async def inject(self, scene: Scene) -> None:
        """Replaces them in the way of the strategy, up to its end."""
        who_runs(scene)
        self._before(scene)
        scene.notes[_TOUCHED] = []
        scene.took_hold()
        names = scene.instances
        match self.strategy:
            case "rolling":
                await self._replace_in_turn(scene, names)
            case "all_at_once":
                await self._replace_together(scene)
            case "half":
                half = names[: len(names) // 2]
                await self._replace_in_turn(scene, half)
                await self._hold(scene, half)
                if self.then == "roll_back":
                    await self._roll_back(scene)
                else:
                    await self._replace_in_turn(scene, names[len(half) :])
            case "rolled_back":
                await self._replace_in_turn(scene, names)
                await self._hold(scene, names)
                await self._roll_back(scene)

    async def effect(self, scene: Scene) -> Proof:
        """Every instance that was to be replaced is another process, with the settings it must end with, and ready.

        Where the deploy stood still, both versions (or the new one everywhere) were seen then. Where it ends with the
        new settings, they report the new version; a role that says nothing of versions is asked for it only where the
        experiment gives a `version`.
        """
        if self._goes_back:
            return await self._gone_back(scene)
        proof = await self._all_run_with(scene, dict.fromkeys(scene.instances, self.env))
        new = self._renewed(scene)
        held: Proof | None = scene.notes.get(_HELD)
        seen_held = self.strategy != "half" or (held is not None and held.proven)
        everyone_new = len(new) == len(scene.instances)
        proven = (
            proof.proven and everyone_new and seen_held and self._reported(set(proof.evidence["versions"].values()))
        )
        return Proof(proven=proven, evidence={**proof.evidence, "renewed": new, **_evidence_of(held)})

    async def heal(self, scene: Scene) -> None:
        """Rolls back what was replaced, or was about to be, to the settings of before."""
        await self._roll_back(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Every instance is ready and runs with the settings of before."""
        return await self._all_run_with(scene, self._before(scene))

    @property
    def _hold_s(self) -> float:
        return _HOLD_S if self.hold_s is None and self.strategy in ("half", "rolled_back") else self.hold_s or 0.0

    @property
    def _goes_back(self) -> bool:
        """Whether the deploy ends with the settings of before."""
        return self.strategy == "rolled_back" or self.then == "roll_back"

    async def _replace_in_turn(self, scene: Scene, names: Sequence[str]) -> None:
        """Each is ready before the next one is stopped."""
        for name in names:
            if scene.notes[_TOUCHED]:
                await asyncio.sleep(self.pause_between_s)
            scene.notes[_TOUCHED].append(name)  # before the first signal: healing may come at any time
            await _replace(scene, name, self.env)

    async def _replace_together(self, scene: Scene) -> None:
        scene.notes[_TOUCHED] += scene.instances
        replacing = (_replace(scene, name, self.env) for name in scene.instances)
        results = await asyncio.gather(*replacing, return_exceptions=True)
        failures = [result for result in results if result is not None]
        if failures:  # none is left in the middle of its replacement while another is rolled back
            raise failures[0]

    async def _hold(self, scene: Scene, new: Sequence[str]) -> None:
        """Stands still, and looks at the end who runs with what."""
        await asyncio.sleep(self._hold_s)
        before = self._before(scene)
        wanted = {name: self.env if name in new else before[name] for name in scene.instances}
        proof = await self._all_run_with(scene, wanted)
        versions = {name: proof.evidence["versions"].get(name) for name in new}
        scene.notes[_HELD] = Proof(
            proven=proof.proven and self._reported(set(versions.values())), evidence=proof.evidence
        )

    async def _roll_back(self, scene: Scene) -> None:
        """The last one first; who is not rolled back yet stays known."""
        touched: list[str] = scene.notes.get(_TOUCHED, [])
        while touched:
            await _replace(scene, touched[-1], scene.notes[_BEFORE][touched[-1]])
            touched.pop()

    async def _gone_back(self, scene: Scene) -> Proof:
        """The new version stood, and is gone again."""
        held: Proof | None = scene.notes.get(_HELD)
        proof = await self._all_run_with(scene, self._before(scene))
        new = self._renewed(scene)
        expected = len(scene.instances) // 2 if self.strategy == "half" else len(scene.instances)
        proven = proof.proven and held is not None and held.proven and len(new) >= expected
        return Proof(proven=proven, evidence={**proof.evidence, "renewed": new, **_evidence_of(held)})

    def _renewed(self, scene: Scene) -> list[str]:
        return [name for name in scene.instances if scene.target.identity(name) != scene.before[name]]

    def _reported(self, versions: set[str | None]) -> bool:
        """Whether the new instances report one version, the wanted one; silence will do where none is given."""
        wanted = self.version if self.version is not None else self.env.get(_VERSION)
        silent = versions == {None} and self.version is None
        return len(versions) == 1 and (silent or wanted is None or versions == {wanted})

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


def _evidence_of(held: Proof | None) -> dict[str, Any]:
    return {} if held is None else {"while_held": {"proven": held.proven, **held.evidence}}


async def _replace(scene: Scene, name: str, env: Mapping[str, str | None]) -> None:
    if runs(scene, name):
        await scene.target.stop_instance(name)
    await scene.target.start_instance(name, env=env)
