"""An instance without a free descriptor: it keeps what it has, takes no new connection, and gets its limit back."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from chaos.descriptors import open_files
from chaos.faults.fault import Scene
from chaos.faults.fd_exhaustion import FdExhaustion
from chaos.processes import Identity, python_environment
from chaos.targets.local import LocalTarget
from tests.integration.targets.workshop import Workshop

ASK = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def target(workshop: Workshop) -> AsyncIterator[LocalTarget]:
    """One instance."""
    async with workshop.opened(workshop.topology({"web": {"count": 1, "ready": {"http": "/readyz"}}})) as opened:
        await opened.target.start()
        yield opened.target


def limit_of(identity: Identity) -> int:
    """The soft limit, as the kernel has it."""
    files = open_files(identity)
    assert files is not None
    return files.soft_limit


async def answered(target: LocalTarget, *, within_s: float) -> bool:
    """Whether a new connection gets an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.instances("web")[0].port)
    with closing(writer):
        writer.write(ASK)
        try:
            return bool(await asyncio.wait_for(reader.readline(), within_s))
        except (TimeoutError, ConnectionError):
            return False


async def test_nobody_new_is_taken_until_the_limit_is_back(target: LocalTarget) -> None:
    """Connecting still works, which the kernel does; accepting does not. The process stays the same."""
    identity = target.identity("web-1")
    assert identity is not None
    before = limit_of(identity)
    fault = FdExhaustion(role="web", all=True)
    scene = Scene.open(fault_id="fd_exhaustion-1", target=target, instances=("web-1",))
    assert await answered(target, within_s=20)
    steps = fault.undo_steps(scene)
    await fault.inject(scene)
    try:
        proof = await fault.effect(scene)
        assert proof.proven
        assert proof.evidence["processes"][str(identity.pid)]["room"] == 0
        assert not await answered(target, within_s=0.5)
        assert (await fault.heal_proof(scene)).proven is False
    finally:
        await fault.heal(scene)
    assert limit_of(identity) == before == steps[0]["soft"]
    assert await answered(target, within_s=20)
    assert (await fault.heal_proof(scene)).proven
    assert target.identity("web-1") == identity


async def test_what_is_left_can_be_opened(target: LocalTarget) -> None:
    """Room for many: the limit is lowered by no more than that, and connections are still taken."""
    identity = target.identity("web-1")
    assert identity is not None
    fault = FdExhaustion(role="web", all=True, leave=20)
    scene = Scene.open(fault_id="fd_exhaustion-1", target=target, instances=("web-1",))
    await fault.inject(scene)
    try:
        files = open_files(identity)
        assert files is not None
        assert files.soft_limit == files.lowest_free + 20
        assert await answered(target, within_s=20)
    finally:
        await fault.heal(scene)


async def test_another_process_gives_the_limit_back_from_the_record_alone(target: LocalTarget) -> None:
    """With nothing but the step, as the watchdog has it; the hard limit was never touched."""
    identity = target.identity("web-1")
    assert identity is not None
    before = limit_of(identity)
    fault = FdExhaustion(role="web", all=True)
    scene = Scene.open(fault_id="fd_exhaustion-1", target=target, instances=("web-1",))
    steps = fault.undo_steps(scene)
    await fault.inject(scene)
    assert limit_of(identity) < before
    code = f"from chaos.undo import carry_out; [carry_out(step) for step in {steps!r}]"
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=python_environment())
    assert await asyncio.wait_for(other.wait(), 60) == 0
    assert limit_of(identity) == before
    assert (await fault.effect(scene)).proven is False


async def test_a_process_that_has_gone_meanwhile_is_nobody_to_limit(target: LocalTarget) -> None:
    """Its pid may be another's by then: the record names the start time too. Healing starts the instance."""
    fault = FdExhaustion(role="web", all=True)
    scene = Scene.open(fault_id="fd_exhaustion-1", target=target, instances=("web-1",))
    await fault.inject(scene)
    await target.stop_instance("web-1")
    assert (await fault.effect(scene)).proven is False
    await fault.heal(scene)

    assert (await fault.heal_proof(scene)).proven
    assert target.identity("web-1") != scene.before["web-1"]
