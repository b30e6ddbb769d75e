"""Crash loops, restart storms and slow starts on real processes; the event log tells what became of each."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from chaos.errors import TargetError
from chaos.faults.crash_loop import CrashLoop
from chaos.faults.fault import Fault, Scene
from chaos.faults.restart_storm import RestartStorm
from chaos.faults.slow_start import SlowStart
from chaos.processes import alive, state
from chaos.targets.local import LocalTarget
from tests.integration.targets.workshop import SERVICE, Workshop

if TYPE_CHECKING:
    from chaos.undo import Step

BOTH = ("web-1", "web-2")


@pytest.fixture
async def target(workshop: Workshop) -> AsyncIterator[LocalTarget]:
    """Two instances."""
    path = workshop.topology({"web": {"count": 2, "ready": {"http": "/readyz"}}})
    async with workshop.opened(path) as opened:
        await opened.target.start()
        yield opened.target


def story(workshop: Workshop, instance: str) -> list[str]:
    """What became of an instance, in order: started, ready, exited."""
    kinds = ("instance.started", "instance.ready", "instance.exited")
    events = [event for kind in kinds for event in workshop.events(kind) if event.instance == instance]
    return [event.kind.removeprefix("instance.") for event in sorted(events, key=lambda event: event.t_ns)]


async def calm_again(fault: Fault, scene: Scene) -> None:
    """Heals, and sees that every instance serves."""
    await fault.heal(scene)
    assert (await fault.heal_proof(scene)).proven


async def test_a_crash_loop_kills_what_was_ready_as_often_as_asked_and_no_more(
    workshop: Workshop, target: LocalTarget
) -> None:
    """Three kills: four processes, each ready before it was killed by SIGKILL; the other instance keeps its own."""
    spared = target.identity("web-2")
    fault = CrashLoop(role="web", times=3, for_s=60.0)
    scene = Scene.open(fault_id="crash_loop-1", target=target, instances=("web-1",))
    await fault.inject(scene)
    async with asyncio.timeout(20):
        while not (await fault.heal_proof(scene)).proven:  # noqa: ASYNC110  # it ends by itself, and tells nobody
            await asyncio.sleep(0.01)
    assert (await fault.effect(scene)).evidence["ended"] == {"web-1": 3}
    await calm_again(fault, scene)

    assert story(workshop, "web-1") == ["started", "ready", "exited"] * 3 + ["started", "ready"]
    ends = [event.data for event in workshop.events("instance.exited") if event.instance == "web-1"]
    assert ends == [{"returncode": -9, "expected": True}] * 3
    assert target.identity("web-2") == spared


async def test_a_crash_loop_goes_on_until_it_is_healed_and_not_a_moment_longer(target: LocalTarget) -> None:
    """In force it is not healed; afterwards the same process stays."""
    fault = CrashLoop(role="web", all=True)
    scene = Scene.open(fault_id="crash_loop-1", target=target, instances=BOTH)
    await fault.inject(scene)
    seen = await fault.effect(scene)
    assert seen.proven
    assert all(count >= 2 for count in seen.evidence["ended"].values())
    assert (await fault.heal_proof(scene)).proven is False
    await calm_again(fault, scene)
    total = (await fault.effect(scene)).evidence["ended"]
    after = [target.identity(name) for name in BOTH]
    await asyncio.sleep(0.3)  # more than a turn takes
    assert (await fault.effect(scene)).evidence["ended"] == total
    assert [target.identity(name) for name in BOTH] == after


async def test_an_instance_that_does_not_come_up_any_more_is_told_and_left_to_healing(workshop: Workshop) -> None:
    """It starts only once: the harm is proven, its failed starts are evidence, and healing says what is wrong."""
    once = 'test -e "$HOLDFAST_DATA_DIR/once" && exit 3; touch "$HOLDFAST_DATA_DIR/once"; exec "$0" "$@"'
    command = ["sh", "-c", once, "${python}", str(SERVICE)]
    path = workshop.topology({"web": {"count": 1, "command": command, "ready": {"http": "/readyz"}}})
    async with workshop.opened(path) as opened:
        await opened.target.start()
        fault = CrashLoop(role="web", all=True)
        scene = Scene.open(fault_id="crash_loop-1", target=opened.target, instances=("web-1",))
        await fault.inject(scene)
        seen = await fault.effect(scene)
        assert seen.proven
        assert seen.evidence["failed_starts"]["web-1"] >= 1
        assert "ended with exit status 3" in seen.evidence["failure"]["web-1"]
        with pytest.raises(TargetError, match="exit status 3"):
            await fault.heal(scene)
        assert (await fault.heal_proof(scene)).proven is False


async def test_in_a_storm_nobody_waits_for_the_others_to_be_ready(workshop: Workshop, target: LocalTarget) -> None:
    """Within no time both have ended before either is ready again; asked to end, they end in order."""
    fault = RestartStorm(role="web", all=True, within_s=0.0, times=1)
    scene = Scene.open(fault_id="restart_storm-1", target=target, instances=BOTH)
    await fault.inject(scene)
    assert (await fault.effect(scene)).proven
    await calm_again(fault, scene)

    ended = workshop.events("instance.exited")
    ready_again = workshop.events("instance.ready")[2:]
    assert [event.data["returncode"] for event in ended] == [0, 0]
    assert max(event.t_ns for event in ended) < min(event.t_ns for event in ready_again)


async def test_a_storm_is_spread_over_the_asked_time(target: LocalTarget) -> None:
    """The last one begins no sooner than asked; killed this time, and once more when they are up."""
    fault = RestartStorm(role="web", all=True, within_s=0.4, how="kill", up_s=0.0)
    scene = Scene.open(fault_id="restart_storm-1", target=target, instances=BOTH)
    await fault.inject(scene)
    try:
        seen = await fault.effect(scene)
    finally:
        await calm_again(fault, scene)
    assert seen.proven
    assert seen.evidence["spread_s"] >= 0.4 * 0.9


async def test_a_slow_start_takes_at_least_so_much_longer(workshop: Workshop, target: LocalTarget) -> None:
    """Held for half a second: stopped, known by its undo record before it was, and ready only when let go."""
    recorded: list[list[Step]] = []
    fault = SlowStart(role="web", by_s=0.5)
    scene = Scene.open(
        fault_id="slow_start-1", target=target, instances=("web-1",), record=lambda steps: recorded.append(list(steps))
    )
    before = target.identity("web-1")
    await fault.inject(scene)
    held = target.identity("web-1")
    assert held is not None
    assert held != before
    assert (await fault.effect(scene)).proven
    await asyncio.sleep(0.5)
    assert state(held) == "T"
    assert not await asyncio.wait_for(target.is_ready("web-1"), 5)
    await calm_again(fault, scene)

    proof = await fault.heal_proof(scene)
    assert proof.evidence["start_took_s"]["web-1"] >= 0.5
    assert target.identity("web-1") == held
    assert {"do": "signal", "pid": held.pid, "start_ticks": held.start_ticks, "signal": "CONT"} in recorded[-1]
    assert story(workshop, "web-1") == ["started", "ready", "exited", "started", "ready"]


async def test_a_start_that_is_held_up_for_too_long_fails_as_it_would_by_itself(workshop: Workshop) -> None:
    """The role allows two seconds: the start is given up, and healing starts it anew."""
    path = workshop.topology({"web": {"count": 1, "ready": {"http": "/readyz", "within": "2s"}}})
    async with workshop.opened(path) as opened:
        await opened.target.start()
        fault = SlowStart(role="web", by_s=60.0, all=True)
        scene = Scene.open(fault_id="slow_start-1", target=opened.target, instances=("web-1",))
        await fault.inject(scene)
        held = opened.target.identity("web-1")
        assert held is not None
        async with asyncio.timeout(10):
            while alive(held):  # noqa: ASYNC110  # it is the driver that ends it
                await asyncio.sleep(0.02)
        await calm_again(fault, scene)
        assert opened.target.identity("web-1") != held
