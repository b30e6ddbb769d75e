"""The gate on real processes: what the maintenance process finds wrong closes reads on every node, and nothing else."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest

from system_under_test.storage.migrate import SCHEMA
from tests.integration.platform.customers import Customer, log_in, until
from tests.integration.platform.operations import Company, Operator, operate
from tests.integration.platform.stage import PATIENT, Platform, Stage, await_ready, get


@pytest.fixture
async def operator(company: Company, session: aiohttp.ClientSession) -> AsyncIterator[Operator]:
    """An operator who leaves nothing behind."""
    async with operate(company, session) as operator:
        yield operator


@pytest.fixture
async def saver(company: Company, session: aiohttp.ClientSession) -> Customer:
    """A customer, logged in."""
    platform = Platform(
        stage=company.stage,
        postgres=company.postgres,
        portals=company.portals,
        balancer=company.balancer,
        customers=company.customers,
    )
    return await log_in(session, platform, 7)


async def test_a_wrong_balance_closes_reads_alone_until_it_is_mended(operator: Operator, saver: Customer) -> None:
    """Falsifies the cached balance of an account that has just been paid into, with no window anywhere near.

    Reads answer 503 with Retry-After, on every node, and the log names the row; redemptions are still accepted, and
    deposits with a receipt that tells no balance; nodes stay ready, nothing is settled. Mended, all goes on by itself
    and the redemption is settled.
    """

    async def falsify(units: int) -> None:
        async with operator.owner.transaction():
            await operator.owner.execute("alter table account disable trigger user")
            await operator.owner.execute(
                "update account set balance = balance + $2 where id = $1", saver.account, units
            )
            await operator.owner.execute("alter table account enable trigger user")

    await falsify(1)
    try:
        assert (await saver.order("deposits", {"amount": 500})).status == 201
        async with asyncio.timeout(20):
            refused = await until(lambda: saver.read("balance"), lambda reply: reply.status == 503)
        taken = await saver.order("redemptions", {"amount": 5})
        paid_in = await saver.order("deposits", {"amount": 7})
        ready = [get(portal.port, "/readyz")[0] for portal in operator.company.portals]
        state = await operator.owner.fetchrow("select stage, gate, gate_reason from service_state")
        decided = await operator.owner.fetchval("select decided >= $1 from settlement", taken.body["id"])
    finally:
        await falsify(-1)
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["x-envoy-ratelimited"] == "true"
    assert (taken.status, decided, set(ready)) == (202, False, {200})
    assert ("balance" in paid_in.body, paid_in.body["balance_withheld"]) == (False, "closed")
    assert (state["stage"], state["gate"]) == ("open", "shut")
    assert f"account {saver.account}: expected" in state["gate_reason"]
    wrong = operator.company.maintenance.lines("ledger.wrong")
    assert any(f"account {saver.account}: expected" in problem for line in wrong for problem in line["problems"])
    async with asyncio.timeout(20):
        await until(lambda: saver.read("balance"), lambda reply: reply.status == 200)
        await until(lambda: saver.decided(taken.body["id"]), lambda decision: decision["status"] == "settled")


async def test_no_balance_is_told_before_the_ledger_was_verified_once(
    stage: Stage, session: aiohttp.ClientSession
) -> None:
    """A new platform without its maintenance process: reads are closed and orders taken; it comes, and reads open.

    The step that shuts it does not shut that of a database that has served.
    """
    postgres = await asyncio.to_thread(stage.add_database, verified=False)
    portal = stage.add_portal("portal-1", postgres, **PATIENT)
    await asyncio.to_thread(await_ready, portal)
    platform = Platform(
        stage=stage,
        postgres=postgres,
        portals=[portal],
        balancer=portal,
        customers=await asyncio.to_thread(stage.seed, postgres, customers=1),
    )
    saver = await log_in(session, platform, 0, url=f"http://127.0.0.1:{portal.port}")
    closed, taken, status = [
        await saver.read("balance"),
        await saver.order("redemptions", {"amount": 5}),
        await saver.read("status"),
    ]
    assert (closed.status, closed.body["type"], taken.status) == (503, "closed", 202)
    assert (status.body["stage"], status.body["gate"], status.body["balances"]) == ("open", "shut", "closed")
    await asyncio.to_thread(stage.add_maintenance, postgres)
    async with asyncio.timeout(20):
        opened = await until(lambda: saver.read("balance"), lambda reply: reply.status == 200)
    assert opened.body["balance"] == int(platform.customers[0]["opening_balance"])

    owner = await asyncpg.connect(postgres.outputs()["admin_dsn"], timeout=5)
    try:
        await owner.execute((SCHEMA / "0015_gate.sql").read_text(encoding="utf-8"))
        assert await owner.fetchval("select gate from service_state") == "open"
    finally:
        await owner.close(timeout=5)
