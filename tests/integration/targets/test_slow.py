"""A slowed instance answers late and not never, the others as ever; what is proven of it is what the kernel says."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from chaos.faults.fault import Scene
from chaos.faults.slow import PERIOD_S, Slow
from chaos.processes import state
from chaos.targets.local import LocalTarget
from tests.integration.targets.workshop import Workshop

BOTH = ("web-1", "web-2")


@pytest.fixture
async def target(workshop: Workshop) -> AsyncIterator[LocalTarget]:
    """Two instances."""
    path = workshop.topology({"web": {"count": 2, "ready": {"http": "/readyz"}}})
    async with workshop.opened(path) as opened:
        await opened.target.start()
        yield opened.target


async def waits(target: LocalTarget, name: str, *, seconds: float) -> list[float]:
    """How long an instance took for each of many requests, one after the other."""
    port = next(instance.port for instance in target.instances("web") if instance.name == name)
    took_s = []
    ends_s = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < ends_s:
            started_s = time.monotonic()
            async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                assert response.status == 200
            took_s.append(time.monotonic() - started_s)
    return took_s


async def test_a_slowed_instance_answers_late_and_the_other_one_does_not_notice(target: LocalTarget) -> None:
    """By 80 % for a second and a half: each turn somebody waits for most of it, and others are served in between."""
    fault = Slow(role="web", by_ratio=0.8)
    scene = Scene.open(fault_id="slow-1", target=target, instances=("web-1",))
    await fault.inject(scene)
    try:
        slowed, spared = await asyncio.gather(*(waits(target, name, seconds=1.5) for name in BOTH))
        proof = await fault.effect(scene)
    finally:
        await fault.heal(scene)
    stop_s = 0.8 * PERIOD_S
    assert proof.proven
    assert proof.evidence["stopped_ratio"] == pytest.approx(0.8, abs=0.15)
    assert sum(wait_s > stop_s * 0.8 for wait_s in slowed) >= 4
    assert sorted(slowed)[len(slowed) // 2] < stop_s / 2, "between the stops it serves"
    assert len(spared) > 2 * len(slowed)


async def test_a_slowed_instance_is_stopped_at_once_and_left_alone_for_good_after_healing(target: LocalTarget) -> None:
    """Right after the injection it is stopped; once healed it is not found stopped over several turns."""
    fault = Slow(role="web")
    scene = Scene.open(fault_id="slow-1", target=target, instances=BOTH)
    identities = [identity for name in BOTH if (identity := target.identity(name)) is not None]
    await fault.inject(scene)
    try:
        assert [state(identity) for identity in identities] == ["T", "T"]
    finally:
        await fault.heal(scene)
    seen = set()
    ends_s = time.monotonic() + 2.5 * PERIOD_S
    while time.monotonic() < ends_s:
        seen |= {state(identity) for identity in identities}
        await asyncio.sleep(0.005)
    assert "T" not in seen
    assert (await fault.effect(scene)).proven is False
