"""Decisions: in order, on what is there then, by the holder of the lease, and only while settling is on."""

import asyncio
import json
import random

import asyncpg
import pytest

from tests.integration.platform.customers import until
from tests.integration.platform.queues import (
    BLOCKED,
    OPENING,
    QueueDatabase,
    Wish,
    ask,
    deposit,
    drain,
    gather_bounded,
    number_of,
    out_of_order,
    replayed,
    settle,
    take_lease,
    token_hash,
)


async def test_funds_are_checked_in_the_order_of_arrival(queue: QueueDatabase) -> None:
    """By hand: 1000 there; 600, 500, 300, 100 and 1 are asked for, then 50 after 50 came in; refused takes nothing."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as owner:
        token = await take_lease(owner)
        await ask(owner, [Wish(account, str(amount), amount) for amount in (600, 500, 300, 100, 1)])
        await drain(owner, token)
        await deposit(owner, account, "more", 50)
        await ask(owner, [Wish(account, "last", 50)])
        await drain(owner, token)
        rows = await owner.fetch(
            "select status, balance_after from outcome join redemption using (seq) where account = $1 order by seq",
            account,
        )
    assert [tuple(row) for row in rows] == [
        ("settled", 400), ("refused", 400), ("settled", 100), ("settled", 0), ("refused", 0), ("settled", 0)
    ]  # fmt: skip


async def test_a_deposit_that_waits_for_a_chunk_is_not_lost_and_not_counted_twice(queue: QueueDatabase) -> None:
    """A chunk holds the account; a deposit waits for it; both are in the balance, in the order of their numbers."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as settler, queue.connected("portal") as portal, queue.connected() as owner:
        token = await take_lease(owner)
        await ask(owner, [Wish(account, "r", 900)])
        chunk = settler.transaction()
        await chunk.start()
        await settle(settler, token)
        paying = asyncio.create_task(deposit(portal, account, "d", 70))
        async with asyncio.timeout(5):
            await until(lambda: owner.fetchval(BLOCKED), bool)
        await chunk.commit()
        await paying
        row = await owner.fetchrow("select balance, head from account where id = $1", account)
        kinds = await owner.fetch(
            "select kind from transfer where $1 in (debit_account, credit_account) order by seq", account
        )
        assert row["balance"] == OPENING - 900 + 70
        assert [kind["kind"] for kind in kinds] == ["seed", "redemption", "deposit"]
        assert await replayed(owner) == []


async def test_a_chunk_decides_on_a_deposit_that_it_had_to_wait_for(queue: QueueDatabase) -> None:
    """A deposit holds the account when the chunk comes: the chunk waits, and decides on the balance after it."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as payer, queue.connected() as settler, queue.connected() as owner:
        token = await take_lease(owner)
        await ask(owner, [Wish(account, "r", OPENING + 70)])
        paying = payer.transaction()
        await paying.start()
        await deposit(payer, account, "d", 70)
        chunk = asyncio.create_task(settle(settler, token))
        async with asyncio.timeout(5):
            await until(lambda: owner.fetchval(BLOCKED), bool)
        await paying.commit()
        assert (await chunk)["settled"] == 1
        assert await owner.fetchval("select balance from account where id = $1", account) == 0
        assert await replayed(owner) == []


async def test_frozen_and_undecidable_ones_are_parked_and_nothing_moves(queue: QueueDatabase) -> None:
    """A frozen account's are parked in their place, those around them decided; the freed account's next is decided."""
    frozen, free = await queue.new_customers(2)
    async with queue.connected() as owner:
        token = await take_lease(owner)
        await owner.execute("update account set frozen = true where id = $1", frozen)
        rows = await ask(owner, [Wish(free, "1", 5), Wish(frozen, "2", 5), Wish(free, "3", 5), Wish(frozen, "4", 5)])
        chunk = await settle(owner, token)
        assert (chunk["settled"], chunk["refused"], chunk["parked"]) == (2, 0, 2)
        await owner.execute("update account set frozen = false where id = $1", frozen)
        await ask(owner, [Wish(frozen, "5", 5)])
        await drain(owner, token)
        outcomes = await owner.fetch(
            "select status, reason from outcome where seq between $1 and $1 + 4 order by seq", number_of(rows[0])
        )
        assert [tuple(row) for row in outcomes] == [
            ("settled", None),
            ("parked", "account-frozen"),
            ("settled", None),
            ("parked", "account-frozen"),
            ("settled", None),
        ]
        assert await owner.fetchval("select balance from account where id = $1", frozen) == OPENING - 5
        assert await replayed(owner) == []


async def test_only_the_next_one_can_be_parked(queue: QueueDatabase) -> None:
    """Two wait: the second cannot be parked before the first, a decided one not again, one that is not there never."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as owner:
        token = await take_lease(owner)
        first, second = [number_of(row) for row in await ask(owner, [Wish(account, "1", 5), Wish(account, "2", 5)])]
        park = "select park_redemption($1, $2, 'undecidable: for a test')"
        assert [await owner.fetchval(park, token, number) for number in (second, first, first)] == [False, True, False]
        assert (await settle(owner, token))["settled"] == 1
        assert await owner.fetchval(park, token, second + 1) is False
        told = "select reason from read_redemptions($1, $2, $3, 1)"
        assert await owner.fetchval(told, token_hash(account), first, 2**62) == "undecidable"


