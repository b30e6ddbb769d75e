"""Hogs take what was asked, as the kernel counts it, never more than is safe, and do not outlive their runner."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from chaos.errors import TargetError
from chaos.faults.cpu_hog import CpuHog
from chaos.faults.fault import Proof, Scene
from chaos.faults.hogging import hogs_of
from chaos.faults.memory_hog import MemoryHog
from chaos.hog import GO, TOO_LITTLE_LEFT, available_bytes
from chaos.parameters import written_as
from chaos.processes import alive, python_environment
from chaos.targets.local import LocalTarget
from chaos.undo import carry_out
from tests.integration.targets.workshop import Workshop, until

MIB = 2**20


@pytest.fixture
async def target(workshop: Workshop) -> AsyncIterator[LocalTarget]:
    """A target whose processes do not matter."""
    async with workshop.opened(workshop.topology({"web": {"count": 1, "ready": {"http": "/readyz"}}})) as opened:
        yield opened.target


async def proven(look: Callable[[Scene], Awaitable[Proof]], scene: Scene) -> Proof:
    """Looks until it is proven."""
    async with asyncio.timeout(20):
        while not (proof := await look(scene)).proven:  # noqa: ASYNC110  # what the kernel counts is no event
            await asyncio.sleep(0.02)
    return proof


def first_victim_of_the_kernel(pid: int) -> bool:
    """Whether nobody is ended before it when memory runs out."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 1000


@pytest.mark.parametrize("share_ratio", [0.2, 0.6])
async def test_a_hog_burns_the_asked_share_of_a_core_within_ten_points(target: LocalTarget, share_ratio: float) -> None:
    """Counted by the kernel; on a busy machine it may get less, if it waited for a core whenever it had none."""
    fault = CpuHog(share_ratio=share_ratio)
    scene = Scene.open(fault_id="cpu_hog-1", target=target, instances=())
    await fault.inject(scene)
    try:
        proof = await proven(fault.effect, scene)
    finally:
        await fault.heal(scene)
    got, waited = (next(iter(proof.evidence[key].values())) for key in ("got_ratio", "waited_ratio"))
    assert got <= share_ratio + 0.1
    assert got >= share_ratio - 0.1 or got + waited >= 0.9
    assert (await fault.heal_proof(scene)).proven


async def test_each_core_has_its_hog_at_the_asked_niceness(target: LocalTarget) -> None:
    """Read back from the kernel; both are gone after healing."""
    fault = CpuHog(cores=2, share_ratio=0.1, nice=7)
    scene = Scene.open(fault_id="cpu_hog-1", target=target, instances=())
    await fault.inject(scene)
    try:
        await proven(fault.effect, scene)
        identities = [hog.identity for hog in hogs_of(scene)]
        assert [os.getpriority(os.PRIO_PROCESS, it.pid) for it in identities] == [7, 7]
        assert (await fault.heal_proof(scene)).proven is False
    finally:
        await fault.heal(scene)
    assert not any(alive(it) for it in identities)


async def test_more_cores_than_there_are_and_more_memory_than_there_is_are_refused_before_anything_is_started(
    target: LocalTarget,
) -> None:
    """What to do stands in the text."""
    scene = Scene.open(fault_id="hog-1", target=target, instances=())
    with pytest.raises(TargetError, match=r"cores: 1024 of them are to burn, and this machine has \d+"):
        CpuHog(cores=1024).undo_steps(scene)
    with pytest.raises(TargetError, match=r"would leave less than 512 MiB .*take less, or free some"):
        MemoryHog(size_bytes=available_bytes() - 100 * MIB).undo_steps(scene)
    assert hogs_of(scene) == []


async def test_memory_is_held_and_given_back(target: LocalTarget) -> None:
    """At least what was asked, at most what Python itself takes on top; its record is enough to end it."""
    fault = MemoryHog(size_bytes=48 * MIB)
    scene = Scene.open(fault_id="memory_hog-1", target=target, instances=())
    assert fault.undo_steps(scene) == []
    await fault.inject(scene)
    proof = await proven(fault.effect, scene)
    assert 48 * MIB <= proof.evidence["held_bytes"] <= 48 * MIB + 32 * MIB
    assert first_victim_of_the_kernel(hogs_of(scene)[0].identity.pid)
    for step in fault.undo_steps(scene):
        assert "SIGKILL" in carry_out(step)
    await until(lambda: not alive(hogs_of(scene)[0].identity))
    assert (await fault.effect(scene)).proven is False
    await fault.heal(scene)


@pytest.mark.parametrize(
    "arguments", [("cpu", "0.5", "0"), ("memory", str(16 * MIB), str(128 * MIB))], ids=["cpu", "memory"]
)
@pytest.mark.parametrize("told", [b"", GO], ids=["before", "after"])
def test_a_hog_ends_with_its_runner(arguments: tuple[str, ...], told: bytes) -> None:
    """Its standard input ends, as it does when the runner dies by whatever signal; also before it was told to go."""
    with subprocess.Popen(
        [sys.executable, "-m", "chaos.hog", *arguments], env=python_environment(), stdin=subprocess.PIPE
    ) as hog:
        assert hog.stdin is not None
        hog.stdin.write(told)
        hog.stdin.close()
        assert hog.wait(timeout=20) == 0


def test_a_memory_hog_stops_growing_where_others_would_lack() -> None:
    """The rest that it must leave is just below what is there now; what it asks for could be had without harm."""
    arguments = ("memory", str(512 * MIB), str(available_bytes() - 64 * MIB))
    started_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "chaos.hog", *arguments], env=python_environment(), stdin=subprocess.PIPE
    ) as hog:
        assert hog.stdin is not None
        hog.stdin.write(GO)
        hog.stdin.flush()
        assert hog.wait(timeout=60) == TOO_LITTLE_LEFT, f"after {time.monotonic() - started_s:.1f} s"


@pytest.mark.parametrize(
    ("fault", "written", "told"),
    [
        (CpuHog, {"share": "150%"}, "expected a share"),
        (CpuHog, {"cores": 0}, "greater than or equal to 1"),
        (CpuHog, {"nice": -5}, "greater than or equal to 0"),
        (MemoryHog, {"size": 64}, "expected a size such as 64KiB"),
        (MemoryHog, {"size": "64 MB/s"}, "expected a size such as 64KiB"),
        (MemoryHog, {"size": "900TiB"}, "less than or equal to"),
        (MemoryHog, {"size": "64MiB", "leave": "1MiB"}, "greater than or equal to"),
    ],
    ids=str,
)
def test_wrong_units_and_absurd_sizes_are_refused(fault: type, written: dict[str, object], told: str) -> None:
    """When the experiment is read."""
    with pytest.raises(ValidationError, match=told):
        TypeAdapter(written_as(fault)).validate_python(written)
