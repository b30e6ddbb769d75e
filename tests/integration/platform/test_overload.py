"""Beyond what a node can serve in time it refuses early and on purpose, the most urgent last, and does not collapse."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.integration.platform.customers import Customer, Reply, at_rate, log_in, send, until
from tests.integration.platform.stage import Platform, Process, Stage, await_ready, get

_DEPOSIT_S = 0.1
_CONNECTIONS = 2
_CAPACITY = _CONNECTIONS / _DEPOSIT_S  # deposits a second, whatever the machine: each is made to sleep that long


@asynccontextmanager
async def owner(platform: Platform) -> AsyncIterator[Any]:
    """A connection as the database's owner."""
    connection = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def slow_deposits(platform: Platform) -> AsyncIterator[None]:
    """Each deposit takes at least `_DEPOSIT_S` in the database, without using the machine."""
    async with owner(platform) as connection:
        await connection.execute(
            "create function take_time() returns trigger language plpgsql as $$ begin"
            f" perform pg_sleep({_DEPOSIT_S}); return new; end $$;"
            " create trigger take_time before insert on transfer for each row"
            " when (new.kind = 'deposit') execute function take_time()"
        )
        try:
            yield
        finally:
            await connection.execute("drop trigger take_time on transfer; drop function take_time()")


@asynccontextmanager
async def held_accounts(platform: Platform, savers: list[Customer]) -> AsyncIterator[None]:
    """Nothing can be deposited to the savers' accounts meanwhile: deposits wait, redemptions are queued."""
    async with owner(platform) as connection, connection.transaction():
        await connection.execute(
            "select from account where id = any ($1) order by id for no key update", [saver.account for saver in savers]
        )
        yield


def in_flight(node: Process) -> float:
    """How many requests of customers the node works on."""
    lines = get(node.port, "/metrics")[1].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("savings_http_requests_in_flight "))


async def test_the_most_urgent_requests_are_the_last_to_be_refused(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """A node with room for 4: while 3 deposits hang, only a redemption and the status get in; then all do again."""
    node = stage.add_portal("portal-1", platform.postgres, MAX_IN_FLIGHT="4")
    await asyncio.to_thread(await_ready, node)
    url = f"http://127.0.0.1:{node.port}"
    savers = [await log_in(session, platform, number, url=url) for number in range(21, 25)]
    credentials = {key: platform.customers[25][key] for key in ("email", "password")}

    async def ask_everything() -> dict[str, Reply]:
        return {
            "log-in": await send(session, "POST", f"{url}/v1/sessions", json=credentials),
            "read": await savers[3].read("balance"),
            "deposit": await savers[3].order("deposits", {"amount": 1}),
            "redemption": await savers[3].order("redemptions", {"amount": 1}),
            "status": await savers[3].read("status"),
        }

    async with held_accounts(platform, savers[:3]):
        hanging = [asyncio.create_task(saver.order("deposits", {"amount": 1})) for saver in savers[:3]]
        async with asyncio.timeout(5):
            await until(lambda: asyncio.to_thread(in_flight, node), lambda number: number == 3)
        full = await ask_everything()
    assert [reply.status for reply in await asyncio.gather(*hanging)] == [201, 201, 201]
    assert {name: reply.status for name, reply in full.items()} == {
        "log-in": 503,
        "read": 503,
        "deposit": 503,
        "redemption": 202,
        "status": 200,
    }
    for name in ("log-in", "read", "deposit"):
        assert full[name].body["type"] == "shed"
        assert (full[name].headers["Retry-After"], full[name].headers["x-envoy-ratelimited"]) == ("1", "true")
    free = await ask_everything()
    assert {name: reply.status for name, reply in free.items()} == {
        "log-in": 201,
        "read": 200,
        "deposit": 201,
        "redemption": 202,
        "status": 200,
    }


@pytest.mark.prove  # how much is served in time is a matter of the machine as well
async def test_three_times_what_can_be_served_does_not_make_less_be_served(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """Deposits at three times the capacity for 3 s, through the balancer, with redemptions and reads among them.

    The node does one deposit each 50 ms whatever the machine, so its capacity is known. At least a third of it is
    used (without refusing: next to nothing, most tries end after the balancer's patience), nearly all redemptions are
    taken, hardly a refusal is a time limit, and as soon as one is served again, everything is.
    """
    node = stage.add_portal("portal-1", platform.postgres, DATABASE_POOL_SIZE=str(_CONNECTIONS))
    await asyncio.to_thread(await_ready, node)
    balancer = await asyncio.to_thread(stage.add_balancer, "balancer", [node])
    url = balancer.outputs()["url"]
    savers = [await log_in(session, platform, number, url=url) for number in range(30, 54)]

    async def deposit(number: int) -> Reply:
        return await savers[number % len(savers)].order("deposits", {"amount": 1})

    async def redeem(number: int) -> Reply:
        return await savers[number % len(savers)].order("redemptions", {"amount": 1})

    async with slow_deposits(platform):
        deposits, redemptions = await asyncio.gather(at_rate(3 * _CAPACITY, 3.0, deposit), at_rate(10, 3.0, redeem))
        async with asyncio.timeout(30):
            await until(lambda: deposit(0), lambda reply: reply.status == 201)
        afterwards = await at_rate(_CAPACITY / 4, 2.0, deposit)
    served = [reply for reply in deposits if reply.status == 201]
    refused = [reply for reply in deposits if reply.status != 201]
    assert len(served) > _CAPACITY * 3.0 / 3
    assert Counter((reply.status, reply.body["type"]) for reply in refused)[503, "shed"] > 0.9 * len(refused)
    assert len([reply for reply in redemptions if reply.status == 202]) > 0.9 * len(redemptions)
    assert [reply for reply in afterwards if reply.status != 201] == []
