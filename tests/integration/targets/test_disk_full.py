"""A data folder without room: on a small file system of its own, which outlives its instance and fills no real disk."""

import asyncio
import errno
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from chaos import small_disk
from chaos.ballast import SmallDisk, small_disk_of
from chaos.errors import TargetError
from chaos.faults.disk_full import CAPABILITY, DiskFull
from chaos.faults.fault import Scene, requirement_of
from chaos.outline import shapes
from chaos.processes import Identity, alive, myself, python_environment, send
from chaos.requirement import Requirement
from chaos.targets.local import LocalTarget
from chaos.targets.opening import open_own
from chaos.targets.topology import load_topology
from metrics.events import EventLog
from tests.integration.targets.workshop import Workshop

MIB = 2**20
FAULT = DiskFull(role="web", size_bytes=2 * MIB, all=True)
Opened = Callable[[], AbstractAsyncContextManager[LocalTarget]]


@pytest.fixture
def started(workshop: Workshop) -> Opened:
    """One instance, started as the fault needs it."""
    lacking = Requirement(capabilities=(CAPABILITY,)).lacking()
    if lacking:
        pytest.skip(lacking[0])

    @asynccontextmanager
    async def opened() -> AsyncIterator[LocalTarget]:
        topology = load_topology(workshop.topology({"web": {"count": 1, "ready": {"http": "/readyz"}}}))
        topology = replace(topology, requirement=requirement_of(FAULT, shapes(topology)))
        run_dir = workshop.run_dir("run-1")
        events = EventLog(run_dir)
        own = await open_own(topology, run_dir=run_dir, run_id=f"{workshop.token}-run-1", events=events)
        try:
            await own.target.start()
            yield own.target
        finally:
            assert await own.target.stop() == ()
            await own.close()
            events.close()

    return opened


async def keep(target: LocalTarget) -> dict[str, int]:
    """Has the instance append a page to a file; how large that is now, or why it could not."""
    url = f"http://127.0.0.1:{target.instances('web')[0].port}/kept"
    async with aiohttp.ClientSession() as session, session.post(url, json={}) as answer:
        said: dict[str, int] = await answer.json(content_type=None)
        return said


def scene_of(target: LocalTarget) -> Scene:
    """A scene with the one instance."""
    return Scene.open(fault_id="disk_full-1", target=target, instances=("web-1",))


def identity_of(target: LocalTarget) -> Identity:
    """The instance's process."""
    identity = target.identity("web-1")
    assert identity is not None
    return identity


async def test_the_instance_cannot_write_until_it_is_healed(started: Opened, workshop: Workshop) -> None:
    """It gets ENOSPC itself; the folder as the machine sees it holds nothing but who keeps the file system."""
    async with started() as target:
        scene = scene_of(target)
        assert await keep(target) == {"kept": 4096}
        assert (await FAULT.effect(scene)).proven is False
        FAULT.undo_steps(scene)
        await FAULT.inject(scene)
        proof = await FAULT.effect(scene)
        assert proof.proven
        assert proof.evidence["free_bytes"] == {"web-1": 0}
        assert await keep(target) == {"errno": errno.ENOSPC}
        below = sorted(path.name for path in (workshop.runs_dir / "run-1" / "data" / "web-1").iterdir())
        assert below == [".keeper.json", "outside.txt"]
        assert (await FAULT.heal_proof(scene)).proven is False
        await FAULT.heal(scene)
        assert (await FAULT.heal_proof(scene)).proven
        assert await keep(target) == {"kept": 8192}


async def test_what_was_written_outlives_a_killed_instance(started: Opened) -> None:
    """Killed while it is full, as a database may end itself; started by healing it has its file, and room."""
    async with started() as target:
        await keep(target)
        scene = scene_of(target)
        FAULT.undo_steps(scene)
        await FAULT.inject(scene)
        send(identity_of(target), signal.SIGKILL)
        await target.expect_exit("web-1", within_s=10)
        assert (await FAULT.effect(scene)).proven, "the file system is there and full without it"
        await FAULT.heal(scene)
        assert (await FAULT.heal_proof(scene)).proven
        assert await keep(target) == {"kept": 8192}
        keeper = small_disk_of(identity_of(target)).keeper
        assert alive(keeper)
    assert not alive(keeper)


async def test_another_process_makes_room_from_the_record_alone(started: Opened) -> None:
    """With nothing but the step, as the watchdog has it; twice does no harm."""
    async with started() as target:
        scene = scene_of(target)
        steps = FAULT.undo_steps(scene)
        await FAULT.inject(scene)
        code = f"from chaos.undo import carry_out; [carry_out(step) for step in 2 * {steps!r}]"
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=python_environment())
        assert await asyncio.wait_for(other.wait(), 60) == 0
        assert await keep(target) == {"kept": 4096}
        assert (await FAULT.heal_proof(scene)).proven


async def test_an_instance_without_a_small_file_system_is_refused(workshop: Workshop) -> None:
    """Said when the undo record is made, before anything is written."""
    async with workshop.opened(workshop.topology({"web": {"count": 1, "ready": {"http": "/readyz"}}})) as opened:
        await opened.target.start()
        with pytest.raises(TargetError, match="was not started with a small file system for its data"):
            FAULT.undo_steps(scene_of(opened.target))


def test_a_real_disk_is_never_filled(tmp_path: Path) -> None:
    """A keeper that keeps nothing: the folder is where everybody's is. Not a byte is written.

    The limit is small, so that even a guard that is broken could do no harm.
    """
    disk = SmallDisk(keeper=myself(), folder=tmp_path)
    with pytest.raises(TargetError, match="nothing is written there"):
        disk.fill(MIB)
    assert list(tmp_path.iterdir()) == []


async def test_a_launcher_that_cannot_do_it_says_so_and_starts_nothing(tmp_path: Path) -> None:
    """On a folder that is not there, and where the keeper of the files has ended."""
    (tmp_path / small_disk.KEEPER_FILE).write_text('{"pid": 1, "start_ticks": -1}')
    for folder, told in (
        (tmp_path / "none", b"No such file"),
        (tmp_path, b"its files are gone; start the target anew"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, small_disk.__file__, str(MIB), str(folder), "touch", str(tmp_path / "trace")),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == small_disk.FAILED
        assert told in said
    assert not (tmp_path / "trace").exists()
