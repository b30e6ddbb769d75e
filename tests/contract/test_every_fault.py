"""What every registered fault promises, played on real processes: a new fault is covered on arrival.

Each fault is built from its own `example` and plays on the first system of `stages.py` that has what it names; a new
one is a topology file in `targets/`. One system serves all of its tests; every test leaves it healed.
"""

import asyncio
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog

from chaos.engine.play import Stage
from chaos.faults.fault import FAULTS, Fault, Proof, Scene
from chaos.outline import shapes
from chaos.planner import Occurrence
from chaos.processes import alive, state
from chaos.targets.opening import OpenTarget, open_target
from chaos.targets.target import Target
from chaos.targets.topology import Topology
from chaos.undo import UndoLog, pending
from metrics.events import Event, EventLog, read_events
from tests.contract.stages import as_example, stage_of

DIES_HALF_WAY = Path(__file__).parent / "half_way.py"
HOLDS_UP = Path(__file__).parent / "hold_up.py"
LIMIT_S = 60.0

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.parametrize("name", list(FAULTS))]


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """The system that all tests share."""

    topology: Topology
    target: Target
    run_dir: Path
    stage: Stage
    versions: Mapping[str, str | None]
    """What each instance reported when the system had just started."""

    def fault(self, name: str, *, held: str = "300ms") -> Fault:
        """The fault of its own example, but `held` for another time."""
        return as_example(name, held=held)

    def victims(self, name: str, seed: int) -> tuple[str, ...]:
        return self.fault(name).choose(shapes(self.topology), frozenset(), random.Random(seed))  # noqa: S311

    def occurrence(self, name: str, fault_id: str, *, held: str = "300ms") -> Occurrence:
        fault, victims = self.fault(name, held=held), self.victims(name, 7)
        return Occurrence(fault_id=fault_id, name=name, fault=fault, at_s=0.0, instances=victims, params={})

    def events(self, fault_id: str) -> dict[str, Event]:
        return {event.kind: event for event in read_events(self.run_dir) if event.fault_id == fault_id}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def houses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[[str], Awaitable[House]]]:
    """Gives the system that a fault plays on, started once for all; afterwards nothing of any may be left."""
    async with AsyncExitStack() as stack:
        open_now: dict[Path, House] = {}

        async def house_of(name: str) -> House:
            topology = stage_of(name)
            if topology.path not in open_now:
                run_dir = tmp_path_factory.mktemp("run")
                open_now[topology.path] = await stack.enter_async_context(started(topology, run_dir))
            return open_now[topology.path]

        yield house_of


@pytest_asyncio.fixture(loop_scope="module")
async def house(houses: Callable[[str], Awaitable[House]], name: str) -> House:
    """The system that this fault plays on."""
    return await houses(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def held_up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[[str], Awaitable[Path]]]:
    """Gives the runs of the system that a fault plays on, held up once for all runners that are killed."""
    async with AsyncExitStack() as stack:
        up_now: dict[Path, Path] = {}

        async def runs_of(name: str) -> Path:
            path = stage_of(name).path
            if path not in up_now:
                up_now[path] = await stack.enter_async_context(holding(name, tmp_path_factory.mktemp("up")))
            return up_now[path]

        yield runs_of


@asynccontextmanager
async def holding(name: str, runs_dir: Path) -> AsyncIterator[Path]:
    """The system that this fault plays on, held up by a process of its own for the runs of that folder."""
    up = await spawn(str(HOLDS_UP), name, str(runs_dir))
    try:
        await read_until(up, b"is up at")
        yield runs_dir
    finally:
        up.terminate()
        assert await up.wait() == 0


@asynccontextmanager
async def started(topology: Topology, run_dir: Path) -> AsyncIterator[House]:
    """The system, up; at the end nothing of it may be left."""
    events, undo = EventLog(run_dir), UndoLog(run_dir)
    opened: OpenTarget[Target] = await open_target(
        topology,
        run_dir=run_dir,
        run_id=f"contract-{uuid.uuid4().hex}",
        events=events,
        runs_dir=run_dir,
        attach="never",
    )
    try:
        await opened.target.start()
        stage = Stage(target=opened.target, events=events, undo=undo, log=structlog.get_logger())
        versions = await versions_of(opened.target)
        yield House(topology=topology, target=opened.target, run_dir=run_dir, stage=stage, versions=versions)
    finally:
        left = await opened.target.stop()
        await opened.close()
        events.close()
        undo.close()
    assert left == ()


async def prove(look: Callable[[Scene], Any], scene: Scene) -> Proof:
    """Looks until it is proven."""
    proof = Proof(proven=False, evidence={})
    async with asyncio.timeout(LIMIT_S):
        while not proof.proven:
            proof = await look(scene)
            await asyncio.sleep(0.01)
    return proof


async def test_a_fault_is_not_in_force_before_and_seen_in_force_after_its_injection(house: House, name: str) -> None:
    """The proof of the effect must be able to say no: it is asked before the injection as well."""
    fault, victims = house.fault(name), house.victims(name, 1)
    scene = Scene.open(fault_id=f"{name}-1", target=house.target, instances=victims)

    assert (await fault.effect(scene)).proven is False
    try:
        await fault.inject(scene)
        assert (await prove(fault.effect, scene)).evidence
    finally:
        await fault.heal(scene)
        await prove(fault.heal_proof, scene)


