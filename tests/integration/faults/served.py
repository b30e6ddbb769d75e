"""Playing faults step by step on a system that stays up, and asking its database what it sees."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg
from pydantic import TypeAdapter

from chaos.faults.fault import FAULTS, Fault, Proof, Scene, requirement_of
from chaos.outline import shapes
from chaos.parameters import written_as
from chaos.requirement import merge
from chaos.targets.local import LocalTarget
from chaos.targets.models import Role
from chaos.targets.topology import Topology, load_topology
from chaos.undo import Step

_TARGETS: Final = Path(__file__).parents[2] / "contract" / "targets"
LIMIT_S: Final = 15.0
ADMIN: Final = "postgres.admin_dsn"


def with_database() -> Topology:
    """The contract's system with a database, and beside it a role that reports an address that is not its own."""
    told = 'printf \'{"dsn": "%s"}\' "$TOLD" > "$HOLDFAST_READY_FILE"; exec sleep 600'
    stranger = Role.model_validate(
        {"command": ["sh", "-c", told], "ready": {"file": True}, "env": {"TOLD": "${postgres.admin_dsn}"}}
    )
    return _beside(load_topology(_TARGETS / "postgres.yaml"), "stranger", stranger, ["dsn"])


def with_balancer(*prefixes: str) -> Topology:
    """The contract's system with a balancer, told to have filters below these paths; `plain` has none."""
    topology = load_topology(_TARGETS / "balanced.yaml")
    topology = _beside(topology, "plain", topology.file.roles["balancer"], ["admin_url"])
    faults = [built("http_abort", admin="balancer.admin_url", path=prefix) for prefix in prefixes]
    faults.append(built("false_health", admin="balancer.admin_url", role="portal", says="sick"))
    return replace(topology, requirement=merge(requirement_of(fault, shapes(topology)) for fault in faults))


def _beside(topology: Topology, name: str, role: Role, outputs: list[str]) -> Topology:
    file = topology.file
    more = {"roles": {**file.roles, name: role}, "outputs": {**file.outputs, name: outputs}}
    return replace(topology, file=file.model_copy(update=more))


def built(name: str, **parameters: Any) -> Fault:
    """A fault as an experiment would write it."""
    fault: Fault = TypeAdapter(written_as(FAULTS[name])).validate_python(parameters)
    return fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A fault that has been injected."""

    fault: Fault
    scene: Scene
    recorded: list[list[Step]]
    """Each undo record that the injection wrote."""

    async def effect(self) -> Proof:
        """The effect, once it is proven."""
        return await _proven(self.fault.effect, self.scene)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The system."""

    target: LocalTarget
    topology: Topology
    run_dir: Path
    numbers: list[int] = field(default_factory=list)

    def scene(self, fault: Fault, recorded: list[list[Step]]) -> Scene:
        """A scene of its own for one occurrence."""
        self.numbers.append(1)
        return Scene.open(
            fault_id=f"test-{len(self.numbers)}",
            target=self.target,
            instances=fault.choose(shapes(self.topology), frozenset(), Random(1)),  # noqa: S311  (leaves no choice)
            record=lambda steps: recorded.append(list(steps)),
        )

    @asynccontextmanager
    async def playing(self, name: str, **parameters: Any) -> AsyncIterator[Played]:
        """Injects a fault; at the end it is healed, which is proven."""
        recorded: list[list[Step]] = []
        fault = built(name, **parameters)
        scene = self.scene(fault, recorded)
        recorded.append(list(fault.undo_steps(scene)))
        try:
            await fault.inject(scene)
            yield Played(fault=fault, scene=scene, recorded=recorded)
        finally:
            await fault.heal(scene)
            await _proven(fault.heal_proof, scene)

    @asynccontextmanager
    async def connected(self, application: str = "test", *, dsn: str = ADMIN, **settings: str) -> AsyncIterator[Any]:
        """A connection of a client of its own."""
        given: Mapping[str, str] = {"application_name": application, **settings}
        connection = await asyncpg.connect(self.target.output(dsn), server_settings=given, timeout=LIMIT_S)
        try:
            yield connection
        finally:
            connection.terminate()

    async def ask(self, sql: str, *values: Any) -> Any:
        """One value of the database, asked by its owner."""
        async with self.connected() as connection:
            return await connection.fetchval(sql, *values)

    async def until(self, sql: str, *values: Any) -> None:
        """Returns when a question is answered with true."""
        async with asyncio.timeout(LIMIT_S), self.connected() as connection:
            while not await connection.fetchval(sql, *values):  # noqa: ASYNC110  (the database offers no event)
                await asyncio.sleep(0.01)


async def _proven(look: Callable[[Scene], Awaitable[Proof]], scene: Scene) -> Proof:
    async with asyncio.timeout(LIMIT_S):
        while not (proof := await look(scene)).proven:  # noqa: ASYNC110  (as the engine does: a look is a question)
            await asyncio.sleep(0.01)
    return proof
