"""What 50,000 sessions cost: opening them in bulk, synchronising them after a window, and all of them coming back."""

import asyncio
import csv
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg

from tests.benchmarks.measure import Figure
from tests.integration.platform.stage import Process, Stage, await_ready

_SESSIONS: Final = 50_000
_CLIENTS: Final = 64
_CHUNK: Final = 5_000


def measure_sessions() -> Iterator[Figure]:
    """Seeds, reopens, synchronises, then reads every balance once through the balancer and two nodes."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(folder=Path(name))
        try:
            postgres = stage.add_database()
            portals = [stage.add_portal(f"portal-{number}", postgres) for number in (1, 2)]
            for portal in portals:
                await_ready(portal)
            balancer = stage.add_balancer("balancer", portals)
            began_s = time.perf_counter()
            sessions = _seed(stage, postgres)
            yield Figure(name="seed 50,000 accounts and sessions", value=time.perf_counter() - began_s, unit="s")
            yield from asyncio.run(_measure(postgres.outputs(), balancer.outputs()["url"], sessions))
        finally:
            stage.close()


def _seed(stage: Stage, postgres: Process) -> list[tuple[str, str]]:
    file = stage.folder / "sessions.csv"
    seeded = stage.run(
        *("seed", "--accounts", str(_SESSIONS), "--out", str(stage.folder / "accounts.csv")),
        *("--sessions", str(_SESSIONS), "--sessions-out", str(file)),
        DATABASE_ADMIN_URL=postgres.outputs()["admin_dsn"],
    )
    if seeded.returncode != 0:
        raise RuntimeError(seeded.stderr)
    with file.open(encoding="utf-8", newline="") as text:
        return [(row["token"], row["account"]) for row in csv.DictReader(text)]


async def _measure(outputs: dict[str, str], url: str, sessions: Sequence[tuple[str, str]]) -> list[Figure]:
    owner = await asyncpg.connect(outputs["admin_dsn"])
    maintenance = await asyncpg.connect(outputs["maintenance_dsn"])
    try:
        await owner.execute("update service_state set epoch = epoch + 1")
        began_s = time.perf_counter()
        while (await maintenance.fetchrow("select * from synchronise_sessions($1)", _CHUNK))["synchronised"] == _CHUNK:
            pass
        synchronised_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        answers = [answer async for answer in _read_all(url, sessions)]
        read_s = time.perf_counter() - began_s
        totals = {row["id"]: row["balance"] for row in await owner.fetch("select id, balance from account")}
    finally:
        await owner.close()
        await maintenance.close()
    wrong = sum(answer["state"] != "current" or totals[account] != answer["balance"] for account, answer in answers)
    return [
        Figure(name="synchronise 50,000 sessions after a window", value=synchronised_s, unit="s"),
        Figure(name="50,000 sessions read their balance once", value=read_s, unit="s"),
        Figure(name="  of them not exact", value=wrong, unit="answers"),
    ]


async def _read_all(url: str, sessions: Sequence[tuple[str, str]]) -> AsyncIterator[tuple[str, Any]]:
    """Each session's account and what it is told, by a number of clients that take turns."""
    waiting = iter(sessions)
    told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def read(client: aiohttp.ClientSession) -> None:
        for token, account in waiting:
            async with client.get(f"{url}/v1/balance", headers={"Authorization": f"Bearer {token}"}) as response:
                response.raise_for_status()
                told.put_nowait((account, await response.json()))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client, asyncio.TaskGroup() as group:
        for _ in range(_CLIENTS):
            group.create_task(read(client))
        for _ in sessions:
            yield await told.get()
