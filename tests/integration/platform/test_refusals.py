"""A database that refuses what a process needs: the process stays, says so, and goes on when it is mended."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from system_under_test.refusals import Refusals
from system_under_test.storage.database import Database, DatabaseLimits
from system_under_test.storage.lease import Lease
from tests.integration.platform.customers import until
from tests.integration.platform.operations import Company, Operator, operate
from tests.integration.platform.queues import QueueDatabase
from tests.integration.platform.stage import await_ready, await_true, get

# What each of the maintenance process's tasks cannot do without, and the work that it is for.
_NEEDED: Final = {
    "survey_windows(boolean)": "windows",
    "seal(integer)": "sealing",
    "service_stage()": "verifying",
    "synchronise_sessions(integer)": "synchronising",
}


@pytest.fixture
async def operator(company: Company, session: aiohttp.ClientSession) -> AsyncIterator[Operator]:
    """An operator who leaves nothing behind."""
    async with operate(company, session) as operator:
        yield operator


async def test_the_maintenance_process_stays_when_the_database_refuses_all_of_its_tasks(operator: Operator) -> None:
    """The function that each task needs is taken from its role, and given back.

    Meanwhile it lives, is not ready and names the works; each is logged once and counted, and not tried without pause.
    """
    maintenance = operator.company.maintenance
    told = len(maintenance.lines("database.refused"))

    def stuck() -> list[str]:
        status, body = get(maintenance.port, "/readyz")
        return list(json.loads(body).get("work", [])) if status == 503 else []

    for function in _NEEDED:
        await operator.owner.execute(f"revoke execute on function {function} from savings_maintenance")
    try:
        await asyncio.to_thread(await_true, lambda: set(stuck()) == set(_NEEDED.values()), "all tasks are stuck")
        assert maintenance.answers("/healthz")
        text = get(maintenance.port, "/metrics")[1].decode()
        for work in _NEEDED.values():
            assert f'savings_work_stuck{{work="{work}"}} 1.0' in text
            assert f'savings_database_refusals_total{{sqlstate="42501",work="{work}"}} ' in text
        assert "savings_service_ready 0.0" in text
        refused = "savings_window_tick_errors_total 0.0"
        assert refused in text, "a refusal counts as an error of our own"
    finally:
        for function in _NEEDED:
            await operator.owner.execute(f"grant execute on function {function} to savings_maintenance")
    await asyncio.to_thread(await_ready, maintenance)
    assert sorted(line["work"] for line in maintenance.lines("database.refused")[told:]) == sorted(_NEEDED.values())
    assert await operator.plan() > 0


@asynccontextmanager
async def _keeping(queue: QueueDatabase) -> AsyncIterator[tuple[Lease, Refusals, "asyncio.Task[None]"]]:
    log = structlog.stdlib.get_logger()
    database = Database(
        queue.postgres.outputs()["settlement_dsn"],
        DatabaseLimits(pool_size=1, acquire_within_s=5.0, statement_within_s=10.0),
        application="test",
        on_change=lambda _ready, _problem: None,
    )
    refusals = Refusals(log, CollectorRegistry())
    lease = Lease(database, "settlement", instance="test", log=log, refusals=refusals)
    connecting = asyncio.create_task(database.keep_connected())
    keeping = asyncio.create_task(lease.keep())
    try:
        yield lease, refusals, keeping
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await lease.release()
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await database.close()


async def _becomes(condition: Callable[[], bool]) -> None:
    async def ask() -> bool:
        return condition()

    async with asyncio.timeout(20):
        await until(ask, bool)


async def test_a_lease_that_the_database_refuses_is_asked_for_again(queue: QueueDatabase) -> None:
    """The function is taken from the role, and given back: lost meanwhile, then held, logged once."""
    take = "function take_lease(text, text, double precision)"
    with capture_logs() as lines:
        async with queue.connected() as owner, _keeping(queue) as (lease, refusals, keeping):
            await owner.execute("update lease set expires_at = '-infinity' where name = 'settlement'")
            await _becomes(lambda: lease.token is not None)
            await owner.execute(f"revoke execute on {take} from savings_settlement")
            try:
                await _becomes(lambda: lease.token is None and refusals.stuck == ("lease settlement",))
                assert not keeping.done()
            finally:
                await owner.execute(f"grant execute on {take} to savings_settlement")
            await _becomes(lambda: lease.token is not None)
            assert refusals.stuck == ()
    refused: list[Any] = [line for line in lines if line["event"] == "database.refused"]
    assert [(line["work"], line["sqlstate"]) for line in refused] == [("lease settlement", "42501")]
