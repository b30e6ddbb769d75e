"""Faults on services that have workers: what is harmed is the whole instance, not only the process that was started.

The worker here is the worst kind: it ignores SIGTERM, leaves the session and forgets its environment.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from chaos.faults.fault import Proof, Scene
from chaos.faults.kill import Kill
from chaos.faults.pause import Pause
from chaos.faults.stop import Stop
from chaos.processes import Identity, alive, every_process, send, state
from chaos.targets.target import Target
from chaos.undo import Step, carry_out
from tests.integration.targets.test_up import held_up
from tests.integration.targets.workshop import Workshop

VICTIM = "web-1"
LIMIT_S = 5.0


def web(workshop: Workshop) -> Path:
    """One instance with a worker, and one beside it that nothing may happen to."""
    role = {"ready": {"http": "/readyz", "within": "10s"}, "env": {"OFFSPRING": 1}, "stop": {"grace": "1s"}}
    return workshop.topology({"web": role, "other": role})


@pytest.fixture(params=["own", "attached"])
async def target(workshop: Workshop, request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """A target of our own, and one that `up` holds."""
    path = web(workshop)
    async with AsyncExitStack() as stack:
        if request.param == "own":
            opened: Any = await stack.enter_async_context(workshop.opened(path))
        else:
            await stack.enter_async_context(held_up(workshop, path))
            opened = await stack.enter_async_context(workshop.attached(path))
        await opened.target.start()
        yield opened.target


def main_and_worker(target: Target, instance: str = VICTIM) -> tuple[Identity, Identity]:
    """The two processes of an instance, as the kernel knows them."""
    main = target.identity(instance)
    assert main is not None
    (worker,) = (stat.identity for stat in every_process().values() if stat.parent == main.pid)
    return main, worker


async def proven(look: Callable[[Scene], Any], scene: Scene) -> Proof:
    """The first look that proves it, or the last one."""
    ends_s = asyncio.get_running_loop().time() + LIMIT_S
    while True:
        proof: Proof = await look(scene)
        if proof.proven or asyncio.get_running_loop().time() > ends_s:
            return proof
        await asyncio.sleep(0.02)


def scene_of(target: Target, **more: Any) -> Scene:
    """The victim's scene."""
    return Scene.open(fault_id="fault-1", target=target, instances=[VICTIM], **more)


async def test_killing_an_instance_ends_its_workers(target: Target) -> None:
    """And nobody else's."""
    main, worker = main_and_worker(target)
    others = main_and_worker(target, "other-1")
    fault, scene = Kill(role="web"), scene_of(target)
    assert set(target.members(VICTIM)) == {main, worker}
    await fault.inject(scene)

    assert not alive(main)
    assert not alive(worker)
    assert (await proven(fault.effect, scene)).proven is True
    await fault.heal(scene)
    assert (await proven(fault.heal_proof, scene)).proven is True
    assert main_and_worker(target) != (main, worker)
    assert main_and_worker(target, "other-1") == others


async def test_an_instance_whose_worker_lives_counts_as_neither_killed_nor_stopped(target: Target) -> None:
    """Only the main process ends: its socket is gone, but with a real service the worker would go on serving."""
    main, worker = main_and_worker(target)
    scenes: list[tuple[Any, Scene]] = [(Kill(role="web"), scene_of(target)), (Stop(role="web"), scene_of(target))]
    os.kill(main.pid, signal.SIGKILL)
    await target.expect_exit(VICTIM, within_s=LIMIT_S)

    assert alive(worker)
    for fault, scene in scenes:
        assert (await fault.effect(scene)).proven is False


