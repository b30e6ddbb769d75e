"""A health check that lies: a node that is well is taken out, or one that is not keeps getting requests.

    balancer --health check--> its own listener for that node --(fault filter)--> node's real answer
                                       |
                                       `- while in force: 200 or 503, whatever the node would say

The listeners are there only in a balancer that was started for it (`HEALTH_LIES=on`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.connected import Output, reporter
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.victims import Victims
from chaos.requirement import Requirement
from chaos.targets.envoy import EnvoyAdmin
from chaos.undo import Step, carry_out
from metrics.units import PositiveSeconds

VARIABLE: Final = "HEALTH_LIES"
_STATUS: Final[Mapping[str, str]] = {"well": "200", "sick": "503"}
_ALL: Final = "100"
_BEFORE: Final = "before"


@FAULTS.register("false_health")
@dataclass(frozen=True, slots=True, kw_only=True)
class FalseHealth(Victims):
    """Let the balancer's health checks of instances be told that they are `well` or `sick`, `for` a time.

    `admin` is the admin address of the balancer, an Envoy. The instances themselves are not touched, but other faults
    leave them alone meanwhile.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "role": "portal",
        "count": 1,
        "admin": "balancer.admin_url",
        "says": "sick",
        "for": "3s",
    }

    admin: Output
    says: Literal["well", "sick"]
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the instances answer for themselves again."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as it lasts."""
        return self.for_s

    def requires(self, roles: Mapping[str, RoleShape]) -> Requirement:
        """The address, and a balancer that was started with a listener for each node's health."""
        return Requirement(outputs=(self.admin,), env={reporter(roles, self.admin): {VARIABLE: "on"}})

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:
        """As of other faults on instances."""
        reporter(roles, self.admin)
        return Victims.choose(self, roles, busy, rng)

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Take the settings back."""
        return [self._envoy(scene).taking_back(self._settings(scene))]

    async def inject(self, scene: Scene) -> None:
        """Puts the lie in force.

        Raises:
            TargetError: the balancer has no such listener for an instance.
        """
        envoy = self._envoy(scene)
        before = await envoy.counters(".fault.aborts_injected")
        missing = [name for name in scene.instances if _counter(_port(scene, name)) not in before]
        if missing:
            raise TargetError(
                f"the balancer at {self.admin} has no listener for the health of {', '.join(missing)}: start it with "
                f"{VARIABLE}=on"
            )
        scene.notes[_BEFORE] = before
        await envoy.set_runtime(self._settings(scene))

    async def effect(self, scene: Scene) -> Proof:
        """A health check of each has got the false answer, and who is called sick is out."""
        if _BEFORE not in scene.notes:
            return Proof(proven=False, evidence={})
        envoy = self._envoy(scene)
        now, before = await envoy.counters(".fault.aborts_injected"), scene.notes[_BEFORE]
        counters = {name: _counter(_port(scene, name)) for name in scene.instances}
        told = {name: now[counter] - before[counter] for name, counter in counters.items()}
        out = await self._out(scene)
        believed = self.says == "well" or set(out) == set(scene.instances)
        return Proof(proven=all(told.values()) and believed, evidence={"told": told, "out": out})

    async def heal(self, scene: Scene) -> None:
        """Takes the settings back."""
        for step in self.undo_steps(scene):
            await asyncio.to_thread(carry_out, step)

    async def heal_proof(self, scene: Scene) -> Proof:
        """None of the settings is in force, and whoever is ready is no longer out."""
        in_force = await self._envoy(scene).runtime(self._settings(scene))
        out = [name for name in await self._out(scene) if await scene.target.is_ready(name)]
        return Proof(proven=not in_force and not out, evidence={"settings": in_force, "out": out})

    def _settings(self, scene: Scene) -> dict[str, str]:
        keys = [f"fault.http.health.{_port(scene, name)}" for name in scene.instances]
        statuses = {f"{key}.abort.http_status": _STATUS[self.says] for key in keys}
        return statuses | {f"{key}.abort.abort_percent": _ALL for key in keys}

    async def _out(self, scene: Scene) -> list[str]:
        """Those whom the balancer has taken out for their health checks."""
        out = await self._envoy(scene).failing()
        return [name for name in scene.instances if _port(scene, name) in out]

    def _envoy(self, scene: Scene) -> EnvoyAdmin:
        return EnvoyAdmin(scene.target.address(self.admin))


def _port(scene: Scene, instance: str) -> int:
    (port,) = (it.port for it in scene.target.instances() if it.name == instance)
    return port


def _counter(port: int) -> str:
    return f"http.health_{port}.fault.aborts_injected"
