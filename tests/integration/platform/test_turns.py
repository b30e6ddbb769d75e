"""What is done by one after the other waits for its turn, which no role can keep from the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg
import pytest

from system_under_test.storage.migrate import Step, migrate, read_steps
from tests.integration.platform.customers import until
from tests.integration.platform.queues import BLOCKED, QueueDatabase, deposit
from tests.integration.platform.test_segregation import ROLES

_RECORD: Final = f"select record_reconciliation({', '.join(['null'] * 17)})"
# A turn, and what waits for it; a lock that is not given within the time is 55P03.
_WAITERS: Final = {
    "business_clock": "select set_business_clock(null, null)",
    "accrual_hour": "insert into account (id, kind, wallet, balance) values ('c-turn', 'customer', 'a', 0)",
    "maintenance_window": "select schedule_window(business_now() + interval '30 hours', 30, 'r', interval '0')",
    "sealed_batch": "select seal()",
    "reconciliation": _RECORD,
}


@pytest.fixture
async def owner(queue: QueueDatabase) -> AsyncIterator[Any]:
    """A connection as the owner, with something that is not sealed yet."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as owner:
        await deposit(owner, account, "unsealed", 1)
        yield owner


async def _waits(owner: Any, statement: str) -> bool:
    """Whether a statement, undone afterwards, waits for a lock; what it says against its arguments does not matter."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute("set local lock_timeout = '100ms'")
        await owner.execute(statement)
    except asyncpg.LockNotAvailableError:
        return True
    except asyncpg.InsufficientPrivilegeError:
        assert statement == _RECORD, "only this one comes without what it needs"
    finally:
        await transaction.rollback()
    return False


@pytest.mark.parametrize("turn", _WAITERS)
async def test_what_is_done_one_after_the_other_waits_for_its_turn(queue: QueueDatabase, owner: Any, turn: str) -> None:
    """Keeps the turn's row, then every other turn's: what it is for waits for this one alone."""
    async with queue.connected() as keeper:
        for kept, waits in (("name = $1", True), ("name <> $1", False)):
            async with keeper.transaction():
                await keeper.execute(f"select from turn where {kept} for update", turn)
                assert await _waits(owner, _WAITERS[turn]) is waits, kept


async def test_no_advisory_lock_of_any_role_makes_anything_wait(queue: QueueDatabase, owner: Any) -> None:
    """Each role keeps an advisory lock on each turn's name, and on it alone: what has a turn is done all the same."""
    async with AsyncExitStack() as stack:
        for role in ROLES:
            connection = await stack.enter_async_context(queue.connected(role.replace("-", "_")))
            for turn in _WAITERS:
                await connection.execute("select pg_try_advisory_lock(hashtext($1))", turn)
        assert await owner.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == len(_WAITERS)
        assert [turn for turn, statement in _WAITERS.items() if await _waits(owner, statement)] == []
    assert await owner.fetchval("select count(*) from pg_proc where prosrc ~* 'advisory' and prolang <> 12") == 0


async def test_of_two_migrations_at_once_each_step_is_done_by_one(queue: QueueDatabase, owner: Any) -> None:
    """Both find the step missing while a third keeps the table of steps; let go, one applies it. No advisory lock."""
    steps = read_steps()
    new = Step(version=len(steps) + 1, name="9999_once.sql", sql="create table once (x integer)")
    async with queue.connected() as one, queue.connected() as other:
        try:
            async with owner.transaction():
                await owner.execute("lock table schema_step in share row exclusive mode")
                both = asyncio.gather(*(migrate(each, (*steps, new)) for each in (one, other)))
                async with asyncio.timeout(10):
                    await until(lambda: owner.fetch(BLOCKED), lambda waiting: len(waiting) == 2)
                assert await owner.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
            assert sorted(await both, key=len) == [(), (new,)]
        finally:
            await owner.execute("drop table if exists once")
            await owner.execute("delete from schema_step where version = $1", new.version)
