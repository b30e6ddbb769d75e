"""What goes wrong again and again is in the log once for each reason."""

import asyncio

import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from system_under_test.logs import Troubles
from system_under_test.services.service import Service
from system_under_test.storage.database import Database, DatabaseLimits
from system_under_test.storage.lease import Lease


def test_a_problem_is_logged_when_it_is_new_and_when_it_comes_back() -> None:
    """Two problems by turns, four times a second for a minute, a pause of 5 s, the first again: three lines."""
    now_s = 0.0
    with capture_logs() as lines:
        troubles = Troubles(structlog.get_logger(), clock=lambda: now_s)
        for turn in range(240):
            troubles.warn("database.failed", problem=("refused", "late")[turn % 2], unknown=False)
            now_s += 0.25
        now_s += 5.0
        troubles.warn("database.failed", problem="refused", unknown=False)
    assert [line["problem"] for line in lines] == ["refused", "late", "refused"]
    assert {(line["event"], line["log_level"], line["unknown"]) for line in lines} == {
        ("database.failed", "warning", False)
    }


async def test_a_service_without_its_database_says_so_once() -> None:
    """Twenty questions and three tries for a lease, the database never reached: one line each."""
    database = Database(
        "postgresql://savings@127.0.0.1:1/savings",
        DatabaseLimits(pool_size=1, acquire_within_s=0.1, statement_within_s=1.0),
        application="test",
        on_change=lambda _ready, _problem: None,
    )
    with capture_logs() as lines:
        log = structlog.get_logger()
        service = Service(instance="test", log=log, database=database, registry=CollectorRegistry())
        for _ in range(20):
            assert await service.ask(lambda: database.row("select 1"), work="test", otherwise=None) is None
        lease = Lease(database, "accrual", instance="test", log=log, refusals=service.refusals)
        keeping = asyncio.create_task(lease.keep())
        await asyncio.wait({keeping}, timeout=0.8)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert [(line["event"], line["problem"]) for line in lines] == [
        ("database.failed", "the database has not been reached yet"),
        ("lease.unanswered", "the database has not been reached yet"),
    ]
