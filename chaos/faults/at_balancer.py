"""What faults on requests at an Envoy share: its fault filter, put in force by runtime settings and by nothing else.

    HTTP_FAULTS=/                        given to the balancer's role at its start, only when a fault asks for it
      -> a fault filter that does nothing, with the runtime keys  fault.http.abort.*  fault.http.delay.*
    HTTP_FAULTS_V1_DEPOSITS=/v1/deposits
      -> a second one for that prefix, with the keys              fault.http.v1.deposits.abort.*  ...

An Envoy that others start has the first one when its configuration names `envoy.filters.http.fault` without more.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.connected import Output, reporter
from chaos.faults.fault import Proof, RoleShape, Scene
from chaos.requirement import Requirement
from chaos.targets.envoy import EnvoyAdmin
from chaos.undo import Step, carry_out
from metrics.units import PositiveSeconds, Ratio

VARIABLE: Final = "HTTP_FAULTS"
Prefix = Annotated[str, Field(pattern=r"^(/|(/[A-Za-z0-9_-]+)+)$", description="a path and all below it: /v1/deposits")]

_MILLION: Final = 1_000_000
_BEFORE: Final = "before"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtBalancer(ABC):
    """Harms `percent` of the requests below `path`, at the Envoy whose admin address the target reports as `admin`.

    It takes no instance, so others may play meanwhile.
    """

    counted: ClassVar[str]
    """How the counter ends that Envoy raises for each request harmed."""

    admin: Output
    path: Prefix = "/"
    percent: Annotated[Ratio, Field(gt=0)] = 1.0
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until requests are left alone."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """No instance is taken."""
        return 0.0

    def requires(self, roles: Mapping[str, RoleShape]) -> Requirement:
        """The address, and a balancer that was started with the filter where it is ours to start."""
        role = reporter(roles, self.admin)
        variable = VARIABLE + self.path.upper().replace("/", "_").replace("-", "_").rstrip("_")
        env = {} if roles[role].external else {role: {variable: self.path}}
        return Requirement(outputs=(self.admin,), env=env)

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Nobody: it acts on requests."""
        reporter(roles, self.admin)
        return ()

    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """Runtime key -> value while in force."""

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Take the settings back."""
        return [self._envoy(scene).taking_back(self.settings())]

    async def inject(self, scene: Scene) -> None:
        """Puts the settings in force.

        Raises:
            TargetError: the Envoy has no fault filter, or another fault has these settings in its hands.
        """
        envoy = self._envoy(scene)
        before = await envoy.counters(self.counted)
        if not before:
            raise TargetError(
                f"the Envoy at {self.admin} has no fault filter: start it with {VARIABLE} set, or name "
                "envoy.filters.http.fault before the router in its configuration"
            )
        if taken := await envoy.runtime(self.settings()):
            raise TargetError(f"another fault has requests below {self.path} in its hands: {taken}")
        scene.notes[_BEFORE] = before
        await envoy.set_runtime(self.settings())

    async def effect(self, scene: Scene) -> Proof:
        """The settings are in force, and Envoy has counted requests that it harmed since."""
        if _BEFORE not in scene.notes:
            return Proof(proven=False, evidence={})
        envoy = self._envoy(scene)
        wanted = self.settings()
        in_force = await envoy.runtime(wanted)
        before: Mapping[str, int] = scene.notes[_BEFORE]
        counted = {name: value - before.get(name, 0) for name, value in (await envoy.counters(self.counted)).items()}
        evidence: dict[str, Any] = {"settings": in_force, "harmed": sum(counted.values())}
        return Proof(proven=set(in_force) == set(wanted) and sum(counted.values()) > 0, evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Takes the settings back, unless this fault never got as far as putting them in force."""
        if _BEFORE in scene.notes:
            for step in self.undo_steps(scene):
                await asyncio.to_thread(carry_out, step)

    async def heal_proof(self, scene: Scene) -> Proof:
        """None of the settings is in force; where another fault's are, ours never were."""
        in_force = await self._envoy(scene).runtime(self.settings())
        return Proof(proven=not in_force or _BEFORE not in scene.notes, evidence={"settings": in_force})

    def key(self, name: str) -> str:
        """The runtime key of a setting for this path."""
        return ".".join(filter(None, ("fault.http", *self.path.split("/"), name)))

    def share(self) -> str:
        """The share of requests as Envoy reads it: to a millionth."""
        return f'{{"numerator": {round(self.percent * _MILLION)}, "denominator": "MILLION"}}'

    def _envoy(self, scene: Scene) -> EnvoyAdmin:
        return EnvoyAdmin(scene.target.address(self.admin))