async def test_a_lease_that_was_lost_has_no_effect(queue: QueueDatabase) -> None:
    """An old token, one that was never given, and an expired one: each is refused, and the queue is as it was."""
    (account,) = await queue.new_customers(1)
    async with queue.connected("settlement") as settler, queue.connected() as owner:
        old = await take_lease(owner, "old")
        new = await take_lease(owner, "new")
        assert new > old
        await ask(owner, [Wish(account, "r", 5)])
        whole = "select (select count(*) from outcome), (select count(*) from transfer), s from settlement s"
        before = await owner.fetchrow(whole)
        for token in (old, new + 1, -1):
            with pytest.raises(asyncpg.PostgresError, match="fenced") as refused:
                await settle(settler, token)
            assert refused.value.sqlstate == "SV001"
            with pytest.raises(asyncpg.PostgresError, match="fenced"):
                await settler.fetchval("select park_redemption($1, 1, 'x')", token)
        await owner.execute("update lease set expires_at = now() where name = 'settlement'")
        with pytest.raises(asyncpg.PostgresError, match="fenced"):
            await settle(settler, new)
        assert await owner.fetchrow(whole) == before
        await drain(owner, await take_lease(owner))


async def test_two_settlers_with_one_token_decide_nothing_twice(queue: QueueDatabase) -> None:
    """Six connections settle at once under the same token, as if there were no lease: one after the other, exactly."""
    accounts = await queue.new_customers(20)
    rng = random.Random(3)  # noqa: S311
    async with queue.connected() as owner:
        token = await take_lease(owner)
        await ask(owner, [Wish(rng.choice(accounts), f"r-{n}", rng.randint(1, 200)) for n in range(600)])

        async def settler() -> int:
            chunks = 0
            async with queue.connected("settlement") as connection:
                while await settle(connection, token, 7) is not None:
                    chunks += 1
            return chunks

        chunks = await gather_bounded(*(settler() for _ in range(6)))
        assert sum(chunk > 0 for chunk in chunks) > 1
        assert sum(chunks) == -(-600 // 7)
        assert await out_of_order(owner) == []
        assert await replayed(owner) == []


async def test_a_closing_service_waits_for_the_chunk_and_none_follows(queue: QueueDatabase) -> None:
    """A chunk is under way when a window closes the service: it is let finish, no other begins; intake goes on."""
    (account,) = await queue.new_customers(1)
    async with (
        queue.connected() as settler,
        queue.connected() as window,
        queue.connected("portal") as portal,
        queue.connected() as owner,
    ):
        token = await take_lease(owner)
        await ask(owner, [Wish(account, str(n), 1) for n in range(3)])
        chunk = settler.transaction()
        await chunk.start()
        await settle(settler, token, 2)
        closing = asyncio.create_task(window.execute("update service_state set stage = 'closed'"))
        async with asyncio.timeout(5):
            await until(lambda: owner.fetchval(BLOCKED), bool)
        await chunk.commit()
        await closing
        try:
            assert await settle(settler, token) is None
            assert (
                await settler.fetchval("select park_redemption($1, (select decided + 1 from settlement), 'x')", token)
                is False
            )
            (row,) = await ask(portal, [Wish(account, "while-closed", 1)])
            assert (row["outcome"], json.loads(row["response"])["place"]) == ("answered", 2)
        finally:
            await window.execute("update service_state set stage = 'open'")
        await drain(owner, token)
        assert await out_of_order(owner) == []