async def test_an_instance_that_leaves_a_worker_behind_has_not_stopped(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM goes to the main process alone, which ends in order; the worker stays, and that is seen."""
    monkeypatch.setattr("tests.integration.targets.test_workers.LIMIT_S", 0.3)
    _main, worker = main_and_worker(target)
    fault, scene = Stop(role="web"), scene_of(target)
    await fault.inject(scene)

    assert alive(worker)
    proof = await proven(fault.effect, scene)
    assert proof.proven is False
    assert proof.evidence["exited_by_itself"] == {VICTIM: True}
    assert proof.evidence["still_there"] == {VICTIM: [worker.pid]}
    await fault.heal(scene)
    assert not alive(worker)


async def test_pausing_an_instance_stops_its_workers_and_each_is_in_the_record(target: Target) -> None:
    """The record alone lets both go on; `heal` does so too."""
    main, worker = main_and_worker(target)
    fault, scene = Pause(role="web"), scene_of(target)
    steps = fault.undo_steps(scene)
    assert [step["pid"] for step in steps] == [main.pid, worker.pid]
    await fault.inject(scene)

    assert (await proven(fault.effect, scene)).proven is True
    assert (state(main), state(worker)) == ("T", "T")
    for step in steps:
        carry_out(step)
    assert "T" not in {state(main), state(worker)}
    await fault.inject(scene)
    await fault.heal(scene)
    assert "T" not in {state(main), state(worker)}
    assert (await proven(fault.heal_proof, scene)).proven is True


async def test_a_pause_that_misses_a_worker_is_no_pause_and_one_that_leaves_it_stopped_is_not_healed(
    target: Target,
) -> None:
    """Only one of the two processes is in the state that is asked for."""
    main, worker = main_and_worker(target)
    fault, scene = Pause(role="web"), scene_of(target)
    fault.undo_steps(scene)
    os.kill(main.pid, signal.SIGSTOP)
    assert (await fault.effect(scene)).proven is False
    os.kill(worker.pid, signal.SIGSTOP)
    os.kill(main.pid, signal.SIGCONT)
    assert (await fault.heal_proof(scene)).proven is False
    await fault.heal(scene)
    assert (await proven(fault.heal_proof, scene)).proven is True


async def test_a_worker_that_appears_after_the_record_was_written_is_added_to_it_before_it_is_stopped(
    target: Target,
) -> None:
    """The record is written while the worker is not known; when it is added, the main process stands still already."""
    main, worker = main_and_worker(target)
    recorded: list[list[Step]] = []
    seen: list[tuple[str | None, str | None]] = []

    def record(steps: Any) -> None:
        recorded.append(list(steps))
        seen.append((state(main), state(worker)))

    class Young:
        """The target as it was before the worker was there, for one look."""

        looks = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(target, name)

        def members(self, instance: str) -> tuple[Identity, ...]:
            self.looks += 1
            return (main,) if self.looks == 1 else target.members(instance)

    young: Any = Young()
    fault, scene = Pause(role="web"), scene_of(young, record=record)
    assert [step["pid"] for step in fault.undo_steps(scene)] == [main.pid]
    await fault.inject(scene)

    assert [[step["pid"] for step in steps] for steps in recorded] == [[main.pid, worker.pid]]
    assert seen[0][0] == "T"
    assert seen[0][1] != "T"
    assert (await proven(fault.effect, scene)).proven is True
    await fault.heal(scene)


async def test_a_victim_that_died_by_itself_just_before_is_no_proof_of_a_kill(target: Target) -> None:
    """It is gone, and so is its worker, but not by this fault."""
    main, worker = main_and_worker(target)

    class Dying:
        """The target, whose victim dies between being looked at and being signalled."""

        def __getattr__(self, name: str) -> Any:
            return getattr(target, name)

        def members(self, instance: str) -> tuple[Identity, ...]:
            found = target.members(instance)
            for identity in (main, worker):
                send(identity, signal.SIGKILL)
            while alive(main) or alive(worker):
                os.sched_yield()
            return found

    dying: Any = Dying()
    fault, scene = Kill(role="web"), scene_of(dying)
    await fault.inject(scene)

    assert (await fault.effect(scene)).proven is False
    await fault.heal(scene)
    assert (await proven(fault.heal_proof, scene)).proven is True
