"""What the database refuses is logged once for each kind, counted, and tried again; our own errors are not."""

import asyncpg
import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from system_under_test.refusals import Refusals
from system_under_test.services.service import Service
from system_under_test.storage.database import Database, DatabaseLimits


def test_pauses_grow_to_two_seconds_and_begin_anew_after_an_answer() -> None:
    """Six refusals in a row, an answer, one more."""
    refusals = Refusals(structlog.get_logger(), CollectorRegistry())
    error = asyncpg.UndefinedFunctionError("no function seal")
    assert [refusals.refused("sealing", error) for _ in range(6)] == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    refusals.answered("sealing")
    assert refusals.refused("sealing", error) == 0.25


def test_each_kind_is_logged_once_and_each_refusal_counted() -> None:
    """Two kinds by turns for one work, whose texts differ each time, and one of them for another work."""
    registry = CollectorRegistry()
    with capture_logs() as lines:
        refusals = Refusals(structlog.get_logger(), registry)
        for number in range(5):
            refusals.refused("sealing", asyncpg.UndefinedFunctionError(f"no function, {number}"))
            refusals.refused("sealing", asyncpg.InsufficientPrivilegeError(f"not allowed, {number}"))
        refusals.refused("verifying", asyncpg.UndefinedFunctionError("no function"))
        refusals.answered("sealing")
    assert [(line["event"], line["work"], line.get("sqlstate")) for line in lines] == [
        ("database.refused", "sealing", "42883"),
        ("database.refused", "sealing", "42501"),
        ("database.refused", "verifying", "42883"),
        ("database.refuses_no_more", "sealing", None),
    ]
    count = {"work": "sealing", "sqlstate": "42501"}
    assert registry.get_sample_value("savings_database_refusals_total", count) == 5
    assert registry.get_sample_value("savings_work_stuck", {"work": "sealing"}) == 0
    assert registry.get_sample_value("savings_work_stuck", {"work": "verifying"}) == 1


def test_a_work_is_stuck_until_it_is_answered_or_nobody_tries_it_any_more() -> None:
    """One refusal; 19 s later it counts still, 20 s later it does not; tried again, it is logged again."""
    now_s = 0.0
    registry = CollectorRegistry()
    with capture_logs() as lines:
        refusals = Refusals(structlog.get_logger(), registry, clock=lambda: now_s)
        for _ in range(2):
            refusals.refused("parking", asyncpg.UndefinedFunctionError("no function"))
            now_s += 19.0
            assert list(refusals.stuck) == ["parking"]
            now_s += 1.0
            assert list(refusals.stuck) == []
            assert registry.get_sample_value("savings_work_stuck", {"work": "parking"}) == 0
    assert len(lines) == 2


async def test_an_error_of_our_own_is_nobodys_to_try_again() -> None:
    """A question that breaks in Python: the error comes through, and nothing counts as refused."""
    database = Database(
        "postgresql://savings@127.0.0.1:1/savings",
        DatabaseLimits(pool_size=1, acquire_within_s=0.1, statement_within_s=1.0),
        application="test",
        on_change=lambda _ready, _problem: None,
    )
    service = Service(instance="test", log=structlog.get_logger(), database=database, registry=CollectorRegistry())

    async def broken() -> int:
        return len(None)  # type: ignore[arg-type]

    with pytest.raises(TypeError):
        await service.ask(broken, work="test", otherwise=0)
    assert service.refusals.stuck == ()
