"""What a portal says when the database fails it: certain where it is certain, and nothing more."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import asyncpg
import pytest

from system_under_test.storage.database import Database, DatabaseLimits, NotDoneError
from tests.integration.platform.customers import Customer, Reply, log_in, until
from tests.integration.platform.stage import Platform, Stage, await_ready

_BLOCKED = "select pid from pg_locks where not granted"


@asynccontextmanager
async def locked(platform: Platform, account: str) -> AsyncIterator[Any]:
    """Keeps an account locked; gives the connection that does."""
    owner = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    try:
        async with owner.transaction():
            await owner.execute("select from account where id = $1 for update", account)
            yield owner
    finally:
        await owner.close()


async def test_an_order_whose_connection_is_lost_may_have_happened(platform: Platform, customer: Customer) -> None:
    """Ends the database process that carries out an order: 503 without Retry-After; the key then has one effect."""
    direct = replace(customer, url=f"http://127.0.0.1:{platform.portals[0].port}")
    before = (await direct.balance())["balance"]
    async with locked(platform, customer.account) as owner:
        order = asyncio.create_task(direct.order("deposits", {"amount": 9}, key="lost"))
        async with asyncio.timeout(5):
            pid = await until(lambda: owner.fetchval(_BLOCKED), bool)
        os.kill(pid, signal.SIGTERM)
        reply = await order
    assert (reply.status, reply.body["type"]) == (503, "outcome-unknown")
    assert "Retry-After" not in reply.headers
    assert "x-envoy-ratelimited" not in reply.headers, "the balancer should try elsewhere"
    again = await direct.order("deposits", {"amount": 9}, key="lost")
    assert (again.status, again.body["balance"]) == (201, before + 9)


async def test_the_balancer_carries_such_an_order_to_its_end(platform: Platform, customer: Customer) -> None:
    """The same through the balancer, which knows the key: the client sees one success, the balance moves once."""
    before = (await customer.balance())["balance"]
    async with locked(platform, customer.account) as owner:
        order = asyncio.create_task(customer.order("deposits", {"amount": 9}))
        async with asyncio.timeout(5):
            pid = await until(lambda: owner.fetchval(_BLOCKED), bool)
        os.kill(pid, signal.SIGTERM)
    reply = await order
    assert reply.status == 201
    assert int(reply.headers["x-envoy-attempt-count"]) > 1
    assert (await customer.balance())["balance"] == before + 9


async def test_an_order_that_the_database_never_took_on_is_certainly_not_done(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """One connection, an account locked: the first order meets the statement's limit, the second gets no connection.

    Both are 503 with Retry-After and the balancer's mark, and nothing has moved.
    """
    node = stage.add_portal(
        "portal-1", platform.postgres, DATABASE_POOL_SIZE="1", STATEMENT_SECONDS="0.6", ACQUIRE_SECONDS="0.2"
    )
    await asyncio.to_thread(await_ready, node)
    saver = await log_in(session, platform, 19, url=f"http://127.0.0.1:{node.port}")
    before = await saver.balance()
    async with locked(platform, saver.account) as owner:
        first = asyncio.create_task(saver.order("deposits", {"amount": 9}))
        async with asyncio.timeout(5):
            await until(lambda: owner.fetchval(_BLOCKED), bool)
        second = await saver.order("deposits", {"amount": 9})
        replies: list[Reply] = [await first, second]
    for reply in replies:
        assert (reply.status, reply.body["type"]) == (503, "database-unavailable")
        assert (reply.headers["Retry-After"], reply.headers["x-envoy-ratelimited"]) == ("1", "true")
    assert await saver.balance() == before


@pytest.mark.parametrize("state", ["53100", "53200", "58030", "25006"])
async def test_a_database_that_cannot_at_the_moment_has_certainly_done_nothing(platform: Platform, state: str) -> None:
    """A full disk, no memory, a failing device, a read-only database, as the server tells them: to be tried again."""
    limits = DatabaseLimits(pool_size=2, acquire_within_s=5.0, statement_within_s=5.0)
    database = Database(
        platform.postgres.outputs()["dsn"], limits, application="test", on_change=lambda _ready, _problem: None
    )
    connecting = asyncio.create_task(database.keep_connected())
    try:
        async with asyncio.timeout(10):
            while not database.ready:  # noqa: ASYNC110  (it offers no event)
                await asyncio.sleep(0.01)
        with pytest.raises(NotDoneError):
            await database.row(f"do $$ begin raise exception 'planted' using errcode = '{state}'; end $$")
    finally:
        connecting.cancel()
        await database.close()