async def test_healing_is_not_proven_while_in_force_and_may_be_repeated(house: House, name: str) -> None:
    """Healed twice, and once more when nothing is in force; the victims are ready and not stopped afterwards."""
    fault = house.fault(name)
    scene = Scene.open(fault_id=f"{name}-2", target=house.target, instances=house.victims(name, 2))
    await fault.inject(scene)
    await prove(fault.effect, scene)
    assert (await fault.heal_proof(scene)).proven is False
    await fault.heal(scene)
    await prove(fault.heal_proof, scene)
    after = {instance: house.target.identity(instance) for instance in scene.instances}
    await fault.heal(scene)
    await prove(fault.heal_proof, scene)

    assert after == {instance: house.target.identity(instance) for instance in scene.instances}
    assert await everyone_serves(house.target)


async def test_a_fault_that_is_played_writes_its_undo_record_first_and_is_done_at_the_end(
    house: House, name: str
) -> None:
    """The events of one occurrence are in the order of its life, and nothing is pending at the end."""
    fault_id = f"{name}-3"
    await house.stage.play(house.occurrence(name, fault_id))

    events = house.events(fault_id)
    assert list(events) == [
        "fault.undo_recorded",
        "fault.injected",
        "fault.effect",
        "fault.healed",
        "fault.heal_proven",
    ]
    assert events["fault.effect"].data["proven"] is True
    assert events["fault.heal_proven"].data["proven"] is True
    assert fault_id not in {record.fault_id for record in pending(house.run_dir)}
    assert house.stage.left == {}


@pytest.mark.parametrize("moment", ["fault.undo_recorded", "fault.injected"])
async def test_a_fault_that_is_cancelled_half_way_is_healed(house: House, name: str, moment: str) -> None:
    """Cancelled as soon as the event is seen, and again while healing: the second one must not break it.

    Held for a minute: however slow this machine, it cannot end by itself first.
    """
    fault_id = f"{name}-{moment}"
    playing = asyncio.create_task(house.stage.play(house.occurrence(name, fault_id, held="60s")))
    async with asyncio.timeout(LIMIT_S):
        while moment not in house.events(fault_id):  # noqa: ASYNC110  (a file has no event to await)
            await asyncio.sleep(0)
    playing.cancel()
    await asyncio.sleep(0.01)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing

    assert house.events(fault_id)["fault.heal_proven"].data["proven"] is True
    assert fault_id not in {record.fault_id for record in pending(house.run_dir)}
    assert await everyone_serves(house.target)


async def test_the_same_seed_takes_the_same_victims(house: House, name: str) -> None:
    """Twice from one seed; other seeds must come to other victims where the fault leaves anything to chance."""
    assert house.victims(name, 5) == house.victims(name, 5)
    others = {house.victims(name, seed) for seed in range(50)}
    whole_roles = {frozenset(shape.zones) for shape in shapes(house.topology).values()}
    assert len(others) > 1 or frozenset(house.victims(name, 5)) in {*whole_roles, frozenset()}


async def test_a_fault_of_a_killed_runner_is_undone_by_another_process_from_its_record_alone(
    house: House, held_up: Callable[[str], Awaitable[Path]], name: str, tmp_path: Path
) -> None:
    """A runner injects it into a target that is up and is killed; its watchdog has nothing but the record.

    Everyone serves again afterwards, in the version of before.
    """
    runs_dir = await held_up(name)
    runner = await spawn(str(DIES_HALF_WAY), name, str(runs_dir))
    try:
        await read_until(runner, b"injected")
    finally:
        runner.kill()
        await runner.wait()
    async with asyncio.timeout(LIMIT_S):
        while pending(runs_dir / f"half-way-{name}"):  # noqa: ASYNC110  (written by another process)
            await asyncio.sleep(0.02)
    await everyone_in(house.topology, runs_dir, tmp_path, versions=house.versions)


async def everyone_in(
    topology: Topology, runs_dir: Path, tmp_path: Path, *, versions: Mapping[str, str | None]
) -> None:
    """Attaches to the target that is up and waits until every instance serves in its version."""
    run_dir = tmp_path / "look"
    run_dir.mkdir()
    events = EventLog(run_dir)
    opened = await open_target(
        topology, run_dir=run_dir, run_id=f"look-{uuid.uuid4().hex}", events=events, runs_dir=runs_dir, attach="always"
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await everyone_serves(opened.target):  # noqa: ASYNC110  (seen from outside only)
                await asyncio.sleep(0.02)
        assert await versions_of(opened.target) == versions
    finally:
        await opened.target.stop()
        await opened.close()
        events.close()


async def versions_of(target: Target) -> dict[str, str | None]:
    """The version that each instance reports."""
    return {instance.name: await target.version(instance.name) for instance in target.instances()}


async def everyone_serves(target: Target) -> bool:
    """Whether every instance runs, is not stopped, and is ready."""
    for instance in target.instances():
        identity = target.identity(instance.name)
        if (
            identity is None
            or not alive(identity)
            or state(identity) == "T"
            or not await target.is_ready(instance.name)
        ):
            return False
    return True


async def spawn(*arguments: str) -> asyncio.subprocess.Process:
    """Python in a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )


async def read_until(process: asyncio.subprocess.Process, text: bytes) -> None:
    """Reads the output of a process until a line holds `text`."""
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        while text not in (line := await process.stdout.readline()):
            assert line, f"ended before it said {text!r}"
